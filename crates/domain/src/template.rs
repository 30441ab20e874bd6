//! A text with `${...}` in it, compiled once to literal segments and generators.
//!
//! Compiling is `check`'s work; here is what a send executes: it walks the segments and appends to
//! a buffer that the caller reuses, without allocating. Transforms (`hex`, `pad`, JSON escapes)
//! render their argument at the buffer's end and rewrite it there. Invariant: what a template of
//! message level appends depends only on the two scopes, never on `Walks`.

mod encoding;
mod generator;
mod holding;

use std::collections::BTreeMap;

pub(crate) use self::encoding::{NumberFormat, Prefix, Raw, push_cbor_head, push_varint};
pub(crate) use self::generator::Generator;
use crate::files::Rows;
use crate::ids::SeriesId;
use crate::reply::Captured;
pub use crate::values::Walks;

/// Compiled text; renders into a reused buffer without allocating.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    Literal(String),
    Value(Generator),
}

/// What is fixed once per device.
///
/// The id renders first (with `device` empty and no `lets`), then the `let` values in the plan's
/// order, each with those before it, then the rest.
#[derive(Debug, Clone, Copy)]
pub struct DeviceScope<'a> {
    pub seed: u64,
    /// `${run}`: see [`crate::ids::RunId::mark`].
    pub run: &'a str,
    /// Index of the group in the plan.
    pub group: u32,
    /// Index of the device in its group.
    pub index: u64,
    /// The rendered device id; empty while the id itself renders.
    pub device: &'a str,
    /// Rendered `let` values, in the plan's order.
    pub lets: &'a [String],
    /// The group's table.
    pub rows: Option<&'a Rows>,
    /// What steps have captured so far, by the index of [`crate::plan::Group::captures`].
    pub captured: &'a [Option<Captured>],
    /// What the agent's owner provided (`--secrets-dir`), by name.
    pub secrets: &'a BTreeMap<String, String>,
}

/// What is fixed once per message, at the real send.
#[derive(Debug, Clone, Copy)]
pub struct MessageScope {
    pub series: SeriesId,
    /// Number of the slot in its series and device; every generated value depends on it.
    pub slot: u64,
    /// Which of the devices behind the connection it is from.
    pub child: u32,
    /// How often the device changed hands.
    pub incarnation: u32,
    /// Packets of this series and device handed to the socket before this one.
    pub n: u32,
    /// Control-plane time in microseconds since the Unix epoch.
    pub now_us: u64,
}

impl MessageScope {
    /// Of one of so many devices behind a connection: they take its slots in turn, and each counts its
    /// own.
    #[must_use]
    pub fn behind(self, children: u32) -> Self {
        let n = u64::from(children.max(1));
        Self { slot: self.slot / n, child: (self.slot % n) as u32, ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("secret `{name}` was not provided to this agent (no file of that name in --secrets-dir)")]
pub struct MissingSecret {
    pub name: String,
}

impl Template {
    pub fn literal(text: &str) -> Self {
        let mut template = Self::default();
        template.push_literal(text);
        template
    }

    /// Renders an expression of group level (id, `let`, credentials).
    pub fn render_device(
        &self,
        scope: &DeviceScope<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), MissingSecret> {
        self.render(scope, None, &mut Walks::default(), out)
    }

    /// Renders an expression of message level (topic, payload). Never fails: `check` refuses
    /// secrets here.
    pub fn render_message(
        &self,
        device: &DeviceScope<'_>,
        message: &MessageScope,
        walks: &mut Walks,
        out: &mut Vec<u8>,
    ) {
        self.render_request(device, message, walks, out)
            .expect("check refuses secrets in messages");
    }

    /// Renders an expression of message level where a secret may stand (the body and the headers
    /// of `on_start` steps). A value that was not captured renders as nothing.
    pub fn render_request(
        &self,
        device: &DeviceScope<'_>,
        message: &MessageScope,
        walks: &mut Walks,
        out: &mut Vec<u8>,
    ) -> Result<(), MissingSecret> {
        self.render(device, Some(message), walks, out)
    }

    fn render(
        &self,
        device: &DeviceScope<'_>,
        message: Option<&MessageScope>,
        walks: &mut Walks,
        out: &mut Vec<u8>,
    ) -> Result<(), MissingSecret> {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Value(generator) => generator.render(device, message, walks, out)?,
            }
        }
        Ok(())
    }

    /// The text, if it is the same for every device and message.
    pub fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The captured values that it renders, by index.
    pub fn captures(&self, into: &mut Vec<usize>) {
        for part in &self.parts {
            if let Part::Value(generator) = part {
                generator.captures(into);
            }
        }
    }

    pub(crate) fn of(generator: Generator) -> Self {
        let mut template = Self::default();
        template.push_value(generator);
        template
    }

    /// Fixed bytes, which need not be text.
    pub(crate) fn raw(bytes: &[u8]) -> Self {
        let mut template = Self::default();
        template.push_bytes(bytes);
        template
    }

    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match self.parts.last_mut() {
            Some(Part::Value(Generator::Raw(Raw(before)))) => {
                *before = [&**before, bytes].concat().into();
            }
            _ => self.parts.push(Part::Value(Generator::Raw(Raw(bytes.into())))),
        }
    }

    /// A value that may turn out to be the same always: then it renders here and now.
    pub(crate) fn push_fixed(&mut self, generator: Generator) {
        if !generator.is_fixed() {
            return self.push_value(generator);
        }
        let secrets = BTreeMap::new();
        let nobody = DeviceScope {
            seed: 0,
            run: "",
            group: 0,
            index: 0,
            device: "",
            lets: &[],
            rows: None,
            captured: &[],
            secrets: &secrets,
        };
        let mut bytes = Vec::new();
        if generator.render(&nobody, None, &mut Walks::default(), &mut bytes).is_ok() {
            self.push_bytes(&bytes);
        }
    }

    /// Whether it is the same for every device and message.
    pub(crate) fn is_fixed(&self) -> bool {
        self.parts.iter().all(|part| match part {
            Part::Literal(_) => true,
            Part::Value(generator) => generator.is_fixed(),
        })
    }

    /// The expression, where it is all there is.
    pub(crate) fn only_value(&self) -> Option<&Generator> {
        match self.parts.as_slice() {
            [Part::Value(generator)] => Some(generator),
            _ => None,
        }
    }

    /// Whether all messages of one device render the same.
    pub fn is_fixed_per_device(&self) -> bool {
        self.parts.iter().all(|part| match part {
            Part::Literal(_) => true,
            Part::Value(generator) => generator.is_fixed_per_device(),
        })
    }

    pub(crate) fn push_literal(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.parts.last_mut() {
            Some(Part::Literal(before)) => before.push_str(text),
            _ => self.parts.push(Part::Literal(text.to_owned())),
        }
    }

    pub(crate) fn append(&mut self, other: &Self) {
        for part in &other.parts {
            match part {
                Part::Literal(text) => self.push_literal(text),
                Part::Value(Generator::Raw(Raw(bytes))) => self.push_bytes(bytes),
                Part::Value(generator) => self.push_value(generator.clone()),
            }
        }
    }

    pub(crate) fn push_value(&mut self, generator: Generator) {
        match generator {
            Generator::Text(text) => self.push_literal(&text),
            generator => self.parts.push(Part::Value(generator)),
        }
    }

    /// Whether a message rendered from this can be found again by its stamp.
    pub(crate) fn has_stamp(&self) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Literal(_) => false,
            Part::Value(Generator::JsonText(inner)) => **inner == Generator::Stamp,
            // An observer looks inside.
            Part::Value(Generator::Gzip(inner)) => inner.has_stamp(),
            Part::Value(Generator::Filled { payload, .. }) => payload.has_stamp(),
            Part::Value(generator) => *generator == Generator::Stamp,
        })
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

#[cfg(test)]
mod tests;
