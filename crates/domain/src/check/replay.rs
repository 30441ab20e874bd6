//! Recorded traffic, replayed with its timing: each device sends the whole recording.

use super::Check;
use crate::files::Recording;
use crate::plan::{Arrivals, Offsets, Recorded};
use crate::scenario::{Replay, Send, Written};
use crate::template::{Generator, Template};
use crate::units;

pub(super) struct Replayed {
    recording: Recording,
    pub(super) arrivals: Arrivals,
    /// The mean distance of its messages.
    pub(super) period_ns: u64,
}

impl Replayed {
    pub(super) fn payload(&self) -> Template {
        Template::of(Generator::RecordedPayload(self.recording.clone()))
    }
}

impl Check<'_> {
    pub(super) fn replay(&self, send: &Send, replay: &Replay, has_churn: bool) -> Option<Replayed> {
        for other in [&send.jitter, &send.arrivals].into_iter().flatten() {
            let message = format!("`{}` has no meaning beside `replay`", other.key());
            self.out.report(other.place, &other.path, message, None);
        }
        let file = replay.file.as_ref()?;
        if has_churn {
            let message = "a group with `churn` cannot replay: each visit would cut the recording";
            self.out.report(file.place, &file.path, message, None);
        }
        let recording = self.recording(file);
        let speed = match &replay.speed {
            Some(speed) => self.speed(speed),
            None => Some(1.0),
        };
        let recording = recording?;
        let cycle_ns = self.cycle(replay.repeat.as_ref(), &recording);
        let (speed, cycle_ns) = (speed?, cycle_ns?);
        let at_speed = |ns: u64| (ns as f64 / speed).round() as u64;
        let offsets_ns: Vec<u64> = recording.offsets_ns().iter().map(|ns| at_speed(*ns)).collect();
        let last_ns = offsets_ns.last().copied().unwrap_or_default();
        // Rounding at a high speed must not let two rounds overlap.
        let cycle_ns = cycle_ns.map(|ns| at_speed(ns).max(last_ns + 1_000));
        let length_ns = cycle_ns.unwrap_or(last_ns);
        let period_ns = (length_ns / offsets_ns.len() as u64).max(1_000);
        let arrivals =
            Arrivals::Recorded(Recorded { offsets_ns: Offsets(offsets_ns.into()), cycle_ns });
        Some(Replayed { recording, arrivals, period_ns })
    }

    /// Of a replay without a topic of its own.
    pub(super) fn recorded_topic(&self, replay: &Replay, replayed: &Replayed) -> Option<Template> {
        if replayed.recording.has_topics() {
            return Some(Template::of(Generator::RecordedTopic(replayed.recording.clone())));
        }
        let file = replay.file.as_ref()?;
        let help = Some("give the replay a `topic`".to_owned());
        self.out.report(file.place, &file.path, "the recording has no column `topic`", help);
        None
    }

    fn recording(&self, file: &Written) -> Option<Recording> {
        let id = self.shipped(file)?;
        let shipped = self.file(id)?;
        match Recording::read(&shipped) {
            Ok(recording) => Some(recording),
            Err(mistakes) => {
                self.report_mistakes(file, &shipped.path, mistakes);
                None
            }
        }
    }

    /// Times as fast as recorded.
    fn speed(&self, written: &Written) -> Option<f64> {
        let resolved = self.resolve(written)?;
        let speed = units::bare(&resolved.text).filter(|speed| (0.001..=1_000.0).contains(speed));
        if speed.is_none() {
            self.misread(written, &resolved, "a number from 0.001 to 1000, like 2 or 0.5");
        }
        speed
    }

    /// Recorded time after which it begins again; `Some(None)`: never.
    fn cycle(&self, written: Option<&Written>, recording: &Recording) -> Option<Option<u64>> {
        let Some(written) = written else { return Some(None) };
        let resolved = self.resolve(written)?;
        let offsets = recording.offsets_ns();
        let last_ns = offsets.last().copied().unwrap_or_default();
        match resolved.text.as_str() {
            "false" => Some(None),
            "true" if last_ns > 0 => Some(Some(last_ns + last_ns / (offsets.len() as u64 - 1))),
            "true" => {
                self.misread(written, &resolved, "how long the recording is, like loop: 10s");
                None
            }
            text => match units::duration_ns(text) {
                Some(ns) if ns > last_ns => Some(Some(ns)),
                Some(_) => {
                    let last = last_ns as f64 / 1e9;
                    let needs = format!("a duration after the last message ({last}s)");
                    self.misread(written, &resolved, &needs);
                    None
                }
                None => {
                    self.misread(written, &resolved, "true, false or a duration, like 24h");
                    None
                }
            },
        }
    }
}
