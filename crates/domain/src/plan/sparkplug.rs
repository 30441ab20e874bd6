//! Sparkplug B: devices that are edge nodes, and what they report.
//!
//! A payload is a message of protocol buffers, so its parts are templates that are appended one
//! after the other: whoever sends adds what only the connection knows, the sequence number.

use super::Publish;
use crate::ids::SeriesId;
use crate::template::Template;

/// What the edge nodes of a group have in common; a device's id is its edge node id.
#[derive(Debug, Clone, PartialEq)]
pub struct Sparkplug {
    /// The Sparkplug group, known once per device.
    pub group_id: Template,
    /// The devices below each edge node, known once per edge node.
    pub devices: Vec<Template>,
    /// The series of all birth certificates.
    pub births: SeriesId,
    /// The series of the death certificates that edge nodes say themselves.
    pub deaths: SeriesId,
}

/// Reports of an edge node, or of a device below it.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Its payload lacks the sequence number.
    pub publish: Publish,
    /// Place among [`Sparkplug::devices`]; `None`: the edge node's own.
    pub device: Option<usize>,
    /// The metrics as a birth certificate names them: with name, alias and type.
    pub birth: Template,
}
