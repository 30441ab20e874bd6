//! Batches of records, and what they say of the time.
//!
//! In a topic that stamps appends the broker changes nothing of a batch but its greatest time and the
//! type: every record was enqueued at that time, whatever its own says.

use super::unpack::unpack;
use super::wire::{Cursor, Malformed};

/// Of a batch: what stands before its records.
pub(super) const HEAD: usize = 61;
/// Offset and length, which are there in every format.
pub(super) const PREFIX: usize = 12;

/// When a record was enqueued, in milliseconds of the platform's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamped {
    /// By the broker.
    Append(u64),
    /// The record carries a time of its writer, or none: nobody knows.
    Create,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'b> {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) stamped: Stamped,
    pub(crate) key: &'b [u8],
    pub(crate) value: &'b [u8],
    pub(crate) headers: Headers<'b>,
}

/// Names and values, which are read only where somebody looks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Headers<'b> {
    bytes: &'b [u8],
}

impl<'b> Headers<'b> {
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> {
        let mut cursor = Cursor::new(self.bytes);
        let count = cursor.varint().unwrap_or(0);
        let header = move |_| {
            let name = cursor.short_bytes().ok()?;
            Some((name, cursor.short_bytes().ok()?))
        };
        (0..count).map_while(header)
    }

    /// The first one of this name, whatever its case.
    pub(crate) fn get(self, name: &str) -> Option<&'b [u8]> {
        let is_meant = |found: &[u8]| found.eq_ignore_ascii_case(name.as_bytes());
        self.iter().find_map(|(found, value)| is_meant(found).then_some(value))
    }
}

/// What stands before the records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) base: u64,
    magic: i8,
    attributes: i16,
    last_delta: u32,
    max_time_ms: i64,
    pub(super) producer: i64,
    pub(super) n_records: u64,
}

impl Head {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut head = Cursor::new(bytes);
        let base = u64::try_from(head.i64()?).map_err(|_| Malformed::Bad("an offset below 0"))?;
        head.take(8)?;
        let magic = head.i8()?;
        if magic != 2 {
            // One message of the formats before 0.11; its offset is where it ends.
            let (attributes, last_delta, max_time_ms, producer) = (0, 0, 0, -1);
            return Ok(Self {
                base,
                magic,
                attributes,
                last_delta,
                max_time_ms,
                producer,
                n_records: 1,
            });
        }
        head.take(4)?;
        let (attributes, last_delta) = (head.i16()?, head.i32()?);
        head.i64()?;
        let (max_time_ms, producer) = (head.i64()?, head.i64()?);
        head.take(6)?;
        let n_records = head.i32()?;
        let not_negative = |n: i32| u32::try_from(n).map_err(|_| Malformed::Bad("a count below 0"));
        let (last_delta, n_records) = (not_negative(last_delta)?, not_negative(n_records)?);
        let n_records = u64::from(n_records);
        Ok(Self { base, magic, attributes, last_delta, max_time_ms, producer, n_records })
    }

    /// The offset after the batch.
    pub(super) fn next(&self) -> u64 {
        self.base.saturating_add(u64::from(self.last_delta)).saturating_add(1)
    }

    pub(super) fn is_transactional(&self) -> bool {
        self.attributes & 1 << 4 != 0
    }

    /// A marker of a transaction, which is no event.
    pub(super) fn is_control(&self) -> bool {
        self.attributes & 1 << 5 != 0
    }

    pub(super) fn is_readable(&self) -> bool {
        self.magic == 2
    }

    fn stamped(&self) -> Stamped {
        match (self.attributes & 1 << 3, u64::try_from(self.max_time_ms)) {
            (0, _) | (_, Err(_)) => Stamped::Create,
            (_, Ok(ms)) => Stamped::Append(ms),
        }
    }
}

/// Hands on every record of a batch; how many there were. What cannot be read ends it.
pub(super) fn records(
    partition: u32,
    head: &Head,
    bytes: &[u8],
    scratch: &mut Vec<u8>,
    mut each: impl FnMut(Record<'_>),
) -> u64 {
    let Some(packed) = bytes.get(HEAD..) else { return 0 };
    let body = match (head.attributes & 0b111) as u8 {
        0 => packed,
        kind if unpack(kind, packed, scratch).is_ok() => scratch.as_slice(),
        _ => return 0,
    };
    let stamped = head.stamped();
    let mut body = Cursor::new(body);
    let mut n = 0;
    while n < head.n_records {
        let Ok((delta, key, value, headers)) = record(&mut body) else { break };
        let offset = head.base.saturating_add(delta);
        each(Record { partition, offset, stamped, key, value, headers });
        n += 1;
    }
    n
}

/// Distance from the base, key, value, headers.
type Parts<'b> = (u64, &'b [u8], &'b [u8], Headers<'b>);

fn record<'b>(body: &mut Cursor<'b>) -> Result<Parts<'b>, Malformed> {
    let mut record = Cursor::new(body.short_bytes()?);
    record.i8()?;
    record.varint()?;
    let delta =
        u32::try_from(record.varint()?).map_err(|_| Malformed::Bad("an offset out of range"))?;
    let (key, value) = (record.short_bytes()?, record.short_bytes()?);
    Ok((u64::from(delta), key, value, Headers { bytes: record.rest }))
}
