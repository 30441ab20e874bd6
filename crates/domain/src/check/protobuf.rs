//! A YAML tree becomes a protocol-buffers template, by a message of a descriptor file
//! (`protoc --descriptor_set_out`, or `buf build -o x.binpb`).
//!
//! Tags, constants and structure are fixed bytes, generated values render straight to the wire
//! form of their field, so that no message object exists per send. Invariant: what renders decodes
//! as the message, with each value in the field that the file gives it.

use prost_reflect::{
    Cardinality, DescriptorPool, FieldDescriptor, Kind as FieldKind, MessageDescriptor,
};
use serde_json::Value as Json;

use super::Check;
use super::text::Scope;
use super::typed::Typed;
use crate::diagnostics::suggest;
use crate::scenario::{Protobuf, Written};
use crate::template::{Generator, NumberFormat, Prefix, Template, push_varint};
use crate::yaml::{Entry, Kind, Node, child};

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

impl Check<'_> {
    pub(super) fn protobuf(&self, written: &Protobuf, scope: &Scope<'_>) -> Option<Template> {
        let message = self.message(written);
        let (path, node) = written.fields.as_ref()?;
        let (message, entries) = (message?, self.map_of(node, path)?);
        let mut template = Template::default();
        self.fields(&message, entries, node, path, scope, &mut template).then_some(template)
    }

    fn message(&self, written: &Protobuf) -> Option<MessageDescriptor> {
        let schema = written.schema.as_ref()?;
        let id = self.shipped(schema)?;
        let Some(pool) = self.with_file(id, |bytes| DescriptorPool::decode(bytes).ok())? else {
            let message = "the file holds no descriptor set";
            let help = "make one with protoc --include_imports --descriptor_set_out=FILE";
            self.out.report(schema.place, &schema.path, message, Some(help.to_owned()));
            return None;
        };
        let name = written.message.as_ref()?;
        let resolved = self.resolve(name)?;
        let found = pool.get_message_by_name(&resolved.text);
        if found.is_none() {
            let known: Vec<String> = pool
                .all_messages()
                .filter(|message| !message.is_map_entry())
                .map(|message| message.full_name().to_owned())
                .collect();
            let help = suggest(&resolved.text, known.iter().map(String::as_str));
            let message = format!("no message `{}` in the schema", resolved.text);
            self.out.report(name.place, &name.path, message, help);
        }
        found
    }

    fn map_of<'n>(&self, node: &'n Node, path: &str) -> Option<&'n [Entry]> {
        if let Kind::Map(entries) = &node.kind {
            return Some(entries);
        }
        let message = format!("{} found, a map of fields expected", node.found());
        self.out.report(node.place, path, message, None);
        None
    }

    /// Whether all of them compiled; goes on after a mistake.
    fn fields(
        &self,
        message: &MessageDescriptor,
        entries: &[Entry],
        node: &Node,
        path: &str,
        scope: &Scope<'_>,
        into: &mut Template,
    ) -> bool {
        let mut is_whole = true;
        let mut chosen: Vec<(String, String)> = Vec::new();
        for entry in entries {
            let path = child(path, &entry.key);
            let field = message
                .get_field_by_name(&entry.key)
                .or_else(|| message.get_field_by_json_name(&entry.key));
            let Some(field) = field else {
                let names: Vec<String> = message.fields().map(|f| f.name().to_owned()).collect();
                let help = suggest(&entry.key, names.iter().map(String::as_str));
                let text = format!("no field `{}` in `{}`", entry.key, message.full_name());
                self.out.report(entry.place, &path, text, help);
                is_whole = false;
                continue;
            };
            if let Some(oneof) = field.containing_oneof() {
                let name = oneof.full_name().to_owned();
                if let Some((_, first)) = chosen.iter().find(|(other, _)| *other == name) {
                    let text = format!("`{}` excludes `{first}`: they are one of", entry.key);
                    self.out.report(entry.place, &path, text, None);
                    is_whole = false;
                }
                chosen.push((name, entry.key.clone()));
            }
            is_whole &= self.field(&field, &entry.value, &path, scope, into);
        }
        for field in message.fields().filter(|f| f.cardinality() == Cardinality::Required) {
            let is_given = |e: &Entry| e.key == field.name() || e.key == field.json_name();
            if !entries.iter().any(is_given) {
                let text = format!("`{}` is required by the schema", field.name());
                self.out.report(node.place, path, text, None);
                is_whole = false;
            }
        }
        is_whole
    }

    fn field(
        &self,
        field: &FieldDescriptor,
        node: &Node,
        path: &str,
        scope: &Scope<'_>,
        into: &mut Template,
    ) -> bool {
        if field.is_map() {
            return self.map_field(field, node, path, scope, into);
        }
        if !field.is_list() {
            into.push_bytes(&tag(field, wire_type(&field.kind())));
            return self.value(field, node, path, scope, into);
        }
        let Kind::List(items) = &node.kind else {
            let text = format!("{} found, a list expected: the field is repeated", node.found());
            self.out.report(node.place, path, text, None);
            return false;
        };
        let mut is_whole = true;
        let mut packed = Template::default();
        for (i, item) in items.iter().enumerate() {
            let path = format!("{path}[{i}]");
            let into = if field.is_packed() {
                &mut packed
            } else {
                into.push_bytes(&tag(field, wire_type(&field.kind())));
                &mut *into
            };
            is_whole &= self.value(field, item, &path, scope, into);
        }
        if field.is_packed() && !items.is_empty() {
            into.push_bytes(&tag(field, DELIMITED));
            into.push_fixed(Generator::Prefixed(Prefix::Varint, packed));
        }
        is_whole
    }

    fn map_field(
        &self,
        field: &FieldDescriptor,
        node: &Node,
        path: &str,
        scope: &Scope<'_>,
        into: &mut Template,
    ) -> bool {
        let FieldKind::Message(entry_type) = field.kind() else { return false };
        let (key, value) = (entry_type.map_entry_key_field(), entry_type.map_entry_value_field());
        let Some(entries) = self.map_of(node, path) else { return false };
        let mut is_whole = true;
        for entry in entries {
            let path = child(path, &entry.key);
            let mut pair = Template::default();
            pair.push_bytes(&tag(&key, wire_type(&key.kind())));
            let constant = match key.kind() {
                FieldKind::String => Json::from(entry.key.as_str()),
                _ => serde_json::from_str(&entry.key).unwrap_or_default(),
            };
            let written = Written {
                path: path.clone(),
                text: entry.key.clone(),
                style: crate::yaml::Style::Quoted,
                place: entry.place,
            };
            is_whole &= self.scalar(&key, Typed::Constant(constant), &written, &mut pair);
            pair.push_bytes(&tag(&value, wire_type(&value.kind())));
            is_whole &= self.value(&value, &entry.value, &path, scope, &mut pair);
            into.push_bytes(&tag(field, DELIMITED));
            into.push_fixed(Generator::Prefixed(Prefix::Varint, pair));
        }
        is_whole
    }

    /// One value without its tag.
    fn value(
        &self,
        field: &FieldDescriptor,
        node: &Node,
        path: &str,
        scope: &Scope<'_>,
        into: &mut Template,
    ) -> bool {
        if let FieldKind::Message(message) = field.kind() {
            if field.is_group() {
                self.out.report(node.place, path, "groups (proto2) are not supported", None);
                return false;
            }
            let Some(entries) = self.map_of(node, path) else { return false };
            let mut inner = Template::default();
            let is_whole = self.fields(&message, entries, node, path, scope, &mut inner);
            into.push_fixed(Generator::Prefixed(Prefix::Varint, inner));
            return is_whole;
        }
        let Kind::Scalar { text, style } = &node.kind else {
            let text = format!("{} found, a single value expected", node.found());
            self.out.report(node.place, path, text, None);
            return false;
        };
        let (path, text, style) = (path.to_owned(), text.clone(), *style);
        let written = Written { path, text, style, place: node.place };
        let Some(typed) = self.typed(&written, scope) else { return false };
        self.scalar(field, typed, &written, into)
    }

    fn scalar(
        &self,
        field: &FieldDescriptor,
        typed: Typed,
        written: &Written,
        into: &mut Template,
    ) -> bool {
        let unfit = |needs: &str| {
            let message = format!(
                "`{}` found, {needs} expected: the field `{}` is {}",
                written.text,
                field.name(),
                type_name(&field.kind())
            );
            self.out.report(written.place, &written.path, message, None);
            false
        };
        match field.kind() {
            FieldKind::String => {
                let text = match typed {
                    Typed::Constant(Json::String(text)) => Template::literal(&text),
                    Typed::Constant(Json::Null) => return unfit("text"),
                    Typed::Constant(other) => Template::literal(&other.to_string()),
                    Typed::Text(text) => text,
                    Typed::Number(generator) => Template::of(generator),
                    Typed::Bytes(generator) => Template::of(Generator::Hex(Box::new(generator))),
                };
                into.push_fixed(Generator::Prefixed(Prefix::Varint, text));
            }
            FieldKind::Bytes => {
                let bytes = match typed {
                    Typed::Constant(Json::String(text)) => Template::literal(&text),
                    Typed::Text(text) => text,
                    Typed::Bytes(generator) => Template::of(generator),
                    _ => return unfit("text or bytes"),
                };
                into.push_fixed(Generator::Prefixed(Prefix::Varint, bytes));
            }
            FieldKind::Enum(words) => match typed {
                Typed::Constant(Json::String(word)) => match words.get_value_by_name(&word) {
                    Some(value) => push_number(into, &field.kind(), &value.number().to_string()),
                    None => {
                        let names: Vec<String> =
                            words.values().map(|value| value.name().to_owned()).collect();
                        let help = suggest(&word, names.iter().map(String::as_str));
                        let message = format!("no value `{word}` in `{}`", words.full_name());
                        self.out.report(written.place, &written.path, message, help);
                        return false;
                    }
                },
                Typed::Constant(Json::Number(n)) if n.as_i64().is_some() => {
                    push_number(into, &field.kind(), &n.to_string());
                }
                Typed::Number(generator) => push_generated(into, &field.kind(), generator),
                _ => return unfit("a value's name or number"),
            },
            FieldKind::Bool => match typed {
                Typed::Constant(Json::Bool(value)) => into.push_bytes(&[u8::from(value)]),
                Typed::Number(generator) => push_generated(into, &field.kind(), generator),
                // `choice(true, false)` and the like.
                Typed::Text(text) => match text.only_value() {
                    Some(value) => push_generated(into, &field.kind(), value.clone()),
                    None => return unfit("true or false"),
                },
                _ => return unfit("true or false"),
            },
            kind => match typed {
                Typed::Constant(Json::Number(n)) if fits(&kind, &n) => {
                    push_number(into, &kind, &n.to_string());
                }
                Typed::Number(generator) => push_generated(into, &kind, generator),
                _ => return unfit("a number that fits"),
            },
        }
        true
    }
}

fn push_number(into: &mut Template, kind: &FieldKind, text: &str) {
    let number = Box::new(Generator::Text(text.to_owned()));
    into.push_fixed(Generator::Number(format_of(kind), number));
}

fn push_generated(into: &mut Template, kind: &FieldKind, generator: Generator) {
    into.push_value(Generator::Number(format_of(kind), Box::new(generator)));
}

fn tag(field: &FieldDescriptor, wire_type: u32) -> Vec<u8> {
    let mut tag = Vec::new();
    push_varint(&mut tag, u64::from(field.number() << 3 | wire_type));
    tag
}

fn wire_type(kind: &FieldKind) -> u32 {
    match kind {
        FieldKind::Double | FieldKind::Fixed64 | FieldKind::Sfixed64 => FIXED64,
        FieldKind::Float | FieldKind::Fixed32 | FieldKind::Sfixed32 => FIXED32,
        FieldKind::String | FieldKind::Bytes | FieldKind::Message(_) => DELIMITED,
        _ => VARINT,
    }
}

fn format_of(kind: &FieldKind) -> NumberFormat {
    let fixed = |n_bytes, is_signed| NumberFormat::Int { n_bytes, is_signed, is_little: true };
    match kind {
        FieldKind::Double => NumberFormat::Float { n_bytes: 8, is_little: true },
        FieldKind::Float => NumberFormat::Float { n_bytes: 4, is_little: true },
        FieldKind::Fixed64 => fixed(8, false),
        FieldKind::Sfixed64 => fixed(8, true),
        FieldKind::Fixed32 => fixed(4, false),
        FieldKind::Sfixed32 => fixed(4, true),
        FieldKind::Sint32 => NumberFormat::ZigZag { low: i32::MIN.into(), high: i32::MAX.into() },
        FieldKind::Sint64 => NumberFormat::ZigZag { low: i64::MIN, high: i64::MAX },
        FieldKind::Uint32 => NumberFormat::Varint { low: 0, high: u32::MAX.into() },
        FieldKind::Uint64 => NumberFormat::Varint { low: 0, high: u64::MAX },
        FieldKind::Int64 => NumberFormat::Varint { low: i64::MIN, high: i64::MAX as u64 },
        FieldKind::Bool => NumberFormat::Varint { low: 0, high: 1 },
        // Enums are numbers of 32 bits.
        _ => NumberFormat::Varint { low: i32::MIN.into(), high: i32::MAX as u64 },
    }
}

/// A constant is not rounded behind a person's back.
fn fits(kind: &FieldKind, number: &serde_json::Number) -> bool {
    let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    let (low, high) = match kind {
        FieldKind::Double | FieldKind::Float => return true,
        FieldKind::Fixed64 | FieldKind::Uint64 => (0, u64::MAX.into()),
        FieldKind::Fixed32 | FieldKind::Uint32 => (0, u32::MAX.into()),
        FieldKind::Sfixed64 | FieldKind::Int64 | FieldKind::Sint64 => {
            (i64::MIN.into(), i64::MAX.into())
        }
        _ => (i32::MIN.into(), i32::MAX.into()),
    };
    whole.is_some_and(|whole| (low..=high).contains(&whole))
}

/// As a schema calls it.
fn type_name(kind: &FieldKind) -> &'static str {
    match kind {
        FieldKind::Double => "a double",
        FieldKind::Float => "a float",
        FieldKind::Int32 => "an int32",
        FieldKind::Int64 => "an int64",
        FieldKind::Uint32 => "a uint32",
        FieldKind::Uint64 => "a uint64",
        FieldKind::Sint32 => "a sint32",
        FieldKind::Sint64 => "a sint64",
        FieldKind::Fixed32 => "a fixed32",
        FieldKind::Fixed64 => "a fixed64",
        FieldKind::Sfixed32 => "an sfixed32",
        FieldKind::Sfixed64 => "an sfixed64",
        FieldKind::Bool => "a bool",
        FieldKind::String => "a string",
        FieldKind::Bytes => "bytes",
        FieldKind::Message(_) => "a message",
        FieldKind::Enum(_) => "an enum",
    }
}
