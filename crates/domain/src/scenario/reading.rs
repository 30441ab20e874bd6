//! `read:` of an observer: where a platform's own fields say which message an event is.

use super::Written;
use super::fields::{Field, Fields, word, written};
use crate::diagnostics::{Collector, Place};
use crate::yaml::Kind;

/// How a time may be written.
pub(crate) const UNITS: [&str; 5] = ["s", "ms", "us", "ns", "iso"];
/// Numbers in binary, big-endian unless they say otherwise.
pub(crate) const FORMATS: [&str; 11] =
    ["u8", "u16", "u32", "u64", "f32", "f64", "u16le", "u32le", "u64le", "f32le", "f64le"];

#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) run: Option<FieldAt>,
    /// `device` or `index`.
    pub(crate) device: Option<(&'static str, FieldAt)>,
    pub(crate) seq: Option<FieldAt>,
    pub(crate) sent: Option<FieldAt>,
    pub(crate) unit: Option<Written>,
}

#[derive(Debug)]
pub(crate) enum FieldAt {
    Json(Written),
    Header(Written),
    Binary(Binary),
}

#[derive(Debug)]
pub(crate) struct Binary {
    pub(crate) at: Option<Written>,
    /// `as`: a number of this format.
    pub(crate) format: Option<Written>,
    /// A text of so many bytes.
    pub(crate) length: Option<Written>,
}

pub(super) fn read(field: &Field<'_>, out: &Collector) -> Option<Read> {
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let run = fields.required("run").and_then(|run| field_at(&run, out));
    let device = fields.exactly_one(&["device", "index"]);
    let device = device.and_then(|(kind, field)| Some((kind, field_at(&field, out)?)));
    let seq = fields.required("seq").and_then(|seq| field_at(&seq, out));
    let (mut sent, mut unit) = (None, None);
    if let Some(field) = fields.required("sent")
        && let Some(mut inner) = Fields::open(field.node, &field.path, out)
    {
        unit = inner.required_text("unit").filter(|unit| word(unit, &UNITS, out));
        sent = one_of(&mut inner, out);
        inner.close();
    }
    fields.close();
    let (place, path) = (field.key_place, field.path.clone());
    Some(Read { place, path, run, device, seq, sent, unit })
}

/// A scalar is a JSON pointer.
fn field_at(field: &Field<'_>, out: &Collector) -> Option<FieldAt> {
    if !matches!(field.node.kind, Kind::Map(_)) {
        return written(field.node, &field.path, out).map(FieldAt::Json);
    }
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let found = one_of(&mut fields, out);
    fields.close();
    found
}

fn one_of(fields: &mut Fields<'_>, out: &Collector) -> Option<FieldAt> {
    let (kind, field) = fields.exactly_one(&["json", "header", "binary"])?;
    match kind {
        "json" => written(field.node, &field.path, out).map(FieldAt::Json),
        "header" => written(field.node, &field.path, out).map(FieldAt::Header),
        _ => {
            let mut inner = Fields::open(field.node, &field.path, out)?;
            let at = inner.required_text("at");
            let form = inner.exactly_one(&["as", "length"]);
            inner.close();
            let (form, value) = form?;
            let value = written(value.node, &value.path, out);
            let (format, length) = match form {
                "as" => (value.filter(|format| word(format, &FORMATS, out)), None),
                _ => (None, value),
            };
            Some(FieldAt::Binary(Binary { at, format, length }))
        }
    }
}
