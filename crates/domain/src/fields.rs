//! `read:` carried out: which message an event is, by a platform's own fields.
//!
//! For platforms that do not let `${stamp}` through. What is found is a [`Stamp`], so that nothing
//! behind it knows the difference. Invariant: an event is one message, foreign or unparsed, whatever
//! its bytes are; nothing is allocated for one once the buffers have grown.

mod decimal;
mod ids;
mod json;
mod time;

use self::decimal::Decimal;
pub use self::ids::Ids;
pub use self::json::Pointer;
pub(crate) use self::json::each_element;
use self::json::{Scalar, look_up, unescape};
pub use self::time::TimeUnit;
use crate::ids::SeriesId;
use crate::stamp::Stamp;

/// Where an observer finds what tells the messages of a series apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    pub run: Place,
    pub device: Place,
    pub device_is: DeviceIs,
    pub seq: Place,
    pub sent: Place,
    pub unit: TimeUnit,
    /// Of the time that the messages carry: by so much they may have been sent later.
    pub resolution_us: u64,
}

/// By what an event names its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceIs {
    /// `${device}`
    Id,
    /// `${index}`
    Index,
}

/// A place in an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a value that is JSON.
    Json(Pointer),
    /// Beside the value.
    Header(String),
    /// Bytes of the value that are text.
    Text { at: usize, length: usize },
    /// Bytes of the value that are a number.
    Number { at: usize, format: Format },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// At most eight.
    pub n_bytes: usize,
    pub is_little: bool,
    /// IEEE 754, of four or eight bytes.
    pub is_float: bool,
}

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Message(Stamp),
    /// Of another run, or of a device that the group does not have.
    Foreign,
    /// One of the fields is not there, or is not what it should be.
    Unparsed,
}

const N_FIELDS: usize = 4;
const RUN: usize = 0;
const DEVICE: usize = 1;
const SEQ: usize = 2;
const SENT: usize = 3;

/// What [`Fields`] find in one run.
#[derive(Debug)]
pub struct FieldReader {
    places: [Place; N_FIELDS],
    unit: TimeUnit,
    run: String,
    series: SeriesId,
    /// `None`: events name the index.
    ids: Option<Ids>,
    scratch: Vec<u8>,
}

impl FieldReader {
    /// For the messages of one series in the run with this mark ([`crate::ids::RunId::mark`]).
    pub fn new(fields: &Fields, run: &str, series: SeriesId, ids: impl FnOnce() -> Ids) -> Self {
        let Fields { run: place, device, seq, sent, unit, .. } = fields.clone();
        Self {
            places: [place, device, seq, sent],
            unit,
            run: run.to_owned(),
            series,
            ids: (fields.device_is == DeviceIs::Id).then(ids),
            scratch: Vec::new(),
        }
    }

    /// `header` gives the value of a header by its name.
    pub fn read<'e>(
        &mut self,
        value: &'e [u8],
        header: impl Fn(&str) -> Option<&'e [u8]>,
    ) -> Reading {
        let pointers = self.places.each_ref().map(|place| match place {
            Place::Json(pointer) => Some(pointer),
            _ => None,
        });
        let event = Event { value, header, in_json: look_up(value, pointers) };
        let mut scratch = std::mem::take(&mut self.scratch);
        let reading = self.decide(&event, &mut scratch).unwrap_or(Reading::Unparsed);
        self.scratch = scratch;
        reading
    }

    /// Whose it is comes first: of another run's events nothing else is asked.
    fn decide<'e, H: Fn(&str) -> Option<&'e [u8]>>(
        &self,
        event: &Event<'e, H>,
        scratch: &mut Vec<u8>,
    ) -> Option<Reading> {
        if event.find(&self.places, RUN, scratch)?.text() != self.run.as_bytes() {
            return Some(Reading::Foreign);
        }
        let seq = event.find(&self.places, SEQ, scratch)?.whole()?;
        let sent_us = event.find(&self.places, SENT, scratch)?.time_us(self.unit)?;
        let device = event.find(&self.places, DEVICE, scratch)?;
        let device = match &self.ids {
            Some(ids) => ids.index_of(device.text()),
            None => u32::try_from(device.whole()?).ok(),
        };
        let run = u32::from_str_radix(&self.run, 16).ok()?;
        let message = |device| {
            let (incarnation, n) = ((seq >> 32) as u32, seq as u32);
            Reading::Message(Stamp { run, series: self.series, device, incarnation, n, sent_us })
        };
        Some(device.map_or(Reading::Foreign, message))
    }
}

struct Event<'e, H> {
    value: &'e [u8],
    header: H,
    in_json: [Option<Scalar<'e>>; N_FIELDS],
}

impl<'e, H: Fn(&str) -> Option<&'e [u8]>> Event<'e, H> {
    fn find<'s>(
        &self,
        places: &[Place; N_FIELDS],
        field: usize,
        scratch: &'s mut Vec<u8>,
    ) -> Option<Found<'s>>
    where
        'e: 's,
    {
        match &places[field] {
            Place::Json(_) => match self.in_json[field]? {
                Scalar::Bare(text) | Scalar::Text { raw: text, is_escaped: false } => {
                    Some(Found::Text(text))
                }
                Scalar::Text { raw, .. } => {
                    scratch.clear();
                    unescape(raw, scratch)?;
                    Some(Found::Text(scratch))
                }
            },
            Place::Header(name) => (self.header)(name).map(Found::Text),
            Place::Text { at, length } => Some(Found::Text(part(self.value, *at, *length)?)),
            Place::Number { at, format } => {
                Some(format.read(part(self.value, *at, format.n_bytes)?))
            }
        }
    }
}

fn part(value: &[u8], at: usize, length: usize) -> Option<&[u8]> {
    value.get(at..at.checked_add(length)?)
}

/// A value as it stands in an event.
enum Found<'e> {
    Text(&'e [u8]),
    Whole(u64),
    Float(f64),
}

impl Found<'_> {
    /// Nothing where it is a number in binary.
    fn text(&self) -> &[u8] {
        match self {
            Self::Text(text) => text,
            Self::Whole(_) | Self::Float(_) => b"",
        }
    }

    fn whole(&self) -> Option<u64> {
        match self {
            Self::Text(text) => Decimal::read(text.trim_ascii())?.whole(),
            Self::Whole(whole) => Some(*whole),
            Self::Float(float) if float.fract() == 0.0 && *float >= 0.0 => Some(*float as u64),
            Self::Float(_) => None,
        }
    }

    fn time_us(&self, unit: TimeUnit) -> Option<u64> {
        match self {
            Self::Text(text) => unit.read(text.trim_ascii()),
            Self::Whole(whole) => unit.of_whole(*whole),
            Self::Float(float) => unit.of_float(*float),
        }
    }
}

impl Format {
    fn read(self, bytes: &[u8]) -> Found<'static> {
        let mut wide = [0; 8];
        let n = bytes.len().min(wide.len());
        wide[8 - n..].copy_from_slice(&bytes[..n]);
        if self.is_little {
            wide[8 - n..].reverse();
        }
        let whole = u64::from_be_bytes(wide);
        match (self.is_float, n) {
            (true, 4) => Found::Float(f64::from(f32::from_bits(whole as u32))),
            (true, _) => Found::Float(f64::from_bits(whole)),
            (false, _) => Found::Whole(whole),
        }
    }
}

#[cfg(test)]
mod tests;
