//! A YAML tree becomes a CBOR template (RFC 8949): the tree of `json`, typed, in its shortest form.
//!
//! Structure, keys and constants are fixed bytes; maps keep the file's order. `${bytes(n)}` is a
//! byte string, which JSON does not have.

use serde_json::Value as Json;

use super::Check;
use super::text::Scope;
use super::typed::Typed;
use crate::scenario::Written;
use crate::template::{Generator, NumberFormat, Prefix, Template, push_cbor_head};
use crate::yaml::{Kind, Node, child};

impl Check<'_> {
    pub(super) fn cbor(&self, node: &Node, path: &str, scope: &Scope<'_>) -> Option<Template> {
        let mut template = Template::default();
        self.cbor_node(node, path, scope, &mut template).then_some(template)
    }

    /// Whether all of it compiled; goes on after a mistake.
    fn cbor_node(&self, node: &Node, path: &str, scope: &Scope<'_>, into: &mut Template) -> bool {
        let mut is_whole = true;
        match &node.kind {
            Kind::Map(entries) => {
                into.push_bytes(&head(5, entries.len()));
                for entry in entries {
                    let path = child(path, &entry.key);
                    if entry.key.contains("${") {
                        let message = "a key is fixed: an expression may not stand here";
                        self.out.report(entry.place, &path, message, None);
                        is_whole = false;
                    }
                    into.push_bytes(&head(3, entry.key.len()));
                    into.push_bytes(entry.key.as_bytes());
                    is_whole &= self.cbor_node(&entry.value, &path, scope, into);
                }
            }
            Kind::List(items) => {
                into.push_bytes(&head(4, items.len()));
                for (i, item) in items.iter().enumerate() {
                    is_whole &= self.cbor_node(item, &format!("{path}[{i}]"), scope, into);
                }
            }
            Kind::Scalar { text, style } => {
                let (path, text, style) = (path.to_owned(), text.clone(), *style);
                let written = Written { path, text, style, place: node.place };
                match self.typed(&written, scope) {
                    Some(typed) => push(typed, into),
                    None => is_whole = false,
                }
            }
        }
        is_whole
    }
}

fn head(major: u8, n: usize) -> Vec<u8> {
    let mut head = Vec::new();
    push_cbor_head(&mut head, major, n as u64);
    head
}

fn push(typed: Typed, into: &mut Template) {
    match typed {
        Typed::Constant(Json::Bool(false)) => into.push_bytes(&[0xf4]),
        Typed::Constant(Json::Bool(true)) => into.push_bytes(&[0xf5]),
        Typed::Constant(Json::Number(number)) => {
            into.push_fixed(Generator::Number(
                NumberFormat::Cbor,
                Box::new(Generator::Text(number.to_string())),
            ));
        }
        Typed::Constant(Json::String(text)) => {
            into.push_bytes(&head(3, text.len()));
            into.push_bytes(text.as_bytes());
        }
        Typed::Constant(_) => into.push_bytes(&[0xf6]),
        Typed::Number(generator) => {
            into.push_value(Generator::Number(NumberFormat::Cbor, Box::new(generator)));
        }
        Typed::Bytes(generator) => {
            let mut bytes = Template::default();
            bytes.push_value(generator);
            into.push_value(Generator::Prefixed(Prefix::CborBytes, bytes));
        }
        Typed::Text(template) => {
            into.push_value(Generator::Prefixed(Prefix::CborText, template));
        }
    }
}
