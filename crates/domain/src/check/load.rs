//! `load` becomes contiguous stages in run time.
//!
//! Stages that are not built yet still get a name, so that a threshold on them can be read.

use std::collections::{HashMap, HashSet};

use super::Check;
use super::vars::Resolved;
use crate::plan::{Group, Stage, StageKind};
use crate::scenario::{self, RampTime, Written};
use crate::units;

const MAX_END_US: u64 = 30 * 24 * 3_600 * 1_000_000;

pub(super) struct Load {
    pub(super) stages: Option<Vec<Stage>>,
    /// Of every stage of the file, also of those that are not usable.
    pub(super) names: Vec<String>,
}

/// Where the stages so far have led; `None` after a stage that could not be read.
#[derive(Clone, Copy)]
struct Reached {
    us: Option<u64>,
    devices: Option<u64>,
}

impl Check<'_> {
    pub(super) fn load(&self, groups: Option<&[Group]>) -> Load {
        let names = self.stage_names();
        let mut stages = Some(Vec::new());
        let mut reached = Reached { us: Some(0), devices: Some(0) };
        for (written, name) in self.file.load.iter().zip(&names) {
            let start_us = reached.us;
            let (kind, next) = self.stage(&written.kind, reached, groups);
            reached = next;
            let stage = (|| {
                let (start_us, end_us) = (start_us?, next.us?);
                Some(Stage { name: name.clone(), kind: kind?, start_us, end_us })
            })();
            match (stage, &mut stages) {
                (Some(stage), Some(stages)) => stages.push(stage),
                _ => stages = None,
            }
            if reached.us.is_some_and(|us| us > MAX_END_US) {
                let message = "the load lasts longer than 30 days";
                self.out.report(written.place, &written.path, message, None);
                reached.us = None;
            }
        }
        if self.file.load.is_empty() {
            let message = "at least one stage is expected";
            self.out.report(self.file.load_place, "load", message, None);
        }
        Load { stages, names }
    }

    fn stage_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        // Names that a person gave come first, wherever they stand.
        let mut taken: HashSet<String> = self
            .file
            .load
            .iter()
            .filter_map(|stage| stage.name.as_ref().map(|name| name.text.clone()))
            .collect();
        let mut seen = HashSet::new();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for stage in &self.file.load {
            let Some(written) = &stage.name else {
                let word = stage.kind.word();
                let count = counts.entry(word).or_default();
                let name = loop {
                    *count += 1;
                    let name =
                        if *count == 1 { word.to_owned() } else { format!("{word}-{count}") };
                    if taken.insert(name.clone()) {
                        break name;
                    }
                };
                names.push(name);
                continue;
            };
            let name = written.text.clone();
            let is_word = !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !is_word {
                let message =
                    format!("`{name}` found, 1 to 64 letters, digits, `_` or `-` expected");
                self.out.report(written.place, &written.path, message, None);
            } else if name == "all" || name == "drain" {
                let message = format!("`{name}` is a reserved name");
                self.out.report(written.place, &written.path, message, None);
            } else if !seen.insert(name.clone()) {
                let message = format!("a stage before this one is called `{name}` already");
                self.out.report(written.place, &written.path, message, None);
            }
            names.push(name);
        }
        names
    }

    fn stage(
        &self,
        kind: &scenario::StageKind,
        reached: Reached,
        groups: Option<&[Group]>,
    ) -> (Option<StageKind>, Reached) {
        let lost = Reached { us: None, ..reached };
        match kind {
            scenario::StageKind::Ramp { to, time } => {
                let to = to.as_ref().and_then(|to| self.ramp_to(to, groups));
                let duration = time.as_ref().and_then(|time| self.ramp_time(time));
                let next = Reached { us: None, devices: to.map(|(n, _)| n) };
                let (Some((to, written)), Some(from)) = (to, reached.devices) else {
                    return (None, next);
                };
                if to < from {
                    self.out.later(written.place, &written.path, "a ramp downwards");
                    return (None, next);
                }
                if to == from {
                    let message = format!("{to} devices run already: a ramp needs more of them");
                    self.out.report(written.place, &written.path, message, None);
                    return (None, next);
                }
                let lasts_us = match duration {
                    Some(Duration::Over(us)) => Some(us),
                    Some(Duration::Rate(rate)) => {
                        // Beyond 64 bits is beyond 30 days, which is said above.
                        Some(
                            rate.time_of(to - from)
                                .map_or(MAX_END_US + 1, |ns| (ns / 1_000).max(1)),
                        )
                    }
                    None => None,
                };
                let end_us =
                    reached.us.zip(lasts_us).map(|(start, lasts)| start.saturating_add(lasts));
                (Some(StageKind::Ramp { from, to }), Reached { us: end_us, ..next })
            }
            scenario::StageKind::HoldFor(written) => {
                let lasts_us = self.micros(written);
                let end_us =
                    reached.us.zip(lasts_us).map(|(start, lasts)| start.saturating_add(lasts));
                (Some(StageKind::Hold), Reached { us: end_us, ..reached })
            }
            scenario::StageKind::HoldUntil(written) => {
                let end_us = self.micros(written);
                if let (Some(end), Some(start)) = (end_us, reached.us)
                    && end <= start
                    && let Some(resolved) = self.resolve(written)
                {
                    let seconds = start as f64 / 1e6;
                    let needs = format!("a run time after this stage's start ({seconds}s)");
                    self.misread(written, &resolved, &needs);
                    return (None, lost);
                }
                let end_us = reached.us.and(end_us);
                (Some(StageKind::Hold), Reached { us: end_us, ..reached })
            }
            scenario::StageKind::Storm { group, away, back_within } => {
                if let Some(group) = group {
                    self.known_group(group);
                }
                for duration in [away, back_within].into_iter().flatten() {
                    self.micros(duration);
                }
                (None, lost)
            }
            scenario::StageKind::Unknown => (None, lost),
        }
    }

    fn ramp_time(&self, time: &RampTime) -> Option<Duration> {
        match time {
            RampTime::Rate(rate) => self.rate(rate).map(Duration::Rate),
            RampTime::Over(over) => self.micros(over).map(Duration::Over),
        }
    }

    /// How many devices of the whole plan run at the ramp's end.
    fn ramp_to<'w>(
        &self,
        written: &'w Written,
        groups: Option<&[Group]>,
    ) -> Option<(u64, &'w Written)> {
        let resolved = self.resolve(written)?;
        let wrong = |resolved: &Resolved, needs: &str| {
            self.misread(written, resolved, needs);
            None
        };
        if let Some(share) = units::percent(&resolved.text) {
            if share > 1.0 {
                return wrong(&resolved, "a share of at most 100%");
            }
            let devices: u64 = groups?.iter().map(|group| group.devices).sum();
            return Some((units::share_of(&resolved.text, devices)?, written));
        }
        let Some(to) = units::whole(&resolved.text) else {
            return wrong(&resolved, "a share like 100% or a whole number");
        };
        if self.file.groups.len() > 1 {
            return wrong(&resolved, "a share like 100%, because this file has several groups");
        }
        let devices: u64 = groups?.iter().map(|group| group.devices).sum();
        if to > devices {
            return wrong(&resolved, &format!("at most {devices}, the devices of this file"));
        }
        Some((to, written))
    }
}

enum Duration {
    Rate(units::Rate),
    Over(u64),
}
