//! What a caller says about a run, checked: it is kept for years and shown on every face.

use std::collections::HashMap;

use shoal_domain::labels::{Labels, MAX_TEXT};
use shoal_proto::v1;

use crate::refusal::{Kind, Refusal};

/// Of names of people and of revisions, in bytes.
const MAX_WORD: usize = 256;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    pub labels: Labels,
    pub note: String,
    pub started_by: String,
    pub revision: String,
}

impl About {
    /// Takes the texts out of a request.
    pub fn of(request: &mut v1::StartRunRequest) -> Result<Self, Refusal> {
        Ok(Self {
            labels: labels_from_wire(std::mem::take(&mut request.labels))?,
            note: text("note", std::mem::take(&mut request.note), MAX_TEXT)?,
            started_by: text("name", std::mem::take(&mut request.started_by), MAX_WORD)?,
            revision: text("revision", std::mem::take(&mut request.revision), MAX_WORD)?,
        })
    }
}

pub fn labels_from_wire(labels: HashMap<String, String>) -> Result<Labels, Refusal> {
    Labels::new(labels).map_err(|error| Refusal::new(Kind::Invalid, "SH0701", error.to_string()))
}

/// A text of at most `most` bytes; its ends are trimmed.
pub fn text(what: &str, text: String, most: usize) -> Result<String, Refusal> {
    if text.len() > most {
        let message = format!("a {what} of {} bytes: at most {most} are kept", text.len());
        return Err(Refusal::new(Kind::Invalid, "SH0701", message));
    }
    Ok(text.trim().to_owned())
}
