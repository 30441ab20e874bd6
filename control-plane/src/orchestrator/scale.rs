//! `shoal scale`: whether a running load may change so, and what exactly it changes to. Pure.

use shoal_domain::plan::Plan;
use shoal_domain::run::Phase;
use shoal_domain::schedule::{MAX_REVISIONS, Revision, Timetable};

use crate::record::{Record, Scaled};
use crate::refusal::{Kind, Refusal};

/// From the decision to its run time, so that agents hear of it before.
const LEAD_US: u64 = 1_000_000;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Empty: the only group.
    pub group: String,
    pub devices: u64,
    /// 0: the most that the plan declares.
    pub rate_per_s: f64,
}

impl Scaled {
    pub fn sentence(&self, plan: &Plan) -> String {
        let Revision { at_us, group, devices, .. } = self.revision;
        let group = plan.groups.get(group).map_or("?", |group| group.name.as_str());
        format!(
            "{group} from {} to {devices} devices at {}/s from {:.3} s on",
            self.from_devices,
            self.rate_per_s,
            at_us as f64 / 1e6
        )
    }
}

/// The most connects per second that the plan and its revisions declare.
pub(super) fn spawn_rate(plan: &Plan, record: &Record) -> f64 {
    record.scaled.iter().map(|scaled| scaled.rate_per_s).fold(plan.spawn_rate(), f64::max)
}

/// The revision that follows from a wish, or why there is none.
pub(super) fn decide(
    wanted: &Wanted,
    timetable: &Timetable,
    record: &Record,
    now_us: u64,
) -> Result<Scaled, Refusal> {
    let plan = timetable.plan();
    let refuse = |message: String| Refusal::new(Kind::Invalid, "SH0411", message);
    let (Phase::Running, Some(t0_us)) = (record.state.phase(), record.state.t0_us()) else {
        let phase = record.state.phase().word();
        return Err(refuse(format!("the run is {phase}: only the load of a RUNNING one changes")));
    };
    let names =
        || plan.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ");
    let group = match plan.groups.as_slice() {
        [_] if wanted.group.is_empty() => Some(0),
        groups => groups.iter().position(|group| group.name == wanted.group),
    };
    let Some(group) = group else {
        let message = match wanted.group.as_str() {
            "" => "the scenario has several groups: say which one is scaled".to_owned(),
            other => format!("no group `{other}` in this scenario"),
        };
        return Err(refuse(message).help(format!("groups: {}", names())));
    };
    let (name, most) = (&plan.groups[group].name, plan.groups[group].devices);
    if wanted.devices > most {
        let message = format!(
            "{} devices are wanted, but group {name} has {most}: identities and rows are planned \
             when a run starts",
            wanted.devices
        );
        return Err(refuse(message).help(
            "give the group as many devices as it may ever need, and let `load` start a part of them",
        ));
    }
    let rate_per_s = if wanted.rate_per_s == 0.0 { plan.spawn_rate() } else { wanted.rate_per_s };
    if !(rate_per_s.is_finite() && rate_per_s > 0.0) {
        return Err(refuse(format!("{rate_per_s} devices per second is no rate")));
    }
    if record.scaled.len() >= MAX_REVISIONS {
        return Err(refuse(format!("the load was changed {MAX_REVISIONS} times already")));
    }
    let last_us = record.scaled.last().map_or(0, |scaled| scaled.revision.at_us);
    let at_us = (now_us.saturating_sub(t0_us) + LEAD_US).max(last_us + 1);
    if at_us >= plan.end_of(group).min(record.load_end_us) {
        return Err(refuse(format!("the load of group {name} is about to end")));
    }
    let from_devices = timetable.level_at(group, at_us);
    let n = wanted.devices.abs_diff(from_devices);
    let over_us = ((n as f64 * 1e6 / rate_per_s).ceil() as u64).max(1);
    let revision = Revision { at_us, group, devices: wanted.devices, over_us };
    Ok(Scaled { revision, from_devices, rate_per_s })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_domain::check::parse_plan;
    use shoal_domain::files::Files;
    use shoal_domain::run::RunState;

    use super::*;

    const T0_US: u64 = 1_000_000_000;

    fn timetable(groups: &str) -> Timetable {
        let text = format!(
            "version: 1\nname: scale\ntargets: {{ t: {{ mqtt: {{ url: builtin }} }} }}\ngroups:\n{groups}\
             load: [ {{ ramp: {{ to: 50%, rate: 10/s }} }}, {{ hold: {{ until: 60s }} }} ]\n"
        );
        let plan = parse_plan(&text, &[], &Files::none()).unwrap();
        Timetable::new(Arc::new(plan), 1, &[])
    }

    fn group(name: &str) -> String {
        format!(
            "  {name}: {{ target: t, devices: 100, send: {{ s: {{ every: 1s, publish: {{ topic: a, text: x }} }} }} }}\n"
        )
    }

    fn running() -> Record {
        let state = RunState::Running {
            agents: Default::default(),
            closed: Default::default(),
            t0_us: T0_US,
            end_us: T0_US + 60_000_000,
        };
        Record {
            sample_millionths: 0,
            state,
            load_end_us: 60_000_000,
            roster: Default::default(),
            scaled: Vec::new(),
            false_since_us: Default::default(),
            starts: Vec::new(),
            agents_wanted: 1,
            is_owned: false,
            builtin: String::new(),
        }
    }

    fn wanted(group: &str, devices: u64, rate_per_s: f64) -> Wanted {
        Wanted { group: group.into(), devices, rate_per_s }
    }

    #[test]
    fn from_what_runs_at_the_rate_that_was_asked_for() {
        let timetable = timetable(&group("g"));
        let mut record = running();
        let up = decide(&wanted("", 100, 25.0), &timetable, &record, T0_US + 20_000_000).unwrap();
        assert_eq!((up.from_devices, up.revision.at_us), (50, 21_000_000));
        assert_eq!(up.revision.over_us, 2_000_000);
        record.scaled.push(up);
        assert_eq!(spawn_rate(timetable.plan(), &record), 25.0);
        let again = decide(&wanted("g", 0, 0.0), &timetable, &record, T0_US + 20_000_000).unwrap();
        assert!(again.revision.at_us > 21_000_000, "they stay in order");
        assert_eq!(again.rate_per_s, 10.0, "the steepest of the plan");
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_reason() {
        let one = timetable(&group("g"));
        let two = timetable(&(group("a") + &group("b")));
        let refusal = |wanted: &Wanted, timetable: &Timetable, record: &Record, at_us: u64| {
            let refusal = decide(wanted, timetable, record, T0_US + at_us).unwrap_err();
            assert_eq!(refusal.code, "SH0411");
            refusal.to_string()
        };
        let (record, early) = (running(), 20_000_000);
        assert!(refusal(&wanted("", 101, 1.0), &one, &record, early).contains("group g has 100"));
        assert!(refusal(&wanted("", 1, 1.0), &two, &record, early).contains("several groups"));
        assert!(refusal(&wanted("c", 1, 1.0), &two, &record, early).contains("no group `c`"));
        assert!(refusal(&wanted("", 1, -1.0), &one, &record, early).contains("no rate"));
        assert!(refusal(&wanted("", 1, 1.0), &one, &record, 59_500_000).contains("about to end"));
        let pending = Record { state: RunState::Pending { deadline_us: 0 }, ..record };
        assert!(refusal(&wanted("", 1, 1.0), &one, &pending, early).contains("PENDING"));
    }
}
