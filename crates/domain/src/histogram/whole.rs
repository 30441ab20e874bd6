//! The whole histogram of our layout, by the crate alone: what tests hold ours against.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};

use super::{DecodeError, HIGHEST_US, LOWEST_US, SIGNIFICANT_DIGITS, payload_of, walk};

pub(super) fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)
        .expect("the layout's constants are legal bounds")
}

pub(super) fn encode(histogram: &Histogram<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    V2Serializer::new()
        .serialize(histogram, &mut bytes)
        .expect("a histogram of the fixed layout fits into memory");
    bytes
}

/// Bytes that were checked; the crate allocates what their header says.
pub(super) fn decode(bytes: &[u8]) -> Result<Histogram<u64>, DecodeError> {
    walk(payload_of(bytes)?, |_, _| {})?;
    let histogram: Histogram<u64> = Deserializer::new()
        .deserialize(&mut &bytes[..])
        .map_err(|error| DecodeError::Payload { why: error.to_string() })?;
    Ok(histogram)
}
