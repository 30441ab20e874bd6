//! A scalar of a typed payload: what JSON, CBOR and protocol buffers have in common.

use serde_json::Value as Json;

use super::Check;
use super::text::{Scope, Value, ValueKind};
use crate::scenario::Written;
use crate::template::{Generator, Template};

/// A lone expression keeps its type, everything else that renders is text.
#[derive(Debug)]
pub(super) enum Typed {
    Constant(Json),
    Number(Generator),
    Bytes(Generator),
    Text(Template),
}

impl Check<'_> {
    pub(super) fn typed(&self, written: &Written, scope: &Scope<'_>) -> Option<Typed> {
        let is_plain = written.style != crate::yaml::Style::Quoted;
        let constant = |text: &str, is_plain: bool| {
            let json = self.constant(text, is_plain, written)?;
            serde_json::from_str(&json).ok().map(Typed::Constant)
        };
        let mut values = self.pieces(written, scope)?;
        if !written.text.contains("${") {
            return constant(&written.text, is_plain);
        }
        if let [only] = values.as_mut_slice() {
            match (&only.generator, only.kind) {
                (Generator::Text(text), ValueKind::Scalar | ValueKind::Number) => {
                    return constant(text, true);
                }
                (Generator::Text(text), _) => return constant(text, false),
                (_, ValueKind::Number) => return Some(Typed::Number(only.generator.clone())),
                (_, ValueKind::Bytes) => return Some(Typed::Bytes(only.generator.clone())),
                _ => {}
            }
        }
        let mut template = Template::default();
        for value in values {
            template.push_value(Value::text(value));
        }
        Some(Typed::Text(template))
    }
}
