//! Thresholds: what must hold, also unless the file says otherwise.
//!
//! A path is resolved against everything the file names, built or not, so that a typing error is
//! told from a feature to come. A metric that a series cannot have is refused here; one that got
//! no data is judged after the run.

use super::Check;
use super::defaults::defaults;
use crate::diagnostics::suggest;
use crate::ids::{SeriesId, StageId};
use crate::outcome::Operation;
use crate::plan::{Group, Metric, Region, Send, Series, Subject, Threshold};
use crate::scenario::{self, ThresholdLine, Written};
use crate::threshold::{COUNTERS, DEVICES, Line, STATISTICS, TIMES, misfit, parse};

/// What a path names.
pub(super) enum Named {
    Plan(Subject, Metric),
    /// A series that tags have taken out: nothing can be asked of it in this run.
    Filtered,
}

struct Found<'c> {
    groups: Option<&'c [Group]>,
    series: &'c [Series],
    stages: &'c [String],
}

impl Check<'_> {
    pub(super) fn thresholds(
        &self,
        groups: Option<&[Group]>,
        series: &[Series],
        stages: &[String],
    ) -> Option<Vec<Threshold>> {
        let found = Found { groups, series, stages };
        let mut thresholds = Some(Vec::new());
        for line in &self.file.thresholds {
            match (self.threshold(line, &found), &mut thresholds) {
                (Some(threshold), Some(thresholds)) => thresholds.extend(threshold),
                _ => thresholds = None,
            }
        }
        let mut thresholds = thresholds?;
        for default in defaults(groups?, series) {
            let is_replaced = thresholds.iter().any(|written| {
                written.subject == default.subject
                    && written.metric == default.metric
                    && written.stage.is_none()
                    && written.region == Region::All
                    && written.windows.is_none()
            });
            if !is_replaced {
                thresholds.push(default);
            }
        }
        Some(thresholds)
    }

    fn threshold(&self, written: &ThresholdLine, found: &Found<'_>) -> Option<Option<Threshold>> {
        let stage = self.stage_of(written.stage.as_ref(), found.stages);
        let abort_after_us = written
            .abort_after
            .as_ref()
            .map_or(Some(None), |written| self.micros(written).map(Some));
        let text = self.resolve(&written.line)?.text;
        let line = match parse(&text) {
            Ok(line) => line,
            Err(message) => return self.refuse(&written.line, message, None),
        };
        let (subject, metric) = match self.named(&line, &written.line, found)? {
            Named::Plan(subject, metric) => (subject, metric),
            Named::Filtered => return Some(None),
        };
        if let (Some(in_stage), true) = (&written.stage, is_of_whole_run(metric)) {
            let message = "this count of an observer is known for the whole run only".to_owned();
            return self.refuse(in_stage, message, Some("leave `in` away".to_owned()));
        }
        if let Some(needs) = misfit(metric, line.limit) {
            return self.refuse(
                &written.line,
                format!("`{}` is compared with {needs}", line.path),
                None,
            );
        }
        let windows = self.windows_of(written, metric, line.limit);
        let region = self.region_of(written, &subject);
        let (comparison, limit) = (line.comparison, line.limit);
        Some(Some(Threshold {
            text: text.clone(),
            subject,
            metric,
            comparison,
            limit,
            stage: stage?,
            region: region?,
            windows: windows?,
            abort_after_us: abort_after_us?,
            is_default: false,
        }))
    }

    fn stage_of(&self, written: Option<&Written>, stages: &[String]) -> Option<Option<StageId>> {
        let Some(written) = written else { return Some(None) };
        if let Some(i) = stages.iter().position(|stage| *stage == written.text) {
            return Some(Some(StageId(i as u32)));
        }
        let help = suggest(&written.text, stages.iter().map(String::as_str));
        self.refuse(written, format!("no stage `{}`", written.text), help)
    }

    pub(super) fn refuse<T>(
        &self,
        written: &Written,
        message: String,
        help: Option<String>,
    ) -> Option<T> {
        self.out.report(written.place, &written.path, message, help);
        None
    }

    fn named(&self, line: &Line<'_>, written: &Written, found: &Found<'_>) -> Option<Named> {
        let segments: Vec<&str> = line.path.split('.').collect();
        let first = segments[0];
        if first == "all" {
            return self.named_operation(&segments, line, written, found);
        }
        if let Some(index) = self.file.groups.iter().position(|group| group.name == first) {
            return match segments.as_slice() {
                [_, "devices", rest @ ..] => {
                    let metric = self.device_metric(rest, line, written)?;
                    Some(Named::Plan(Subject::Devices(index), metric))
                }
                [_, series, rest @ ..] if !rest.is_empty() => {
                    self.named_series(index, series, rest, written, found)
                }
                _ => self.refuse(written, shape(line.path), None),
            };
        }
        if let Some(position) = self.file.observers.iter().position(|known| known.name == first) {
            return self.observed(position, &segments[1..], line, written);
        }
        let names: Vec<&str> = self
            .file
            .groups
            .iter()
            .map(|group| group.name.as_str())
            .chain(self.file.observers.iter().map(|observer| observer.name.as_str()))
            .collect();
        let message = format!("`{first}` is no group and no observer");
        self.refuse(written, message, suggest(first, names))
    }

    fn device_metric(&self, rest: &[&str], line: &Line<'_>, written: &Written) -> Option<Metric> {
        let [word] = rest else { return self.refuse(written, shape(line.path), None) };
        match DEVICES.iter().find(|(known, _)| known == word) {
            Some((_, metric)) => Some(*metric),
            None => {
                let help = suggest(word, DEVICES.iter().map(|(known, _)| *known));
                self.refuse(written, format!("`{word}` is no count of devices"), help)
            }
        }
    }

    fn named_operation(
        &self,
        segments: &[&str],
        line: &Line<'_>,
        written: &Written,
        found: &Found<'_>,
    ) -> Option<Named> {
        let [_, word, rest @ ..] = segments else {
            return self.refuse(written, shape(line.path), None);
        };
        let Some(operation) = Operation::from_word(word) else {
            let help = suggest(word, Operation::ALL.map(Operation::word));
            return self.refuse(written, format!("`{word}` is no operation"), help);
        };
        let metric = self.metric(rest, line.path, written)?;
        if !found.series.iter().any(|series| series.operation == operation) {
            let message = format!("no series of this file does `{word}`");
            return self.refuse(written, message, None);
        }
        if !operation.is_send() {
            self.has_slots(metric, line.path, written)?;
        }
        if operation == Operation::Publish
            && let Some(groups) = found.groups
        {
            let mut sends = groups.iter().flat_map(|group| group.sends());
            if !sends.any(is_acknowledged) {
                self.is_acknowledged(metric, "all.publish", written)?;
            }
        }
        Some(Named::Plan(Subject::All(operation), metric))
    }

    fn named_series(
        &self,
        index: usize,
        name: &str,
        rest: &[&str],
        written: &Written,
        found: &Found<'_>,
    ) -> Option<Named> {
        let group = &self.file.groups[index];
        let path = format!("{}.{name}", group.name);
        if group.filtered.iter().any(|filtered| filtered == name) {
            return Some(Named::Filtered);
        }
        let is_closed = group.steps().any(|step| step.name == name);
        let position =
            found.series.iter().position(|series| series.group == index && series.name == name);
        if position.is_none() {
            let names: Vec<String> = self.series_of(group).collect();
            let help = suggest(&path, names.iter().map(String::as_str));
            return self.refuse(written, format!("no series `{path}`"), help);
        }
        let metric = self.metric(rest, &path, written)?;
        if is_closed {
            if matches!(metric, Metric::ResponseTime(_)) {
                let message =
                    format!("`{path}` runs in a loop (closed model): it has no response_time");
                return self.refuse(written, message, Some("use service_time".to_owned()));
            }
            if matches!(metric, Metric::SendLag(_)) {
                let message = format!("`{path}` keeps no schedule: it has no send_lag");
                return self.refuse(written, message, Some("use service_time".to_owned()));
            }
            self.has_slots(metric, &path, written)?;
        }
        let position = position?;
        if !found.series[position].operation.is_send() {
            self.has_slots(metric, &path, written)?;
        }
        if let Some(groups) = found.groups {
            let id = SeriesId(position as u32);
            let send = groups[index].sends().iter().find(|send| send.series == id);
            if send.is_some_and(|send| !is_acknowledged(send)) {
                self.is_acknowledged(metric, &path, written)?;
            }
        }
        Some(Named::Plan(Subject::Series(SeriesId(position as u32)), metric))
    }

    /// Connecting follows no schedule of slots.
    fn has_slots(&self, metric: Metric, path: &str, written: &Written) -> Option<()> {
        use Metric::{Away, Held, Missed, NotConnected, Planned, Sent, Unassigned, Unsent};
        match metric {
            Planned | Sent | Missed | Held | NotConnected | Away | Unsent | Unassigned => {
                let message = format!("`{path}` counts attempts, not slots");
                self.refuse(written, message, Some("use count or errors".to_owned()))
            }
            _ => Some(()),
        }
    }

    fn is_acknowledged(&self, metric: Metric, path: &str, written: &Written) -> Option<()> {
        let word = match metric {
            Metric::ResponseTime(_) => "response_time",
            Metric::ServiceTime(_) => "service_time",
            _ => return Some(()),
        };
        let message = format!("`{path}` has QoS 0: nothing is acknowledged, so it has no {word}");
        self.refuse(written, message, Some("use send_lag, or qos: 1".to_owned()))
    }

    fn metric(&self, rest: &[&str], path: &str, written: &Written) -> Option<Metric> {
        let (word, statistic) = match rest {
            [word] => (*word, None),
            [word, statistic] => (*word, Some(*statistic)),
            _ => return self.refuse(written, shape(path), None),
        };
        if let Some((_, time)) = TIMES.iter().find(|(known, _)| *known == word) {
            let statistic = self.statistic(word, statistic, written)?;
            return Some(time(statistic));
        }
        let Some((_, metric)) = COUNTERS.iter().find(|(known, _)| *known == word) else {
            let known = COUNTERS.iter().map(|(known, _)| *known);
            let help = suggest(word, known.chain(TIMES.iter().map(|(known, _)| *known)));
            return self.refuse(written, format!("`{word}` is no metric"), help);
        };
        if statistic.is_some() {
            return self.refuse(
                written,
                format!("`{word}` is one number and has no statistic"),
                None,
            );
        }
        Some(*metric)
    }

    pub(super) fn statistic(
        &self,
        word: &str,
        statistic: Option<&str>,
        written: &Written,
    ) -> Option<crate::plan::Statistic> {
        let known = STATISTICS.map(|(known, _)| known);
        let Some(statistic) = statistic else {
            let message = format!("`{word}` needs a statistic: {}", known.join(", "));
            return self.refuse(written, message, None);
        };
        match STATISTICS.iter().find(|(known, _)| *known == statistic) {
            Some((_, statistic)) => Some(*statistic),
            None => {
                let help = suggest(statistic, known);
                self.refuse(written, format!("`{statistic}` is no statistic"), help)
            }
        }
    }

    pub(super) fn series_of<'g>(
        &self,
        group: &'g scenario::Group,
    ) -> impl Iterator<Item = String> + 'g {
        std::iter::once("connect")
            .chain(group.sends.iter().map(|send| send.name.as_str()))
            .chain(group.steps().map(|step| step.name.as_str()))
            .map(|name| format!("{}.{name}", group.name))
    }
}

fn is_acknowledged(send: &Send) -> bool {
    send.is_acknowledged()
}

fn is_of_whole_run(metric: Metric) -> bool {
    matches!(metric, Metric::Observed(_) | Metric::Drain | Metric::ClockBound)
}

pub(super) fn shape(path: &str) -> String {
    format!(
        "`{path}` is no metric path: <group>.<series>.<metric>[.<statistic>], <group>.devices.<count>, <observer>.<metric> or all.<operation>.<metric> is expected"
    )
}
