//! One histogram layout per protocol version, and a decoder that trusts nobody.
//!
//! Layout: 1 µs to 1 h, three significant digits, V2 bytes. `hdrhistogram` records, and that is all: it
//! believes the lengths in a message's header (40 bytes can make it allocate 1.9 GiB), so bytes are read
//! and written by [`Sparse`], which compares every header field with the constants of the layout first.

use hdrhistogram::Histogram;

mod exponential;
mod sparse;
#[cfg(test)]
mod whole;

pub use exponential::Exponential;
pub use sparse::Sparse;

pub const LOWEST_US: u64 = 1;
pub const HIGHEST_US: u64 = 3_600_000_000;
pub const SIGNIFICANT_DIGITS: u8 = 3;

/// Buckets of the layout.
const BUCKETS: u64 = 23_552;
/// Largest encoding that the layout can produce, with room: every bucket in at most 9 bytes.
const MAX_PAYLOAD: usize = BUCKETS as usize * 9;
const HEADER: usize = 40;
/// V2 without compression, one-byte counts of varying length (`0x1c849303 | 0x10`).
const COOKIE: u32 = 0x1c84_9313;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("histogram of {found} bytes: at least {HEADER} are expected")]
    Short { found: usize },
    #[error("histogram header field `{field}` is {found}: {expected} is expected")]
    Header { field: &'static str, found: u64, expected: u64 },
    #[error("histogram payload is malformed: {why}")]
    Payload { why: String },
}

/// For recording: it grows to the layout as far as values ask for it, and most seconds of most series ask
/// for a tenth of it, which is what then need not be cleared for each.
pub fn growing() -> Histogram<u64> {
    Histogram::new(SIGNIFICANT_DIGITS).expect("a legal precision")
}

/// What follows a header that is exactly our layout's.
fn payload_of(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    if bytes.len() < HEADER {
        return Err(DecodeError::Short { found: bytes.len() });
    }
    let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let payload = bytes.len() - HEADER;
    let fields = [
        ("cookie", u64::from(u32_at(0)), u64::from(COOKIE)),
        ("payload length", u64::from(u32_at(4)), payload.min(MAX_PAYLOAD) as u64),
        ("normalizing offset", u64::from(u32_at(8)), 0),
        ("digits", u64::from(u32_at(12)), u64::from(SIGNIFICANT_DIGITS)),
        ("lowest", u64_at(16), LOWEST_US),
        ("highest", u64_at(24), HIGHEST_US),
        ("ratio", u64_at(32), 1f64.to_bits()),
    ];
    for (field, found, expected) in fields {
        if found != expected {
            return Err(DecodeError::Header { field, found, expected });
        }
    }
    Ok(&bytes[HEADER..])
}

/// What stands before `payload` bytes of our layout.
fn header(payload: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[0..4].copy_from_slice(&COOKIE.to_be_bytes());
    bytes[4..8].copy_from_slice(&payload.to_be_bytes());
    bytes[12..16].copy_from_slice(&u32::from(SIGNIFICANT_DIGITS).to_be_bytes());
    bytes[16..24].copy_from_slice(&LOWEST_US.to_be_bytes());
    bytes[24..32].copy_from_slice(&HIGHEST_US.to_be_bytes());
    bytes[32..40].copy_from_slice(&1f64.to_be_bytes());
    bytes
}

/// Walks the ZigZag varints and hands over every bucket that has a count. A run of zeros must not
/// lead past the layout's last bucket (the crate negates it unchecked), and all counts together
/// must fit.
fn walk(mut payload: &[u8], mut found: impl FnMut(u64, u64)) -> Result<(), DecodeError> {
    let malformed = |why: &str| DecodeError::Payload { why: why.to_owned() };
    let (mut at, mut total) = (0u64, 0u64);
    while !payload.is_empty() {
        let (mut value, mut used) = (0u64, 0usize);
        loop {
            let byte = *payload.get(used).ok_or_else(|| malformed("a number is cut off"))?;
            used += 1;
            if used == 9 {
                value |= u64::from(byte) << 56;
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * (used - 1));
            if byte & 0x80 == 0 {
                break;
            }
        }
        payload = &payload[used..];
        let signed = ((value >> 1) as i64) ^ -((value & 1) as i64);
        let step = if signed < 0 {
            signed.unsigned_abs()
        } else {
            total = total
                .checked_add(signed as u64)
                .ok_or_else(|| malformed("the counts do not fit in 64 bits"))?;
            1
        };
        if at.saturating_add(step) > BUCKETS {
            return Err(malformed("it holds more buckets than the layout"));
        }
        if signed > 0 {
            found(at, signed as u64);
        }
        at += step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::whole::{decode, empty, encode};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_has_as_many_buckets_as_it_says() {
        assert_eq!(empty().distinct_values() as u64, BUCKETS);
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(values in proptest::collection::vec(0..HIGHEST_US, 0..200)) {
            let mut histogram = empty();
            for value in values {
                histogram.saturating_record(value);
            }
            prop_assert_eq!(decode(&encode(&histogram)), Ok(histogram));
        }

        #[test]
        fn hostile_bytes_are_refused_without_harm(
            flips in proptest::collection::vec((0usize..120, any::<u8>()), 1..8),
            cut in 0usize..140,
        ) {
            let mut histogram = empty();
            for value in 0..100 {
                histogram.saturating_record(value * value * 1000);
            }
            let mut bytes = encode(&histogram);
            for (at, byte) in flips {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Ok(decoded) = decode(&bytes) {
                prop_assert!(decoded.distinct_values() == histogram.distinct_values());
            }
        }

        #[test]
        fn random_payloads_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = encode(&empty());
            bytes.truncate(HEADER);
            bytes[4..8].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
            bytes.extend(payload);
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_header_that_asks_for_gigabytes_is_refused() {
        let mut bytes = encode(&empty());
        bytes.truncate(HEADER);
        bytes[4..8].copy_from_slice(&2_000_000_000u32.to_be_bytes());
        assert!(matches!(decode(&bytes), Err(DecodeError::Header { field: "payload length", .. })));
        bytes[4..8].copy_from_slice(&0u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
        assert!(matches!(decode(&bytes), Err(DecodeError::Header { field: "highest", .. })));
    }
}
