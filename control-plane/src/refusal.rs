//! What a caller is told when something cannot be done: a kind for machines, a code with a page,
//! one sentence, and what to do. One table maps kinds to gRPC codes.

use shoal_proto::{CODE_KEY, HELP_KEY};
use tonic::{Code, Status};

use crate::store::StoreError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Invalid,
    NotFound,
    Conflict,
    Unavailable,
    Denied,
    Internal,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: Kind,
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
}

impl Refusal {
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), help: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // The cause stays in the log; the caller learns that the database is the trouble.
        tracing::error!(error = &error as &dyn std::error::Error, "store");
        Self::new(Kind::Unavailable, "SH0501", error.to_string())
            .help("see the control plane's log; the call can be repeated")
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind {
            Kind::Invalid => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::Conflict => Code::AlreadyExists,
            Kind::Unavailable => Code::Unavailable,
            Kind::Denied => Code::Unauthenticated,
            Kind::Internal => Code::Internal,
        };
        let mut status = Status::new(code, refusal.message);
        let metadata = status.metadata_mut();
        if let Ok(code) = refusal.code.parse() {
            metadata.insert(CODE_KEY, code);
        }
        if let Some(help) = refusal.help.and_then(|help| help.parse().ok()) {
            metadata.insert(HELP_KEY, help);
        }
        status
    }
}
