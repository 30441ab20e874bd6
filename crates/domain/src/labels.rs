//! What people say about a run so that they find it again: a few names with values.
//!
//! Names are short words, because they end up in tables, on the command line and beside metrics;
//! values are any text on one line. Every face escapes them for itself.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub const MAX_LABELS: usize = 16;
const MAX_NAME: usize = 63;
const MAX_VALUE: usize = 256;
/// Of a note and of an annotation, in bytes.
pub const MAX_TEXT: usize = 4096;

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("label `{0}`: NAME=VALUE is expected")]
    Shape(String),
    #[error("label name `{0}`: 1 to {MAX_NAME} letters, digits, `.`, `_`, `-` or `/` are expected")]
    Name(String),
    #[error("label `{0}`: the value is one line of at most {MAX_VALUE} bytes")]
    Value(String),
    #[error("{0} labels: at most {MAX_LABELS} are kept")]
    TooMany(usize),
}

impl Labels {
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, LabelError> {
        let mut labels = Self::default();
        for (name, value) in pairs {
            labels.insert(name, value)?;
        }
        Ok(labels)
    }

    /// From `name=value` texts; a later one replaces an earlier of the same name.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, LabelError> {
        let mut labels = Self::default();
        for text in texts {
            let (name, value) =
                text.split_once('=').ok_or_else(|| LabelError::Shape(text.to_owned()))?;
            labels.insert(name.trim().to_owned(), value.to_owned())?;
        }
        Ok(labels)
    }

    fn insert(&mut self, name: String, value: String) -> Result<(), LabelError> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_word) {
            return Err(LabelError::Name(name));
        }
        if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            return Err(LabelError::Value(name));
        }
        self.0.insert(name, value);
        if self.0.len() > MAX_LABELS {
            return Err(LabelError::TooMany(self.0.len()));
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether all of these are among `others`.
    pub fn are_among(&self, others: &Self) -> bool {
        self.iter().all(|(name, value)| others.get(name) == Some(value))
    }

    /// One text per set of labels, whatever the order they were given in.
    pub fn canonical(&self) -> String {
        serde_json::to_string(&self.0).expect("texts by texts are a JSON object")
    }
}

/// `name=value, …`, for people.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_label_is_a_short_word_and_one_line() {
        let labels = Labels::parse(["env=staging", "team=a=b", "env=prod"]).unwrap();
        assert_eq!(labels.to_string(), "env=prod, team=a=b");
        assert!(Labels::parse(["env"]).unwrap_err().to_string().contains("NAME=VALUE"));
        for wrong in ["=x", "a b=x", "<b>=x", "a=x\ny"] {
            assert!(Labels::parse([wrong]).is_err(), "{wrong}");
        }
        let many: Vec<String> = (0..=MAX_LABELS).map(|n| format!("l{n}=x")).collect();
        let many = Labels::parse(many.iter().map(String::as_str));
        assert_eq!(many, Err(LabelError::TooMany(MAX_LABELS + 1)));
    }

    #[test]
    fn labels_are_among_others_when_each_is_there_with_its_value() {
        let run = Labels::parse(["env=staging", "team=a"]).unwrap();
        for (wanted, expected) in [("env=staging", true), ("env=prod", false), ("x=y", false)] {
            assert_eq!(Labels::parse([wanted]).unwrap().are_among(&run), expected, "{wanted}");
        }
        assert!(Labels::default().are_among(&run));
    }

    proptest! {
        #[test]
        fn equal_labels_and_only_they_have_one_canonical_text(
            a in proptest::collection::btree_map("[a-c]", "[,=\"x]{0,3}", 0..3),
            b in proptest::collection::btree_map("[a-c]", "[,=\"x]{0,3}", 0..3),
        ) {
            let (a, b) = (Labels::new(a).unwrap(), Labels::new(b).unwrap());
            prop_assert_eq!(a.canonical() == b.canonical(), a == b);
        }
    }
}
