//! Observers: what they name must exist, and what is asked of them their source must carry.
//!
//! Reading the platform's output is not in this release; its grammar is checked all the same.

use super::Check;
use super::text::Columns;
use super::thresholds::{Named, shape};
use crate::diagnostics::suggest;
use crate::scenario::{Observer, Written};
use crate::threshold::{Line, OBSERVED_COUNTERS, OBSERVED_TIMES};

impl Check<'_> {
    pub(super) fn observers(&self) {
        for observer in &self.file.observers {
            if super::groups::RESERVED.contains(&observer.name.as_str())
                || self.file.groups.iter().any(|group| group.name == observer.name)
            {
                let message = format!(
                    "`{}` is taken: groups and observers share one namespace",
                    observer.name
                );
                self.out.report(observer.place, &observer.path, message, None);
            }
            self.later_texts(&observer.later, &[], &[], Columns::None);
            let Some(of) = &observer.of else { continue };
            let known: Vec<String> =
                self.file.groups.iter().flat_map(|group| self.series_of(group)).collect();
            if !known.contains(&of.text) {
                let sent =
                    known.iter().map(String::as_str).filter(|path| !path.ends_with(".connect"));
                let help = suggest(&of.text, sent);
                self.out.report(of.place, &of.path, format!("no series `{}`", of.text), help);
            }
        }
    }

    /// A threshold's path that begins with an observer's name.
    pub(super) fn observed(
        &self,
        observer: &Observer,
        rest: &[&str],
        line: &Line<'_>,
        written: &Written,
    ) -> Option<Named> {
        let (word, statistic) = match rest {
            [word] => (*word, None),
            [word, statistic] => (*word, Some(*statistic)),
            _ => return self.refuse(written, shape(line.path), None),
        };
        if OBSERVED_TIMES.contains(&word) {
            let is_blind =
                matches!(observer.source, "mqtt" | "webhook") && word != "end_to_end_delay";
            if is_blind {
                let source = observer.source;
                let message =
                    format!("`{word}` needs the time of enqueueing, which {source} does not carry");
                return self.refuse(written, message, Some("use end_to_end_delay".to_owned()));
            }
            self.statistic(word, statistic, written)?;
            return Some(Named::Later);
        }
        if !OBSERVED_COUNTERS.contains(&word) {
            let known = OBSERVED_COUNTERS.iter().chain(&OBSERVED_TIMES).copied();
            return self.refuse(
                written,
                format!("`{word}` is no metric of an observer"),
                suggest(word, known),
            );
        }
        if statistic.is_some() {
            return self.refuse(
                written,
                format!("`{word}` is one number and has no statistic"),
                None,
            );
        }
        Some(Named::Later)
    }
}
