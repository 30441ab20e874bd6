//! The wire: generated messages and services, and their conversion to and from domain values.
//!
//! No behaviour. Bytes from outside become domain values only through `TryFrom`-like functions
//! here, which name the field that is wrong.

#[expect(missing_docs, clippy::all, reason = "generated; the .proto files carry the comments")]
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("shoal.v1");
}

/// What Prometheus reads of a scrape in protobuf.
#[expect(missing_docs, clippy::all, reason = "generated; the .proto files carry the comments")]
pub mod prometheus {
    tonic::include_proto!("io.prometheus.client");
}

pub mod assignment;
pub mod files;
#[cfg(test)]
mod golden;
pub mod logs;
pub mod metrics;

/// Raised whenever agents and control planes of two builds could misunderstand each other.
pub const PROTOCOL: u32 = 1;

/// Largest message that either side decodes.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Largest request of an operator: a scenario with its files.
pub const MAX_START: usize = shoal_domain::files::MAX_TOTAL_BYTES as usize + MAX_MESSAGE;

/// The metadata keys of an error that a person should see.
pub const CODE_KEY: &str = "shoal-code";
pub const HELP_KEY: &str = "shoal-help";

/// The metadata key by which an upload says whose it is: the incarnation of the agent's process.
pub const INCARNATION_KEY: &str = "shoal-incarnation";

/// A field that cannot become a domain value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {why}")]
pub struct BadField {
    pub field: &'static str,
    pub why: String,
}

impl BadField {
    fn new(field: &'static str, why: impl ToString) -> Self {
        Self { field, why: why.to_string() }
    }
}
