//! What is wrong with a scenario: where, what was found, what is expected, a hint.
//!
//! Mistakes are collected, never thrown, so that a person sees all of them at once. The order is
//! the place in the file, whatever order the checks ran in.

use std::cell::RefCell;
use std::fmt;

/// One mistake. `path` is empty where the text is not even YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub path: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub message: String,
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, message, help } = self;
        write!(f, "{line}:{column} {path}: {message}")?;
        match help {
            Some(help) => write!(f, " | help: {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnostic {}

/// Line and column, both from 1; a tab or any other character is one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// Where every check reports to.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    found: RefCell<Vec<Diagnostic>>,
    /// Of one that listens: what the reader asked for.
    heard: Option<RefCell<Vec<Ask>>>,
}

/// What a reader asks for at a path: this is how the grammar is known without a second description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A scalar.
    Text(String),
    /// A map of known keys.
    Map(String),
    /// A map of names that a person chose.
    Names(String),
    Items(String),
    /// A key of the map at the path.
    Key(String, &'static str),
    Required(String, &'static str),
    OneOf(String, Vec<&'static str>),
    /// One of these words.
    Word(String, Vec<String>),
}

impl Collector {
    pub(crate) fn report(
        &self,
        place: Place,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.found.borrow_mut().push(Diagnostic {
            path: one_line(path),
            line: place.line,
            column: place.column,
            message: one_line(&message.into()),
            help: help.map(|help| one_line(&help)),
        });
    }

    pub(crate) fn listening() -> Self {
        Self { heard: Some(RefCell::default()), ..Self::default() }
    }

    pub(crate) fn heard(self) -> Vec<Ask> {
        self.heard.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Costs nothing where nobody listens.
    pub(crate) fn hear(&self, ask: impl FnOnce() -> Ask) {
        if let Some(heard) = &self.heard {
            heard.borrow_mut().push(ask());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    pub(crate) fn sorted(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.sort_by(|a, b| {
            (a.line, a.column, &a.path, &a.message).cmp(&(b.line, b.column, &b.path, &b.message))
        });
        found.dedup();
        found
    }
}

/// What a file says may stand in a message, but must not break its line nor fill the screen.
fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 400;
    let mut line = String::with_capacity(text.len().min(MAX_CHARS));
    for c in text.chars().take(MAX_CHARS) {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    if text.chars().nth(MAX_CHARS).is_some() {
        line.push_str("...");
    }
    line
}

/// ``did you mean `x`?`` or, where nothing is near, everything allowed.
pub(crate) fn suggest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let mut candidates: Vec<&str> = candidates.into_iter().collect();
    candidates.sort_unstable();
    candidates.dedup();
    match nearest(word, &candidates) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if candidates.is_empty() || candidates.len() > 100 => None,
        None => Some(format!("allowed: {}", candidates.join(", "))),
    }
}

/// The candidate a person most likely meant: few typing errors away, or one inside the other.
fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // The table is quadratic, and a hint is not worth seconds in a huge file.
    if word.chars().count() > 64 || candidates.len() > 1_000 {
        return None;
    }
    candidates
        .iter()
        .filter_map(|candidate| {
            let length = word.chars().count().max(candidate.chars().count());
            let distance = edits(word, candidate);
            if distance <= (length / 3).max(1) {
                Some((distance, *candidate))
            } else if word.len() >= 3
                && candidate.len() >= 3
                && (candidate.contains(word) || word.contains(candidate))
            {
                Some((100 + length, *candidate))
            } else {
                None
            }
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbors that turn one word into the other.
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        assert_eq!(suggest("wlak", ["walk", "sine"]).unwrap(), "did you mean `walk`?");
        assert_eq!(
            suggest("within", ["away", "back_within"]).unwrap(),
            "did you mean `back_within`?"
        );
    }

    #[test]
    fn a_message_is_one_line_whatever_the_file_says() {
        let out = Collector::default();
        out.report(Place { line: 1, column: 2 }, "a\nb", "x\u{1b}[31m\ny".repeat(200), None);
        let line = out.sorted()[0].to_string();
        assert!(line.starts_with("1:2 a\\nb: x\\u{1b}[31m\\ny"), "{line}");
        assert!(line.ends_with("..."), "{line}");
    }

    #[test]
    fn where_nothing_is_near_everything_allowed_is_said() {
        assert_eq!(
            suggest("telemetry", ["sensors", "ingest"]).unwrap(),
            "allowed: ingest, sensors"
        );
    }
}
