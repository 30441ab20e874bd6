//! Compressed batches. What would unpack to more than [`MAX_UNPACKED`] is not unpacked.

use std::io::Read;

use flate2::read::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use ruzstd::decoding::StreamingDecoder;

use super::wire::Malformed;

pub(super) const MAX_UNPACKED: usize = 64 * 1024 * 1024;

const BAD: Malformed = Malformed::Bad("a batch cannot be unpacked");
/// Before blocks of snappy as the Java clients write them.
const XERIAL: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER: usize = 16;

/// `kind` as in the attributes of a batch; `out` is replaced.
pub(super) fn unpack(kind: u8, packed: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.clear();
    match kind {
        1 => all_of(GzDecoder::new(packed), out),
        2 => snappy(packed, out),
        3 => all_of(FrameDecoder::new(packed), out),
        4 => all_of(StreamingDecoder::new(packed).map_err(|_| BAD)?, out),
        _ => Err(Malformed::Bad("a batch is compressed in an unknown way")),
    }
}

fn all_of(packed: impl Read, out: &mut Vec<u8>) -> Result<(), Malformed> {
    packed.take(MAX_UNPACKED as u64 + 1).read_to_end(out).map_err(|_| BAD)?;
    if out.len() > MAX_UNPACKED { Err(BAD) } else { Ok(()) }
}

fn snappy(packed: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    if !packed.starts_with(XERIAL) {
        return snappy_block(packed, out);
    }
    let mut rest = packed.get(XERIAL_HEADER..).ok_or(BAD)?;
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        let (block, after) = after.split_at_checked(length).ok_or(BAD)?;
        snappy_block(block, out)?;
        rest = after;
    }
    Ok(())
}

fn snappy_block(packed: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = out.len();
    let end = start.saturating_add(snap::raw::decompress_len(packed).map_err(|_| BAD)?);
    if end > MAX_UNPACKED {
        return Err(BAD);
    }
    out.resize(end, 0);
    snap::raw::Decoder::new().decompress(packed, &mut out[start..]).map_err(|_| BAD)?;
    Ok(())
}
