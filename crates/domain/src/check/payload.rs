//! Payloads become templates, whatever their kind: fixed bytes are fixed here, the rest renders.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Check;
use super::text::{Scope, Value, ValueKind};
use super::vars::Resolved;
use crate::plan::FileRef;
use crate::scenario::{Payload, Written};
use crate::template::{Generator, Template};
use crate::units;

/// What a message may be filled up to; far beyond any device.
const MAX_SIZE: u64 = 1024 * 1024;

impl Check<'_> {
    pub(super) fn payload(&self, payload: &Payload, scope: &Scope<'_>) -> Option<Template> {
        match payload {
            Payload::Json { path, node } => self.json(node, path, scope),
            Payload::Text(text) => self.template(text, scope),
            Payload::Hex(text) => self.hex(text, scope),
            Payload::Base64(text) => self.base64(text),
            Payload::Binary(text) => self.binary(text, scope),
            Payload::File(file) => self.payload_file(file),
            Payload::Cbor { path, node } => self.cbor(node, path, scope),
            Payload::Protobuf(protobuf) => self.protobuf(protobuf, scope),
            // Has no payload of its own.
            Payload::Recorded => None,
        }
    }

    /// `size` and `gzip`, in that order.
    pub(super) fn finished(
        &self,
        payload: Template,
        kind: &Payload,
        size: Option<&Written>,
        gzip: Option<&Written>,
        scope: &Scope<'_>,
    ) -> Option<Template> {
        let is_gzip = self.flag(gzip)?;
        let payload = match size {
            Some(size) => self.sized(payload, kind, size, scope)?,
            None => payload,
        };
        if !is_gzip {
            return Some(payload);
        }
        let mut packed = Template::default();
        packed.push_value(Generator::Gzip(payload));
        Some(packed)
    }

    fn sized(
        &self,
        payload: Template,
        kind: &Payload,
        size: &Written,
        scope: &Scope<'_>,
    ) -> Option<Template> {
        let filler = match kind {
            // Blanks after a document change nothing.
            Payload::Json { .. } | Payload::Text(_) => b' ',
            Payload::Cbor { .. } | Payload::Protobuf(_) => {
                let message = "the end of cbor and protobuf is their last field: bytes after it would be garbage";
                let help = Some("add a field with ${bytes(n)}".to_owned());
                self.out.report(size.place, &size.path, message, help);
                return None;
            }
            _ => 0,
        };
        let size = self.payload_size(size, scope)?;
        let mut sized = Template::default();
        sized.push_value(Generator::Filled { payload, size: Box::new(size), filler });
        Some(sized)
    }

    /// `1KiB`, or one expression that gives a number of bytes.
    fn payload_size(&self, written: &Written, scope: &Scope<'_>) -> Option<Generator> {
        let needs = "a size like 1KiB, or one expression like ${int(100, 2000)}";
        let values = self.pieces(written, scope)?;
        match values.as_slice() {
            [Value { generator: Generator::Text(text), .. }] => match units::bytes(text) {
                Some(bytes) if bytes <= MAX_SIZE => Some(Generator::Text(bytes.to_string())),
                _ => {
                    let resolved = self.resolve(written)?;
                    self.misread(written, &resolved, "a size up to 1MiB, like 1KiB");
                    None
                }
            },
            [Value { generator, kind: ValueKind::Number }] => Some(generator.clone()),
            _ => self.unfit(written, needs),
        }
    }

    fn unfit<T>(&self, written: &Written, needs: &str) -> Option<T> {
        let message = format!("`{}` found, {needs} expected", written.text);
        self.out.report(written.place, &written.path, message, None);
        None
    }

    /// Digits are bytes; so is an expression.
    fn hex(&self, written: &Written, scope: &Scope<'_>) -> Option<Template> {
        let mut template = Template::default();
        for value in self.pieces(written, scope)? {
            match value {
                Value { generator: Generator::Text(text), .. } => {
                    let Some(bytes) = from_hex(&text) else {
                        return self.unfit(written, "pairs of hexadecimal digits");
                    };
                    template.push_bytes(&bytes);
                }
                Value { generator, kind: ValueKind::Bytes } => template.push_value(generator),
                Value { generator: Generator::Hex(inner), .. } => template.push_value(*inner),
                _ => {
                    let needs =
                        "digits, and expressions that give bytes: u16(x), f32(x), bytes(n), hex(x)";
                    return self.unfit(written, needs);
                }
            }
        }
        Some(template)
    }

    fn base64(&self, written: &Written) -> Option<Template> {
        let resolved: Resolved = self.resolve(written)?;
        let compact: String = resolved.text.split_whitespace().collect();
        match BASE64.decode(compact) {
            Ok(bytes) => Some(Template::raw(&bytes)),
            Err(_) => {
                self.misread(written, &resolved, "base64 with its padding");
                None
            }
        }
    }

    /// Text as it stands, and the bytes of expressions.
    fn binary(&self, written: &Written, scope: &Scope<'_>) -> Option<Template> {
        let mut template = Template::default();
        for value in self.pieces(written, scope)? {
            template.push_value(value.generator);
        }
        Some(template)
    }

    fn payload_file(&self, written: &Written) -> Option<Template> {
        match self.file_ref(written)? {
            FileRef::Shipped(id) => self.with_file(id, Template::raw),
            FileRef::OnAgent(_) => self.unfit(written, "a file beside the scenario"),
        }
    }
}

/// Spaces and line breaks may stand between the digits.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}
