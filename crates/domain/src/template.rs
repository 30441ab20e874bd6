//! A text with `${...}` in it, compiled once to literal segments and generators.

use std::collections::BTreeMap;

use crate::ids::SeriesId;

/// Compiled text; renders into a reused buffer without allocating.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Template {
    literal: String,
}

/// What is fixed once per device.
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
    /// What the agent's owner provided (`--secrets-dir`), by name.
    pub secrets: &'a BTreeMap<String, String>,
}

/// What is fixed once per message, at the real send.
#[derive(Debug, Clone, Copy)]
pub struct MessageScope {
    pub series: SeriesId,
    /// Number of the slot in its series and device; every generated value depends on it.
    pub slot: u64,
    /// How often the device changed hands.
    pub incarnation: u32,
    /// Packets of this series and device handed to the socket before this one.
    pub n: u32,
    /// Control-plane time in microseconds since the Unix epoch.
    pub now_us: u64,
}

/// The walks of one device and series, remembered so that the next step costs one step.
#[derive(Debug, Clone, Default)]
pub struct Walks {}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("secret `{name}` was not provided to this agent (no file of that name in --secrets-dir)")]
pub struct MissingSecret {
    pub name: String,
}

impl Template {
    pub fn literal(text: &str) -> Self {
        Self { literal: text.to_owned() }
    }

    /// Renders an expression of group level (id, `let`, credentials).
    pub fn render_device(
        &self,
        _scope: &DeviceScope<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), MissingSecret> {
        out.extend_from_slice(self.literal.as_bytes());
        Ok(())
    }

    /// Renders an expression of message level (topic, payload). Never fails: `check` refuses
    /// secrets here.
    pub fn render_message(
        &self,
        _device: &DeviceScope<'_>,
        _message: &MessageScope,
        _walks: &mut Walks,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(self.literal.as_bytes());
    }
}
