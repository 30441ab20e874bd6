//! A line of a log, on its way from an agent into the store and to a reader.
//!
//! Who sends it is not trusted: its level is one of five, its text and fields are cut, and it cannot
//! claim a time that has not come. Invariant: a [`LogLine`] can be stored by every database and is
//! never longer than [`MOST_TEXT`] says.

use serde_json::Value;

use crate::ids::RunId;

/// Bytes of the text, and of the fields.
pub const MOST_TEXT: usize = 4 * 1024;
/// Lines that are sent together.
pub const MOST_LINES: usize = 64;
/// Lines of one agent that are kept of a run: the newest.
pub const MOST_KEPT: usize = 5_000;

/// From the least to the most severe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    pub const ALL: [Self; 5] = [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Trace => "TRACE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.word() == word)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Counts from 0 in the process that said it.
    pub number: u64,
    /// Control-plane time in microseconds since the Unix epoch.
    pub at_us: u64,
    pub level: Level,
    /// The module that said it.
    pub target: String,
    /// `None`: it is about all runs that its sender took part in when it was said.
    pub run: Option<RunId>,
    pub text: String,
    /// A JSON object.
    pub fields: String,
    /// Lines that were lost right before this one.
    pub dropped: u64,
}

impl LogLine {
    /// Whether it is about a run that its sender takes part in. What names none is about all that
    /// were there when it was said: it may come later, when its sender has got another one.
    pub fn is_about(&self, run: RunId) -> bool {
        match self.run {
            Some(named) => named == run,
            None => self.at_us >= run.made_at_us(),
        }
    }

    /// Brings what somebody sent within bounds. `now_us`: it was said before.
    #[must_use]
    pub fn bounded(self, now_us: u64) -> Self {
        let is_object = |text: &str| matches!(serde_json::from_str(text), Ok(Value::Object(_)));
        let fields = match self.fields.len() <= MOST_TEXT && is_object(&self.fields) {
            true => self.fields,
            false => "{}".to_owned(),
        };
        Self {
            // Databases count in 63 bits.
            number: self.number.min(i64::MAX as u64),
            at_us: self.at_us.min(now_us),
            target: plain(self.target, 200),
            text: plain(self.text, MOST_TEXT),
            fields,
            dropped: self.dropped.min(u64::from(u32::MAX)),
            ..self
        }
    }
}

/// Cut, and without the one character that Postgres has no text for.
fn plain(mut text: String, most: usize) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    text.truncate(text.floor_char_boundary(most));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(text: String, fields: String, (number, at_us, dropped): (u64, u64, u64)) -> LogLine {
        let target = text.clone();
        LogLine { number, at_us, level: Level::Info, target, run: None, text, fields, dropped }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_fits_into_the_store(
            text in ".{0,40}", times in 0usize..200, fields in ".{0,40}", numbers in any::<(u64, u64, u64)>(), now_us in 0..u64::MAX / 2,
        ) {
            let sent = line(format!("{text}\0").repeat(times), fields, numbers);
            let kept = sent.clone().bounded(now_us);
            prop_assert!(kept.text.len() <= MOST_TEXT && kept.target.len() <= 200);
            prop_assert!(!kept.text.contains('\0'));
            prop_assert!(i64::try_from(kept.number).is_ok() && i64::try_from(kept.at_us).is_ok());
            prop_assert!(serde_json::from_str::<Value>(&kept.fields).unwrap().is_object());
            prop_assert_eq!(kept.clone().bounded(now_us), kept);
        }
    }

    #[test]
    fn an_honest_line_is_kept_as_it_is() {
        let honest = line("refused".into(), r#"{"code":"SH0301","n":3}"#.into(), (7, 1_000, 2));
        assert_eq!(honest.clone().bounded(2_000), honest);
    }

    #[test]
    fn a_line_is_about_the_run_that_it_names_or_those_that_were_there() {
        let run = |ms: u64| RunId::from_parts(ms, 7);
        let says =
            |run: Option<RunId>| LogLine { run, ..line("x".into(), "{}".into(), (0, 5_000, 0)) };
        assert!(says(Some(run(9))).is_about(run(9)) && !says(Some(run(9))).is_about(run(4)));
        assert!(
            says(None).is_about(run(5)) && !says(None).is_about(run(6)),
            "it was not there yet"
        );
    }

    #[test]
    fn levels_are_ordered_by_severity() {
        assert!(Level::Warn < Level::Error && Level::Info < Level::Warn);
        assert!(Level::ALL.into_iter().all(|level| Level::from_word(level.word()) == Some(level)));
    }
}
