//! How long things took over many runs, beside what is promised: a table that `just chaos` prints at its end.
//!
//! All times are those of the messages that arrived, which say themselves when they were sent, of the run's events, and of
//! this test's own clock, which is the same machine's.

use std::collections::BTreeMap;
use std::io::Write as _;

use shoal_service_kit::{Clock, SystemClock};

/// What is measured; the order is that of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Span {
    StartSpread,
    Stop,
    Reattached,
    AgainOnProof,
    AllAgainOnProof,
    LostOfKilled,
    Detected,
    Moved,
    AllMoved,
}

impl Span {
    /// What it is, its unit, and what is promised.
    fn about(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::StartSpread => {
                ("start: an agent's first instant behind the common one", "s", "p99 <= 0.1")
            }
            Self::Stop => ("`shoal stop`: last send", "s", "p99 <= 2, max 5"),
            Self::Reattached => (
                "SIGKILL of the control plane, restarted: all agents connected again",
                "s",
                "<= 10",
            ),
            Self::AgainOnProof => {
                ("SIGKILL of an agent, its next process at once: first device sends", "s", "<= 5")
            }
            Self::AllAgainOnProof => ("the same: all of its devices have sent", "s", "-"),
            Self::LostOfKilled => {
                ("SIGKILL of an agent: sent and never reported, in its seconds", "s", "<= 1 + RTT")
            }
            Self::Detected => ("SIGKILL for good, lease 20 s: LOST", "s", "<= 30 + 1"),
            Self::Moved => ("the same: first device sends elsewhere", "s", "-"),
            Self::AllMoved => ("the same: all of its devices have sent elsewhere", "s", "-"),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Times(BTreeMap<Span, Vec<f64>>);

impl Times {
    pub(crate) fn took(&mut self, span: Span, value: f64) {
        self.0.entry(span).or_default().push(value);
    }

    /// As Markdown, so that it can be kept in `docs/reliability.md` as it is.
    pub(crate) fn print(&self) {
        let mut text = "\n| what | unit | n | p50 | p99 | max | promised |\n".to_owned();
        text.push_str("|---|---|---|---|---|---|---|\n");
        for (span, values) in &self.0 {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            // The nearest rank, so that a percentile is always something that happened.
            let at = |quantile: f64| {
                let rank = (quantile * sorted.len() as f64).ceil().max(1.0) as usize;
                sorted[rank.min(sorted.len()) - 1]
            };
            let (what, unit, promised) = span.about();
            let (n, p50, p99, max) = (sorted.len(), at(0.5), at(0.99), at(1.0));
            text.push_str(&format!(
                "| {what} | {unit} | {n} | {p50:.3} | {p99:.3} | {max:.3} | {promised} |\n"
            ));
        }
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
}

/// As messages say it.
pub(crate) fn unix_us() -> u64 {
    SystemClock.unix_us()
}
