//! What an event is beside AMQP: its bytes, what stands beside them, its number in the partition and
//! the time at which Event Hubs took it in.

use fe2o3_amqp::types::messaging::annotations::OwnedKey;
use fe2o3_amqp::types::messaging::{Body, Message};
use fe2o3_amqp::types::primitives::{SimpleValue, Value};

const SEQUENCE: &str = "x-opt-sequence-number";
const ENQUEUED: &str = "x-opt-enqueued-time";
const KEY: &str = "x-opt-partition-key";

pub(super) struct Arrived {
    pub(super) sequence: u64,
    /// Milliseconds of the platform's clock.
    pub(super) enqueued_ms: Option<u64>,
    /// The partition's key, where the sender gave one.
    pub(super) key: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// Application properties, and what IoT Hub says of the device.
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

impl Arrived {
    /// `None`: it has no number, so no Event Hubs sent it.
    pub(super) fn read(message: Message<Body<Value>>) -> Option<Self> {
        let (mut sequence, mut enqueued_ms, mut key) = (None, None, Vec::new());
        let mut headers = Vec::new();
        for (name, value) in message.message_annotations.unwrap_or_default().0 {
            let OwnedKey::Symbol(name) = name else { continue };
            match (name.0.as_str(), value) {
                (SEQUENCE, Value::Long(number)) => sequence = u64::try_from(number).ok(),
                (ENQUEUED, Value::Timestamp(at)) => {
                    enqueued_ms = u64::try_from(at.into_inner()).ok();
                }
                (KEY, value) => key = bytes(value).unwrap_or_default(),
                (_, value) => headers.extend(bytes(value).map(|value| (name.0, value))),
            }
        }
        for (name, value) in message.application_properties.unwrap_or_default().0 {
            headers.extend(simple_bytes(value).map(|value| (name, value)));
        }
        Some(Self { sequence: sequence?, enqueued_ms, key, body: body(message.body), headers })
    }
}

/// As Event Hubs' own clients see it: data sections, or a text or bytes in a value.
fn body(body: Body<Value>) -> Vec<u8> {
    match body {
        Body::Data(batch) => {
            let mut sections = batch.into_iter().map(|data| data.0.into_vec());
            let mut all = sections.next().unwrap_or_default();
            sections.for_each(|more| all.extend_from_slice(&more));
            all
        }
        Body::Value(value) => bytes(value.0).unwrap_or_default(),
        Body::Sequence(_) | Body::Empty => Vec::new(),
    }
}

/// A value as text stands in a header; lists and maps have none.
fn bytes(value: Value) -> Option<Vec<u8>> {
    Some(match value {
        Value::Binary(bytes) => bytes.into_vec(),
        Value::String(text) => text.into_bytes(),
        Value::Symbol(symbol) => symbol.0.into_bytes(),
        Value::Timestamp(at) => at.into_inner().to_string().into_bytes(),
        Value::Bool(is) => is.to_string().into_bytes(),
        Value::Ubyte(n) => n.to_string().into_bytes(),
        Value::Ushort(n) => n.to_string().into_bytes(),
        Value::Uint(n) => n.to_string().into_bytes(),
        Value::Ulong(n) => n.to_string().into_bytes(),
        Value::Byte(n) => n.to_string().into_bytes(),
        Value::Short(n) => n.to_string().into_bytes(),
        Value::Int(n) => n.to_string().into_bytes(),
        Value::Long(n) => n.to_string().into_bytes(),
        Value::Float(n) => n.to_string().into_bytes(),
        Value::Double(n) => n.to_string().into_bytes(),
        _ => return None,
    })
}

fn simple_bytes(value: SimpleValue) -> Option<Vec<u8>> {
    bytes(value.into())
}
