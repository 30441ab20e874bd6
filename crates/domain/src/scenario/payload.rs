//! What a message carries: exactly one kind, and what is done to it.

use super::fields::{Field, Fields, Written, written};
use crate::diagnostics::Collector;
use crate::yaml::{Kind, Node};

/// The kind keys.
pub(super) const KINDS: [&str; 7] = ["json", "text", "hex", "base64", "binary", "cbor", "protobuf"];

#[derive(Debug)]
pub(crate) enum Payload {
    Json {
        path: String,
        node: Node,
    },
    Text(Written),
    Hex(Written),
    Base64(Written),
    Binary(Written),
    /// `binary: { file: ... }`.
    File(Written),
    Cbor {
        path: String,
        node: Node,
    },
    Protobuf(Protobuf),
    /// Of a replay: its file has them.
    Recorded,
}

/// Beside the keys of `publish` that are not in the recording.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) file: Option<Written>,
    pub(crate) speed: Option<Written>,
    /// `loop`.
    pub(crate) repeat: Option<Written>,
}

#[derive(Debug)]
pub(crate) struct Protobuf {
    pub(crate) schema: Option<Written>,
    pub(crate) message: Option<Written>,
    /// Path and tree.
    pub(crate) fields: Option<(String, Node)>,
}

pub(super) fn read(kind: &str, field: &Field<'_>, out: &Collector) -> Option<Payload> {
    let tree = || (field.path.clone(), field.node.clone());
    let scalar = || written(field.node, &field.path, out);
    match kind {
        "json" => {
            let (path, node) = tree();
            Some(Payload::Json { path, node })
        }
        "cbor" => {
            let (path, node) = tree();
            Some(Payload::Cbor { path, node })
        }
        "hex" => scalar().map(Payload::Hex),
        "base64" => scalar().map(Payload::Base64),
        "binary" if matches!(field.node.kind, Kind::Map(_)) => {
            let mut fields = Fields::open(field.node, &field.path, out)?;
            let file = fields.required_text("file");
            fields.close();
            file.map(Payload::File)
        }
        "binary" => scalar().map(Payload::Binary),
        "protobuf" => {
            let mut fields = Fields::open(field.node, &field.path, out)?;
            let protobuf = Protobuf {
                schema: fields.required_text("schema"),
                message: fields.required_text("message"),
                fields: fields.required("fields").map(|tree| (tree.path, tree.node.clone())),
            };
            fields.close();
            Some(Payload::Protobuf(protobuf))
        }
        _ => scalar().map(Payload::Text),
    }
}
