//! The request log: single requests, a share of them or all, for whom a histogram is not enough.
//!
//! Which ones are kept is a pure function of (seed, series, device, number), so that neither the
//! number of agents nor of cores changes it, and a pinned seed picks the same again. A [`RequestLog`] holds them
//! as bytes in the order of their ends; it is bounded, and what finds no room is counted. Those bytes
//! are the value: checked once where they come in, and read without copying.

use crate::ids::{SeriesId, StageId};
use crate::outcome::ErrorClass;
use crate::receipts::{push_varint, take_varint};
use crate::units::millionths;

/// One log holds no more: of one agent for one window, or for the windows of one delta.
pub const MAX_BYTES: usize = 256 * 1024;
/// What all logs of a run may take in the store.
pub const MAX_RUN_BYTES: u64 = 256 * 1024 * 1024;
/// Device ids and error texts are cut here.
const MAX_DEVICE: usize = 128;
const MAX_TEXT: usize = 160;

/// The share of requests that is logged, in millionths; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling(u32);

/// What makes a request itself, whoever sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKey {
    pub series: SeriesId,
    pub device: u64,
    /// How often the device changed hands.
    pub incarnation: u32,
    /// Counts the requests of a series of a device.
    pub number: u64,
}

impl Sampling {
    pub const ALL: Self = Self(1_000_000);
    /// Where nothing is said.
    pub const DEFAULT: Self = Self(10_000);

    /// `None`: a share of nothing, or of more than all.
    pub fn from_millionths(millionths: u32) -> Option<Self> {
        (1..=Self::ALL.0).contains(&millionths).then_some(Self(millionths))
    }

    /// `1%`, `0.05%`, `100%`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_millionths(millionths(text)?)
    }

    pub fn millionths(self) -> u32 {
        self.0
    }

    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 1e6
    }

    pub fn takes(self, seed: u64, key: RequestKey) -> bool {
        if self == Self::ALL {
            return true;
        }
        let incarnation = u64::from(key.incarnation) << 32 | u64::from(key.series.0);
        let words = [incarnation, key.device, key.number];
        let hash = words.iter().fold(seed ^ SALT, |state, word| mix(state ^ word));
        // The upper bits, as a fraction of all: what a small share takes a greater one takes too.
        (u128::from(hash) * 1_000_000) >> 64 < u128::from(self.0)
    }
}

/// Values are made of the same seed; a log that follows them would be no sample.
const SALT: u64 = 0x7265_7175_6573_7473;

fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A request that has ended: an attempt that its series counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    pub series: SeriesId,
    pub stage: StageId,
    /// The device's id.
    pub device: &'a str,
    /// Run time of the real send.
    pub sent_us: u64,
    /// Real send − intended; `None` in the closed model, where nothing was intended.
    pub lag_us: Option<u64>,
    /// Done − real send; `None` where nothing answers, or nothing could any more.
    pub service_us: Option<u64>,
    /// Of the payload that was published, or of the reply's body.
    pub bytes: u64,
    /// Of an HTTP reply.
    pub status: Option<u16>,
    pub end: End<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End<'a> {
    /// Answered as expected.
    Acked,
    /// Handed to the socket; nothing answers it.
    Sent,
    Failed(ErrorClass, &'a str),
}

impl Request<'_> {
    /// Done − intended.
    pub fn response_us(&self) -> Option<u64> {
        Some(self.lag_us?.saturating_add(self.service_us?))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestLog {
    /// Rows, each after its length.
    bytes: Vec<u8>,
    rows: u64,
    dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request log: {0}")]
pub struct BadRequestLog(&'static str);

impl RequestLog {
    /// From untrusted bytes.
    pub fn from_bytes(bytes: Vec<u8>, dropped: u64) -> Result<Self, BadRequestLog> {
        if bytes.len() > MAX_BYTES {
            return Err(BadRequestLog("longer than one may be"));
        }
        let (mut rest, mut rows) = (bytes.as_slice(), 0);
        while !rest.is_empty() {
            let row = take_row(&mut rest).ok_or(BadRequestLog("a row is cut off"))?;
            read(row).ok_or(BadRequestLog("a row cannot be read"))?;
            rows += 1;
        }
        Ok(Self { bytes, rows, dropped })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Those that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0 && self.dropped == 0
    }

    pub fn push(&mut self, request: &Request<'_>) {
        let mut row = Vec::with_capacity(64);
        write(request, &mut row);
        self.push_row(&row);
    }

    fn push_row(&mut self, row: &[u8]) {
        let before = self.bytes.len();
        push_varint(&mut self.bytes, row.len() as u64);
        self.bytes.extend_from_slice(row);
        if self.bytes.len() > MAX_BYTES {
            self.bytes.truncate(before);
            self.dropped += 1;
        } else {
            self.rows += 1;
        }
    }

    /// Adds what came later; whatever finds no room is counted.
    pub fn absorb(&mut self, later: Self) {
        self.dropped += later.dropped;
        if self.bytes.len() + later.bytes.len() <= MAX_BYTES {
            self.rows += later.rows;
            self.bytes.extend_from_slice(&later.bytes);
            return;
        }
        let mut rest = later.bytes.as_slice();
        while let Some(row) = take_row(&mut rest) {
            self.push_row(row);
        }
    }

    /// Forgets the rows, but not that there were some.
    pub fn drop_rows(&mut self) {
        self.dropped += self.rows;
        self.rows = 0;
        self.bytes = Vec::new();
    }

    pub fn iter(&self) -> impl Iterator<Item = Request<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || read(take_row(&mut rest)?))
    }
}

const HAS_LAG: u64 = 1;
const HAS_SERVICE: u64 = 2;
const HAS_STATUS: u64 = 4;
const ACKED: u64 = 8;
const FAILED: u64 = 16;

fn write(request: &Request<'_>, out: &mut Vec<u8>) {
    let flag = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
    let flags = flag(request.lag_us.is_some(), HAS_LAG)
        | flag(request.service_us.is_some(), HAS_SERVICE)
        | flag(request.status.is_some(), HAS_STATUS)
        | flag(request.end == End::Acked, ACKED)
        | flag(matches!(request.end, End::Failed(..)), FAILED);
    push_varint(out, flags);
    push_varint(out, u64::from(request.series.0));
    push_varint(out, u64::from(request.stage.0));
    push_varint(out, request.sent_us);
    push_varint(out, request.bytes);
    let optional = [request.lag_us, request.service_us, request.status.map(u64::from)];
    optional.into_iter().flatten().for_each(|number| push_varint(out, number));
    push_text(out, request.device, MAX_DEVICE);
    if let End::Failed(class, text) = request.end {
        push_text(out, class.word(), MAX_TEXT);
        push_text(out, text, MAX_TEXT);
    }
}

fn push_text(out: &mut Vec<u8>, text: &str, most: usize) {
    let text = &text[..text.floor_char_boundary(most)];
    push_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn take_row<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(rest)?).ok()?;
    rest.split_off(..len)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take_row(rest)?).ok()
}

/// What a later release writes behind the known is passed over.
fn read(row: &[u8]) -> Option<Request<'_>> {
    let mut rest = row;
    let flags = take_varint(&mut rest)?;
    let short = |rest: &mut &[u8]| u32::try_from(take_varint(rest)?).ok();
    let series = SeriesId(short(&mut rest)?);
    let stage = StageId(short(&mut rest)?);
    let (sent_us, bytes) = (take_varint(&mut rest)?, take_varint(&mut rest)?);
    let mut optional = |flag: u64| match flags & flag {
        0 => Some(None),
        _ => take_varint(&mut rest).map(Some),
    };
    let (lag_us, service_us) = (optional(HAS_LAG)?, optional(HAS_SERVICE)?);
    let status = optional(HAS_STATUS)?.map(u16::try_from).transpose().ok()?;
    let device = take_text(&mut rest)?;
    let end = match (flags & ACKED, flags & FAILED) {
        (0, 0) => End::Sent,
        (_, 0) => End::Acked,
        _ => {
            let class = ErrorClass::from_word(take_text(&mut rest)?)?;
            End::Failed(class, take_text(&mut rest)?)
        }
    };
    Some(Request { series, stage, device, sent_us, lag_us, service_us, bytes, status, end })
}

#[cfg(test)]
mod tests;
