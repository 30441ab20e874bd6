//! From the text that a generator renders to the bytes of a binary format, at the buffer's end.
//!
//! Everything is rewritten in place: a number is printed, read back and encoded, a text gets its
//! length in front. So every value that a scenario can express has a binary form, and nothing is
//! allocated. Invariant: whatever the text is, what comes out is well-formed; numbers are rounded
//! and kept within what the format holds.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use sha2::{Digest, Sha256};

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum NumberFormat {
    /// The shortest form of CBOR.
    Cbor,
    /// Two's complement of this many bytes.
    Int { n_bytes: u8, is_signed: bool, is_little: bool },
    /// IEEE 754 of four or eight bytes.
    Float { n_bytes: u8, is_little: bool },
    /// Base 128, between these bounds; negative numbers have ten bytes.
    Varint { low: i64, high: u64 },
    /// Base 128, of the 32 bits of a number between these bounds.
    Wrapped { low: i32, high: u32 },
    /// Base 128 with the sign in the lowest bit.
    ZigZag { low: i64, high: i64 },
}

/// What stands before bytes to say how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    CborText,
    CborBytes,
    /// The length-delimited fields of protocol buffers.
    Varint,
}

/// Bytes that are fixed when the plan is made, known by their hash where a plan is printed.
#[derive(Clone, PartialEq)]
pub(crate) struct Raw(pub(crate) Arc<[u8]>);

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({}, {:?})", self.0.len(), Sha256::digest(&self.0))
    }
}

#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Float(f64),
}

impl Number {
    /// `true` is 1; what is no number is 0.
    fn read(text: &[u8]) -> Self {
        match std::str::from_utf8(text) {
            Ok("true") => Self::Whole(1),
            Ok(text) => match text.parse() {
                Ok(whole) => Self::Whole(whole),
                Err(_) => Self::Float(text.parse().unwrap_or_default()),
            },
            Err(_) => Self::Whole(0),
        }
    }

    fn float(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Float(float) => float,
        }
    }

    fn whole(self, low: i128, high: i128) -> i128 {
        let whole = match self {
            Self::Whole(whole) => whole,
            // A cast keeps within bounds, and has 0 for what is no number.
            Self::Float(float) => float.round() as i128,
        };
        whole.clamp(low, high)
    }
}

/// Replaces the number that is printed from `start` on.
pub(super) fn number(format: NumberFormat, out: &mut Vec<u8>, start: usize) {
    let number = Number::read(&out[start..]);
    out.truncate(start);
    match format {
        NumberFormat::Cbor => push_cbor(out, number),
        NumberFormat::Int { n_bytes, is_signed, is_little } => {
            let bits = 8 * u32::from(n_bytes);
            let (low, high) = match is_signed {
                true => (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1),
                false => (0, (1_i128 << bits) - 1),
            };
            let bytes = number.whole(low, high).to_be_bytes();
            push_bytes(out, &bytes[bytes.len() - usize::from(n_bytes)..], is_little);
        }
        NumberFormat::Float { n_bytes: 4, is_little } => {
            push_bytes(out, &(number.float() as f32).to_be_bytes(), is_little);
        }
        NumberFormat::Float { is_little, .. } => {
            push_bytes(out, &number.float().to_be_bytes(), is_little);
        }
        NumberFormat::Varint { low, high } => {
            push_varint(out, number.whole(low.into(), high.into()) as u64);
        }
        NumberFormat::Wrapped { low, high } => {
            push_varint(out, u64::from(number.whole(low.into(), high.into()) as u32));
        }
        NumberFormat::ZigZag { low, high } => {
            let value = number.whole(low.into(), high.into()) as i64;
            push_varint(out, ((value << 1) ^ (value >> 63)) as u64);
        }
    }
}

fn push_bytes(out: &mut Vec<u8>, big: &[u8], is_little: bool) {
    let start = out.len();
    out.extend_from_slice(big);
    if is_little {
        out[start..].reverse();
    }
}

pub(crate) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The first byte of an item and its number, in the shortest form.
pub(crate) fn push_cbor_head(out: &mut Vec<u8>, major: u8, n: u64) {
    let major = major << 5;
    match n {
        0..24 => out.push(major | n as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, n as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

fn push_cbor(out: &mut Vec<u8>, number: Number) {
    match number {
        Number::Whole(whole) if (0..=u64::MAX.into()).contains(&whole) => {
            push_cbor_head(out, 0, whole as u64);
        }
        Number::Whole(whole) if (-(1_i128 << 64)..0).contains(&whole) => {
            push_cbor_head(out, 1, (-1 - whole) as u64);
        }
        number => {
            let float = number.float();
            if f64::from(float as f32) == float {
                out.push(0xfa);
                out.extend_from_slice(&(float as f32).to_be_bytes());
            } else {
                out.push(0xfb);
                out.extend_from_slice(&float.to_be_bytes());
            }
        }
    }
}

/// Says in front of everything from `start` how much it is.
pub(super) fn prefix(prefix: Prefix, out: &mut Vec<u8>, start: usize) {
    let end = out.len();
    let n = (end - start) as u64;
    match prefix {
        Prefix::CborText => push_cbor_head(out, 3, n),
        Prefix::CborBytes => push_cbor_head(out, 2, n),
        Prefix::Varint => push_varint(out, n),
    }
    let head = out.len() - end;
    out[start..].rotate_right(head);
}

/// What is printed from `size_at` on is how long everything from `start` shall be at least.
pub(super) fn fill(out: &mut Vec<u8>, start: usize, size_at: usize, filler: u8, most: usize) {
    let size = Number::read(&out[size_at..]).whole(0, most as i128) as usize;
    out.truncate(size_at);
    if out.len() - start < size {
        out.resize(start + size, filler);
    }
}

thread_local! {
    /// A compressor has 300 KB of tables; each thread makes them once. It is reset before each
    /// use, so what comes out depends on the bytes alone.
    static COMPRESSOR: RefCell<Compress> =
        RefCell::new(Compress::new(Compression::default(), false));
}

/// Replaces everything from `start` by its gzip form (RFC 1952), without a time in it.
pub(super) fn gzip(out: &mut Vec<u8>, start: usize) {
    const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let end = out.len();
    let mut crc = Crc::new();
    crc.update(&out[start..]);
    // Stored blocks have five bytes for each 32 KiB, whatever cannot be compressed.
    let most = HEAD.len() + (end - start) + (end - start) / 1_000 + 64;
    out.resize(end + most, 0);
    let (plain, packed) = out.split_at_mut(end);
    packed[..HEAD.len()].copy_from_slice(&HEAD);
    let n = COMPRESSOR.with_borrow_mut(|compressor| {
        compressor.reset();
        let room = &mut packed[HEAD.len()..];
        let done = compressor.compress(&plain[start..], room, FlushCompress::Finish);
        debug_assert!(matches!(done, Ok(Status::StreamEnd)), "{done:?}");
        compressor.total_out() as usize
    });
    let length = HEAD.len() + n;
    out.copy_within(end..end + length, start);
    out.truncate(start + length);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read as _;

    fn encoded(format: NumberFormat, text: &str) -> Vec<u8> {
        let mut out = b"before".to_vec();
        out.extend_from_slice(text.as_bytes());
        number(format, &mut out, 6);
        out.split_off(6)
    }

    const U16: NumberFormat = NumberFormat::Int { n_bytes: 2, is_signed: false, is_little: false };
    const I16_LITTLE: NumberFormat =
        NumberFormat::Int { n_bytes: 2, is_signed: true, is_little: true };

    #[test]
    fn numbers_are_kept_within_what_the_format_holds() {
        assert_eq!(encoded(U16, "258"), [1, 2]);
        assert_eq!(encoded(U16, "-1"), [0, 0]);
        assert_eq!(encoded(U16, "1e9"), [255, 255]);
        assert_eq!(encoded(U16, "1.5"), [0, 2]);
        assert_eq!(encoded(U16, "no number"), [0, 0]);
        assert_eq!(encoded(I16_LITTLE, "-2"), [0xfe, 0xff]);
        assert_eq!(
            encoded(NumberFormat::Float { n_bytes: 4, is_little: false }, "1"),
            [0x3f, 0x80, 0, 0]
        );
        assert_eq!(encoded(NumberFormat::Varint { low: 0, high: 1 }, "true"), [1]);
        assert_eq!(
            encoded(NumberFormat::Wrapped { low: -128, high: 127 }, "-300"),
            [0x80, 0xff, 0xff, 0xff, 0x0f]
        );
        assert_eq!(encoded(NumberFormat::Varint { low: 0, high: u64::MAX }, "300"), [0xac, 2]);
        assert_eq!(encoded(NumberFormat::ZigZag { low: i64::MIN, high: i64::MAX }, "-2"), [3]);
    }

    #[test]
    fn cbor_numbers_are_those_of_the_standard() {
        // RFC 8949, appendix A.
        for (text, bytes) in [
            ("0", vec![0x00]),
            ("23", vec![0x17]),
            ("24", vec![0x18, 0x18]),
            ("1000", vec![0x19, 0x03, 0xe8]),
            ("1000000", vec![0x1a, 0x00, 0x0f, 0x42, 0x40]),
            ("18446744073709551615", vec![0x1b, 255, 255, 255, 255, 255, 255, 255, 255]),
            ("-1", vec![0x20]),
            ("-1000", vec![0x39, 0x03, 0xe7]),
            ("1.1", vec![0xfb, 0x3f, 0xf1, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a]),
            ("100000.0", vec![0xfa, 0x47, 0xc3, 0x50, 0x00]),
        ] {
            assert_eq!(encoded(NumberFormat::Cbor, text), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_long_enough_is_not_filled() {
        let mut out = b"xabc5".to_vec();
        fill(&mut out, 1, 4, b' ', 100);
        assert_eq!(out, b"xabc  ");
        out.extend_from_slice(b"2");
        fill(&mut out, 1, 6, b' ', 100);
        assert_eq!(out, b"xabc  ");
    }

    proptest! {
        #[test]
        fn gzip_reads_back(before in ".{0,9}", plain in proptest::collection::vec(any::<u8>(), 0..4_000)) {
            let mut out = before.clone().into_bytes();
            let start = out.len();
            out.extend_from_slice(&plain);
            gzip(&mut out, start);
            let mut read = Vec::new();
            flate2::read::GzDecoder::new(&out[start..]).read_to_end(&mut read).unwrap();
            prop_assert_eq!(read, plain);
            prop_assert_eq!(&out[..start], before.as_bytes());
        }

        #[test]
        fn a_length_stands_in_front(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut out = b"ab".to_vec();
            out.extend_from_slice(&text);
            prefix(Prefix::Varint, &mut out, 2);
            let mut rest = &out[2..];
            let n = prost::encoding::decode_varint(&mut rest).unwrap();
            prop_assert_eq!((n as usize, rest), (text.len(), text.as_slice()));
        }

        #[test]
        fn any_text_is_some_number(text in "\\PC{0,20}") {
            prop_assert_eq!(encoded(U16, &text).len(), 2);
            prop_assert!(!encoded(NumberFormat::Cbor, &text).is_empty());
        }
    }
}
