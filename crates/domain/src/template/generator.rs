//! One expression of a template, with everything about it that is known when the plan is made.
//!
//! A generator appends bytes. Values of a fixed field draw from the counter-based stream of
//! (seed, group, device, series, field), so nothing here remembers anything but walks, which are
//! only a short cut.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::encoding::{self, NumberFormat, Prefix, Raw};
use super::{DeviceScope, MessageScope, MissingSecret, Template};
use crate::digits;
use crate::files::Recording;
use crate::values::{Source, Stream, Walk, Walks};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Generator {
    Text(String),
    Device,
    Index,
    Run,
    Seq,
    /// Which of the devices behind the connection.
    Child,
    Stamp,
    Request,
    NowSeconds,
    NowMillis,
    NowMicros,
    NowIso,
    /// Index into the group's `let` values.
    Let(usize),
    /// Column of the group's table.
    Row(usize),
    Secret(String),
    /// Index into the group's captured values.
    Captured(usize),
    /// The same as JSON: quoted unless it was captured as a number, `true` or the like.
    CapturedJson(usize),
    Int {
        field: u64,
        low: i64,
        high: i64,
    },
    Float {
        field: u64,
        low: f64,
        high: f64,
    },
    Normal {
        field: u64,
        mean: f64,
        deviation: f64,
    },
    Choice {
        field: u64,
        options: Vec<Generator>,
    },
    Walk {
        field: u64,
        walk: Walk,
    },
    /// One wave every `period` slots.
    Sine {
        low: f64,
        high: f64,
        period: f64,
    },
    /// `from + slot · by`.
    Step {
        from: f64,
        by: f64,
    },
    Uuid {
        field: u64,
    },
    Bytes {
        field: u64,
        n: usize,
    },
    Pad {
        inner: Box<Generator>,
        width: usize,
    },
    Hex(Box<Generator>),
    Base64(Box<Generator>),
    Lower(Box<Generator>),
    Upper(Box<Generator>),
    /// The raw 32 bytes.
    HmacSha256 {
        key: Box<Generator>,
        message: Box<Generator>,
    },
    /// What may hold quotes or control characters, inside a JSON string.
    JsonText(Box<Generator>),
    /// One after the other, from slot to slot.
    Sequence(Vec<Generator>),
    /// Fixed bytes that are no text.
    Raw(Raw),
    Number(NumberFormat, Box<Generator>),
    /// With its length in front.
    Prefixed(Prefix, Template),
    /// With bytes after it, up to a size.
    Filled {
        payload: Template,
        size: Box<Generator>,
        filler: u8,
    },
    Gzip(Template),
    /// Of the message that the slot replays.
    RecordedTopic(Recording),
    RecordedPayload(Recording),
}

/// What [`Generator::Filled`] fills up to at most, whatever size is drawn.
const MAX_FILLED: usize = 1024 * 1024;

/// Tells the draws of the devices behind one connection apart.
const CHILD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The series of values that are drawn once per device.
const NO_SERIES: u32 = u32::MAX;

impl Generator {
    pub(crate) fn render(
        &self,
        device: &DeviceScope<'_>,
        message: Option<&MessageScope>,
        walks: &mut Walks,
        out: &mut Vec<u8>,
    ) -> Result<(), MissingSecret> {
        let slot = message.map_or(0, |message| message.slot);
        let stream = |field: u64| {
            let series = message.map_or(NO_SERIES, |message| message.series.0);
            // Each has values of its own; the first one those of a connection without others.
            let child = message.map_or(0, |message| u64::from(message.child));
            let field = field ^ child.wrapping_mul(CHILD);
            let (seed, group) = (device.seed, device.group);
            Stream::of(Source { seed, group, device: device.index, series, field })
        };
        let start = out.len();
        match self {
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Device => out.extend_from_slice(device.device.as_bytes()),
            Self::Index => digits::push_u64(out, device.index),
            Self::Child => {
                digits::push_u64(out, message.map_or(0, |message| u64::from(message.child)));
            }
            Self::Run => out.extend_from_slice(device.run.as_bytes()),
            Self::Let(index) => {
                if let Some(value) = device.lets.get(*index) {
                    out.extend_from_slice(value.as_bytes());
                }
            }
            Self::Row(column) => {
                let cell = device.rows.and_then(|rows| rows.cell(device.index, *column));
                out.extend_from_slice(cell.unwrap_or_default().as_bytes());
            }
            Self::Secret(name) => match device.secrets.get(name) {
                Some(secret) => out.extend_from_slice(secret.as_bytes()),
                None => return Err(MissingSecret { name: name.clone() }),
            },
            Self::Captured(index) => {
                if let Some(Some(captured)) = device.captured.get(*index) {
                    out.extend_from_slice(captured.text.as_bytes());
                }
            }
            Self::CapturedJson(index) => match device.captured.get(*index) {
                Some(Some(captured)) if captured.is_json => {
                    out.extend_from_slice(captured.text.as_bytes());
                }
                Some(Some(captured)) => {
                    out.push(b'"');
                    out.extend_from_slice(captured.text.as_bytes());
                    digits::escape_json_in_place(out, start + 1);
                    out.push(b'"');
                }
                _ => out.extend_from_slice(b"null"),
            },
            Self::Seq
            | Self::Stamp
            | Self::Request
            | Self::NowSeconds
            | Self::NowMillis
            | Self::NowMicros
            | Self::NowIso => {
                if let Some(message) = message {
                    self.render_at_send(device, message, out);
                }
            }
            Self::Int { field, low, high } => {
                digits::push_i64(out, stream(*field).int(slot, *low, *high));
            }
            Self::Float { field, low, high } => {
                digits::push_f64(out, stream(*field).float(slot, *low, *high));
            }
            Self::Normal { field, mean, deviation } => {
                digits::push_f64(out, stream(*field).normal(slot, *mean, *deviation));
            }
            Self::Choice { field, options } => {
                let chosen = stream(*field).choice(slot, options.len());
                options[chosen].render(device, message, walks, out)?;
            }
            Self::Walk { field, walk } => {
                digits::push_f64(out, walk.at(stream(*field), slot, walks));
            }
            Self::Sine { low, high, period } => {
                // The remainder first: a slot may be too great for an exact angle.
                let turn = (slot as f64 % period) / period;
                let height = (std::f64::consts::TAU * turn).sin() / 2.0 + 0.5;
                digits::push_f64(out, low + height * (high - low));
            }
            Self::Step { from, by } => digits::push_f64(out, from + slot as f64 * by),
            Self::Uuid { field } => push_uuid(out, stream(*field), slot),
            Self::Bytes { field, n } => {
                let stream = stream(*field);
                for k in 0..n.div_ceil(8) {
                    let drawn = stream.draw(slot, k as u64).to_le_bytes();
                    out.extend_from_slice(&drawn[..drawn.len().min(n - 8 * k)]);
                }
            }
            Self::Pad { inner, width } => {
                inner.render(device, message, walks, out)?;
                pad_in_place(out, start, *width);
            }
            Self::Hex(inner) => {
                inner.render(device, message, walks, out)?;
                digits::hex_in_place(out, start);
            }
            Self::Base64(inner) => {
                inner.render(device, message, walks, out)?;
                base64_in_place(out, start);
            }
            Self::Lower(inner) => {
                inner.render(device, message, walks, out)?;
                out[start..].make_ascii_lowercase();
            }
            Self::Upper(inner) => {
                inner.render(device, message, walks, out)?;
                out[start..].make_ascii_uppercase();
            }
            Self::HmacSha256 { key, message: signed } => {
                key.render(device, message, walks, out)?;
                let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&out[start..])
                    .expect("HMAC takes a key of any length");
                out.truncate(start);
                signed.render(device, message, walks, out)?;
                mac.update(&out[start..]);
                out.truncate(start);
                out.extend_from_slice(&mac.finalize().into_bytes());
            }
            Self::JsonText(inner) => {
                inner.render(device, message, walks, out)?;
                digits::escape_json_in_place(out, start);
            }
            Self::Sequence(options) => {
                let next = (slot % options.len() as u64) as usize;
                options[next].render(device, message, walks, out)?;
            }
            Self::Raw(Raw(bytes)) => out.extend_from_slice(bytes),
            Self::Number(format, inner) => {
                inner.render(device, message, walks, out)?;
                encoding::number(*format, out, start);
            }
            Self::Prefixed(prefix, inner) => {
                inner.render(device, message, walks, out)?;
                encoding::prefix(*prefix, out, start);
            }
            Self::Filled { payload, size, filler } => {
                payload.render(device, message, walks, out)?;
                let size_at = out.len();
                size.render(device, message, walks, out)?;
                encoding::fill(out, start, size_at, *filler, MAX_FILLED);
            }
            Self::RecordedTopic(recording) => {
                out.extend_from_slice(recording.topic(slot).as_bytes());
            }
            Self::RecordedPayload(recording) => {
                out.extend_from_slice(recording.payload(slot));
            }
            Self::Gzip(inner) => {
                inner.render(device, message, walks, out)?;
                encoding::gzip(out, start);
            }
        }
        Ok(())
    }

    fn render_at_send(&self, device: &DeviceScope<'_>, message: &MessageScope, out: &mut Vec<u8>) {
        let numbers = [
            u64::from(message.series.0),
            device.index,
            u64::from(message.incarnation),
            u64::from(message.n),
        ];
        match self {
            Self::Seq => {
                digits::push_u64(out, u64::from(message.incarnation) << 32 | u64::from(message.n));
            }
            Self::Stamp => {
                out.extend_from_slice(b"sh1.");
                push_dotted(out, device.run, &numbers);
                out.push(b'.');
                digits::push_u64(out, message.now_us);
            }
            Self::Request => push_dotted(out, device.run, &numbers),
            Self::NowSeconds => digits::push_u64(out, message.now_us / 1_000_000),
            Self::NowMillis => digits::push_u64(out, message.now_us / 1_000),
            Self::NowMicros => digits::push_u64(out, message.now_us),
            _ => digits::push_iso(out, message.now_us),
        }
    }

    /// Whether it is a number without a fraction.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Text(text) => text.parse::<i128>().is_ok(),
            Self::Choice { options, .. } | Self::Sequence(options) => {
                options.iter().all(Self::is_whole)
            }
            Self::Index | Self::Seq | Self::Child | Self::Int { .. } => true,
            Self::NowSeconds | Self::NowMillis | Self::NowMicros => true,
            _ => false,
        }
    }

    /// Whether what this renders may stand in a JSON string as it is.
    pub(crate) fn is_json_safe(&self) -> bool {
        match self {
            Self::Device | Self::Let(_) | Self::Row(_) | Self::Secret(_) | Self::Captured(_) => {
                false
            }
            Self::Text(text) => text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\'),
            Self::Choice { options, .. } | Self::Sequence(options) => {
                options.iter().all(Self::is_json_safe)
            }
            Self::Pad { inner, .. } | Self::Lower(inner) | Self::Upper(inner) => {
                inner.is_json_safe()
            }
            _ => true,
        }
    }

    /// Adds the captured values that it renders, by index.
    pub(super) fn captures(&self, into: &mut Vec<usize>) {
        match self {
            Self::Captured(index) | Self::CapturedJson(index) => into.push(*index),
            Self::Choice { options, .. } | Self::Sequence(options) => {
                for option in options {
                    option.captures(into);
                }
            }
            Self::Pad { inner, .. }
            | Self::Hex(inner)
            | Self::Base64(inner)
            | Self::Lower(inner)
            | Self::Upper(inner)
            | Self::Number(_, inner)
            | Self::JsonText(inner) => inner.captures(into),
            Self::Prefixed(_, inner) | Self::Gzip(inner) => inner.captures(into),
            Self::Filled { payload, size, .. } => {
                payload.captures(into);
                size.captures(into);
            }
            Self::HmacSha256 { key, message } => {
                key.captures(into);
                message.captures(into);
            }
            _ => {}
        }
    }

    /// Whether it is the same for every device and message.
    pub(super) fn is_fixed(&self) -> bool {
        match self {
            Self::Text(_) | Self::Raw(_) => true,
            Self::Number(_, inner) => inner.is_fixed(),
            Self::Prefixed(_, inner) => inner.is_fixed(),
            _ => false,
        }
    }

    /// Whether every message of one device renders the same.
    pub(crate) fn is_fixed_per_device(&self) -> bool {
        match self {
            Self::Text(_)
            | Self::Raw(_)
            | Self::Device
            | Self::Index
            | Self::Run
            | Self::Let(_)
            | Self::Row(_)
            | Self::Secret(_) => true,
            Self::Pad { inner, .. }
            | Self::Hex(inner)
            | Self::Base64(inner)
            | Self::Lower(inner)
            | Self::Upper(inner)
            | Self::JsonText(inner) => inner.is_fixed_per_device(),
            Self::HmacSha256 { key, message } => {
                key.is_fixed_per_device() && message.is_fixed_per_device()
            }
            _ => false,
        }
    }

    /// Whether two devices never or hardly ever render the same.
    pub(crate) fn tells_devices_apart(&self) -> bool {
        match self {
            Self::Index | Self::Device | Self::Row(_) | Self::Uuid { .. } => true,
            Self::Bytes { n, .. } => *n >= 8,
            Self::Pad { inner, .. }
            | Self::Hex(inner)
            | Self::Base64(inner)
            | Self::Lower(inner)
            | Self::Upper(inner)
            | Self::JsonText(inner) => inner.tells_devices_apart(),
            Self::HmacSha256 { key, message } => {
                key.tells_devices_apart() || message.tells_devices_apart()
            }
            _ => false,
        }
    }
}

fn push_dotted(out: &mut Vec<u8>, first: &str, numbers: &[u64]) {
    out.extend_from_slice(first.as_bytes());
    for number in numbers {
        out.push(b'.');
        digits::push_u64(out, *number);
    }
}

/// Version 4: random but for its six marking bits.
fn push_uuid(out: &mut Vec<u8>, stream: Stream, slot: u64) {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&stream.draw(slot, 0).to_be_bytes());
    bytes[8..].copy_from_slice(&stream.draw(slot, 1).to_be_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    for (i, byte) in bytes.into_iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend_from_slice(&digits::hex_pair(byte));
    }
}

/// Zeros before the text, after its sign.
fn pad_in_place(out: &mut Vec<u8>, start: usize, width: usize) {
    let length = out.len() - start;
    let Some(missing) = width.checked_sub(length).filter(|missing| *missing > 0) else { return };
    let digits = start + usize::from(out.get(start) == Some(&b'-'));
    let end = out.len();
    out.resize(end + missing, b'0');
    out.copy_within(digits..end, digits + missing);
    out[digits..digits + missing].fill(b'0');
}

fn base64_in_place(out: &mut Vec<u8>, start: usize) {
    let end = out.len();
    let encoded_length = (end - start).div_ceil(3) * 4;
    out.resize(end + encoded_length, 0);
    let (raw, encoded) = out.split_at_mut(end);
    BASE64
        .encode_slice(&raw[start..], encoded)
        .expect("padded base64 has four characters per three bytes");
    out.copy_within(end.., start);
    out.truncate(start + encoded_length);
}
