//! What an edge node of Sparkplug B itself says and hears: births, deaths, commands.
//!
//! The fields and their numbers are those of the public schema (`sparkplug_b.proto` beside the
//! tests has them all); a reader skips the others. A payload is the sum of its parts, one encoded
//! after the other, so that reports that are rendered elsewhere stand between a head and a tail of
//! ours. Invariant: bytes of a peer give a payload or none, never a panic.

use prost::Message;

/// Data types of the specification, chapter 6.4.16.
const INT64: u32 = 4;
const BOOLEAN: u32 = 11;

const REBIRTH: &str = "Node Control/Rebirth";

#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(uint64, optional, tag = "1")]
    timestamp: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
    #[prost(uint64, optional, tag = "3")]
    seq: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "4")]
    datatype: Option<u32>,
    #[prost(oneof = "Value", tags = "11, 14")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(bool, tag = "14")]
    Boolean(bool),
}

/// A death certificate: which birth it ends.
pub(crate) fn death(bd_seq: u8, now_ms: u64) -> Vec<u8> {
    let metrics = vec![birth_number(bd_seq, now_ms)];
    Payload { timestamp: Some(now_ms), metrics, seq: None }.encode_to_vec()
}

/// Of a device below an edge node: nothing but its place in the sequence.
pub(crate) fn device_death(seq: u8, now_ms: u64) -> Vec<u8> {
    let seq = Some(u64::from(seq));
    Payload { timestamp: Some(now_ms), metrics: Vec::new(), seq }.encode_to_vec()
}

/// What the birth certificate of an edge node begins with; that of a device has no number.
pub(crate) fn begin_birth(out: &mut Vec<u8>, bd_seq: Option<u8>, now_ms: u64) {
    let metrics = bd_seq.map(|number| {
        let value = Some(Value::Boolean(false));
        let name = Some(REBIRTH.to_owned());
        let rebirth = Metric { name, timestamp: Some(now_ms), datatype: Some(BOOLEAN), value };
        vec![birth_number(number, now_ms), rebirth]
    });
    let head = Payload { timestamp: Some(now_ms), metrics: metrics.unwrap_or_default(), seq: None };
    head.encode_raw(out);
}

/// What every message but a death ends with.
pub(crate) fn end(out: &mut Vec<u8>, seq: u8) {
    prost::encoding::uint64::encode(3, &u64::from(seq), out);
}

/// Whether a command to the edge node asks for its births; `None`: it is no Sparkplug.
pub(crate) fn asks_for_rebirth(command: &[u8]) -> Option<bool> {
    let command = Payload::decode(command).ok()?;
    let is_it = |metric: &Metric| {
        metric.name.as_deref() == Some(REBIRTH) && metric.value == Some(Value::Boolean(true))
    };
    Some(command.metrics.iter().any(is_it))
}

fn birth_number(bd_seq: u8, now_ms: u64) -> Metric {
    Metric {
        name: Some("bdSeq".to_owned()),
        timestamp: Some(now_ms),
        datatype: Some(INT64),
        value: Some(Value::Long(bd_seq.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rebirth_is_asked_for_by_name_and_by_true() {
        let metric = |name: &str, value| Metric {
            name: Some(name.to_owned()),
            value: Some(Value::Boolean(value)),
            ..Metric::default()
        };
        let asks = |metrics: Vec<Metric>| {
            asks_for_rebirth(&Payload { metrics, ..Payload::default() }.encode_to_vec())
        };
        assert_eq!(asks(vec![metric(REBIRTH, true)]), Some(true));
        assert_eq!(asks(vec![metric(REBIRTH, false), metric("other", true)]), Some(false));
        assert_eq!(asks(vec![]), Some(false));
        assert_eq!(asks_for_rebirth(&[0xff, 0xff]), None);
    }

    #[test]
    fn parts_add_up_to_one_payload() {
        let mut bytes = Vec::new();
        begin_birth(&mut bytes, Some(7), 1_000);
        end(&mut bytes, 255);
        let whole = Payload::decode(bytes.as_slice()).unwrap();
        assert_eq!((whole.timestamp, whole.seq, whole.metrics.len()), (Some(1_000), Some(255), 2));
        assert_eq!(whole.metrics[0].value, Some(Value::Long(7)));
    }

    proptest! {
        #[test]
        fn garbage_is_no_command_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = asks_for_rebirth(&bytes);
        }
    }
}
