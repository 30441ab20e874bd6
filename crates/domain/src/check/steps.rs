//! The closed model: steps, tasks, waits, and the series that they count in.

use super::Check;
use super::http::all;
use super::text::Scope;
use crate::diagnostics::suggest;
use crate::ids::SeriesId;
use crate::outcome::Operation;
use crate::plan::{Loop, Series, Step, Task, Wait};
use crate::scenario::http as written;
use crate::scenario::{Group, Level, Target, Written};

/// Of one task; a sum of them fits into 64 bits whatever the file says.
const MAX_WEIGHT: u64 = 1_000_000;

impl Check<'_> {
    /// What a group does must be of the kind that its target speaks.
    pub(super) fn fits_target(&self, group: &Group, target: &Target) {
        let is_http = target.http.is_some();
        let refuse = |place, path: &str, what: &str| {
            let (needed, is) = if is_http { ("an mqtt", "http") } else { ("an http", "mqtt") };
            let message = format!("{what} needs {needed} target, `{}` is {is}", target.name);
            self.out.report(place, path, message, None);
        };
        for send in &group.sends {
            if is_http != (send.operation == Operation::Http) {
                let path = format!("{}.send.{}", group.path, send.name);
                refuse(send.place, &path, &format!("`{}`", send.operation.word()));
            }
        }
        let bearer = group.bearer.iter().filter(|_| !is_http);
        for written in bearer {
            refuse(written.place, &written.path, "`bearer`");
        }
        if let Some(step) = group.steps().find(|_| !is_http) {
            refuse(step.place, &step.path, "an `http` step");
        }
    }

    /// Adds the series of a group's steps; steps of one name share theirs.
    pub(super) fn step_series(&self, group: &Group, index: usize, series: &mut Vec<Series>) {
        let first = series.len();
        for step in group.steps() {
            self.reserved(&step.name, step.place, &step.path);
            if group.sends.iter().any(|send| send.name == step.name) {
                let message = format!(
                    "`{}` is a series of `send` already, which keeps a schedule",
                    step.name
                );
                self.out.report(step.place, &step.path, message, None);
            }
            if !series[first..].iter().any(|known| known.name == step.name) {
                let (operation, name) = (Operation::Http, step.name.clone());
                series.push(Series { operation, name, group: index });
            }
        }
    }

    /// `None` where one of them is not usable.
    pub(super) fn steps(
        &self,
        steps: &[written::Step],
        series_of: &dyn Fn(&str) -> Option<SeriesId>,
        scope: &Scope<'_>,
        timeout_us: Option<u64>,
    ) -> Option<Vec<Step>> {
        let checked = steps.iter().map(|step| {
            let when = match &step.when {
                Some(when) => self.when(when, scope.captures).map(Some),
                None => Some(None),
            };
            let request = step.request.as_ref();
            let request = request.and_then(|request| self.request(request, scope, timeout_us));
            Some(Step { series: series_of(&step.name)?, when: when?, request: request? })
        });
        all(checked.collect())
    }

    fn when(&self, when: &Written, captures: &[String]) -> Option<usize> {
        let text = when.text.trim();
        let bare = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
        let Some(name) = bare.trim().strip_prefix("captured.") else {
            let message = format!("`{text}` found, a captured value like captured.token expected");
            self.out.report(when.place, &when.path, message, None);
            return None;
        };
        let index = captures.iter().position(|known| known == name);
        if index.is_none() {
            let message = format!("`captured.{name}` is not defined");
            let help = suggest(name, captures.iter().map(String::as_str));
            self.out.report(when.place, &when.path, message, help);
        }
        index
    }

    pub(super) fn closed_loop(
        &self,
        closed: &written::Loop,
        series_of: &dyn Fn(&str) -> Option<SeriesId>,
        scope: &Scope<'_>,
        timeout_us: Option<u64>,
    ) -> Option<Loop> {
        let wait = closed.wait.as_ref().map_or(Some(Wait::None), |wait| self.wait(wait));
        let cap_interval_ns = closed.rate_cap.as_ref().map(|cap| self.interval(cap));
        // A wave of `sine` is counted in rounds, which only a pacing gives a length.
        let period_ns = match wait {
            Some(Wait::Pacing { us }) => Some(us.saturating_mul(1_000)),
            _ => None,
        };
        let scope = Scope { level: Level::Message, period_ns, ..scope.clone() };
        let checked = closed.tasks.iter().map(|task| {
            let weight = task.weight.as_ref();
            let weight = weight.map_or(Some(1), |weight| self.whole(weight, 0, MAX_WEIGHT));
            let steps = self.steps(&task.steps, series_of, &scope, timeout_us);
            Some(Task { name: task.name.clone(), weight: weight? as u32, steps: steps? })
        });
        let tasks = all(checked.collect());
        let has_weight =
            tasks.as_ref().is_none_or(|tasks| tasks.iter().any(|task| task.weight > 0));
        if !has_weight {
            let message = "at least one task with a weight is expected";
            self.out.report(closed.place, &closed.path, message, None);
            return None;
        }
        let cap_interval_ns = match cap_interval_ns {
            Some(interval) => Some(interval?),
            None => None,
        };
        Some(Loop { wait: wait?, tasks: tasks?, cap_interval_ns })
    }

    fn wait(&self, wait: &written::Wait) -> Option<Wait> {
        match wait {
            written::Wait::Pacing(text) => {
                // A rate is a pacing as well: so many tasks per device and time.
                let is_rate = self.resolve(text)?.text.contains('/');
                let us = if is_rate { self.interval(text)? / 1_000 } else { self.micros(text)? };
                Some(Wait::Pacing { us })
            }
            written::Wait::Constant(text) => self.micros(text).map(|us| Wait::Constant { us }),
            written::Wait::Between(least, most) => {
                let (least_us, most_us) = (self.micros(least)?, self.micros(most)?);
                if most_us < least_us {
                    let resolved = self.resolve(most)?;
                    self.misread(most, &resolved, "a duration of at least the first one");
                    return None;
                }
                Some(Wait::Between { least_us, most_us })
            }
        }
    }

    /// Nanoseconds between two events of a rate.
    fn interval(&self, rate: &Written) -> Option<u64> {
        let interval = self.rate(rate)?.time_of(1);
        if interval.is_none_or(|ns| ns == 0) {
            let resolved = self.resolve(rate)?;
            self.misread(rate, &resolved, "a rate of at most 1000000000/s");
            return None;
        }
        interval
    }
}
