//! Each kind of stage: how long it lasts, and what it does to the devices of its load.

use super::{MAX_END_US, Reached, Scope};
use crate::check::Check;
use crate::check::vars::Resolved;
use crate::plan::{Leave, StageKind, Storm};
use crate::scenario::{self, RampTime, Written};
use crate::schedule::of_level;
use crate::units;

/// How often one device may come back within one `arrive`: each visit is an interval of its own.
const MAX_VISITS: u64 = 1_000;

enum Duration {
    Rate(units::Rate),
    Over(u64),
}

impl Check<'_> {
    pub(super) fn stage(
        &self,
        kind: &scenario::StageKind,
        reached: Reached,
        scope: &Scope<'_>,
    ) -> (Option<StageKind>, Reached) {
        let after = |lasts_us: Option<u64>| {
            reached.us.zip(lasts_us).map(|(start, lasts)| start.saturating_add(lasts))
        };
        match kind {
            scenario::StageKind::Ramp { to, time } => {
                self.ramp(to.as_ref(), time.as_ref(), reached, scope)
            }
            scenario::StageKind::HoldFor(written) => {
                let us = after(self.micros(written));
                (Some(StageKind::Hold), Reached { us, ..reached })
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
                    return (None, Reached { us: None, ..reached });
                }
                let us = reached.us.and(end_us);
                (Some(StageKind::Hold), Reached { us, ..reached })
            }
            scenario::StageKind::Storm(written) => {
                let away_us = written.away.as_ref().and_then(|away| self.micros(away));
                let back_us = written.back_within.as_ref().and_then(|back| self.micros(back));
                let lasts_us = away_us.zip(back_us).map(|(away, back)| away.saturating_add(back));
                let storm = self.storm(written, (away_us, back_us), reached.devices, scope);
                (storm.map(StageKind::Storm), Reached { us: after(lasts_us), ..reached })
            }
            scenario::StageKind::Arrive(written) => {
                let lasts_us = written.lasts.as_ref().and_then(|lasts| self.micros(lasts));
                let kind = self.arrive(written, lasts_us, reached.devices, scope);
                (kind, Reached { us: after(lasts_us), ..reached })
            }
            scenario::StageKind::Unknown => (None, Reached { us: None, ..reached }),
        }
    }

    fn ramp(
        &self,
        to: Option<&Written>,
        time: Option<&RampTime>,
        reached: Reached,
        scope: &Scope<'_>,
    ) -> (Option<StageKind>, Reached) {
        let to = to.and_then(|to| self.ramp_to(to, scope));
        let duration = time.and_then(|time| self.ramp_time(time));
        let next = Reached { us: None, devices: to.map(|(n, _)| n) };
        let (Some((to, written)), Some(from)) = (to, reached.devices) else {
            return (None, next);
        };
        if to == from {
            let message = format!("{to} devices run already: a ramp leads to more or to fewer");
            self.out.report(written.place, &written.path, message, None);
            return (None, next);
        }
        let lasts_us = match duration {
            Some(Duration::Over(us)) => Some(us),
            // Beyond 64 bits is beyond 30 days, which is said elsewhere.
            Some(Duration::Rate(rate)) => Some(
                rate.time_of(to.abs_diff(from)).map_or(MAX_END_US + 1, |ns| (ns / 1_000).max(1)),
            ),
            None => None,
        };
        let us = reached.us.zip(lasts_us).map(|(start, lasts)| start.saturating_add(lasts));
        (Some(StageKind::Ramp { from, to }), Reached { us, ..next })
    }

    fn ramp_time(&self, time: &RampTime) -> Option<Duration> {
        match time {
            RampTime::Rate(rate) => self.rate(rate).map(Duration::Rate),
            RampTime::Over(over) => self.micros(over).map(Duration::Over),
        }
    }

    /// How many devices of the load run at the ramp's end.
    fn ramp_to<'w>(&self, written: &'w Written, scope: &Scope<'_>) -> Option<(u64, &'w Written)> {
        let resolved = self.resolve(written)?;
        let wrong = |resolved: &Resolved, needs: &str| {
            self.misread(written, resolved, needs);
            None
        };
        if let Some(share) = units::percent(&resolved.text) {
            if share > 1.0 {
                return wrong(&resolved, "a share of at most 100%");
            }
            return Some((units::share_of(&resolved.text, scope.devices()?)?, written));
        }
        let Some(to) = units::whole(&resolved.text) else {
            return wrong(&resolved, "a share like 100% or a whole number");
        };
        if scope.members.len() > 1 {
            return wrong(&resolved, "a share like 100%, because this load has several groups");
        }
        let devices = scope.devices()?;
        if to > devices {
            let whose = if scope.owner.is_some() { "group" } else { "file" };
            return wrong(&resolved, &format!("at most {devices}, the devices of this {whose}"));
        }
        Some((to, written))
    }

    fn storm(
        &self,
        written: &scenario::Storm,
        (away_us, back_within_us): (Option<u64>, Option<u64>),
        level: Option<u64>,
        scope: &Scope<'_>,
    ) -> Option<Storm> {
        let group = match (&written.group, scope.owner) {
            (Some(name), _) => {
                self.known_group(name);
                self.file.groups.iter().position(|group| group.name == name.text)?
            }
            (None, owner) => owner?,
        };
        if !scope.members.contains(&group) {
            let name = written.group.as_ref()?;
            let message = format!("`{}` does not follow this load", name.text);
            let help = Some("put the storm into the load of that group".to_owned());
            self.out.report(name.place, &name.path, message, help);
            return None;
        }
        let share = written.share.as_ref()?;
        let resolved = self.resolve(share)?;
        if units::percent(&resolved.text).is_none_or(|share| share > 1.0) {
            self.misread(share, &resolved, "a share of at most 100%, like 50%");
            return None;
        }
        let of = of_level(scope.groups?, scope.members, group, level?);
        let devices = units::share_of(&resolved.text, of)?;
        if devices == 0 {
            let name = &self.file.groups[group].name;
            let message = format!(
                "a storm of no device: {of} of `{name}` run then, and {} of that is none",
                resolved.text
            );
            self.out.report(written.place, &written.path, message, None);
            return None;
        }
        let leave = match &written.leave {
            Some(leave) if leave.text == "disconnect" => Leave::Disconnect,
            _ => Leave::Cut,
        };
        let (away_us, back_within_us) = (away_us?, back_within_us?);
        let stride = stride(of);
        Some(Storm { group, devices, of, stride, leave, away_us, back_within_us })
    }

    fn arrive(
        &self,
        written: &scenario::Arrive,
        lasts_us: Option<u64>,
        level: Option<u64>,
        scope: &Scope<'_>,
    ) -> Option<StageKind> {
        let rate = written.rate.as_ref().and_then(|rate| self.rate(rate));
        let stay_us = written.stay.as_ref().and_then(|stay| self.micros(stay));
        let (lasts_us, stay_us, rate) = (lasts_us?, stay_us?, rate?);
        let (devices, level) = (scope.devices()?, level?);
        let arrivals = rate.events_in(lasts_us.saturating_mul(1_000));
        let pool = devices - level;
        let refuse = |message: String| {
            self.out.report(written.place, &written.path, message, None);
            None
        };
        if arrivals == 0 {
            return refuse("no device arrives: the rate is too low for the time".to_owned());
        }
        // The next visit of a device begins when all others have had their turn.
        let turn_us = u128::from(lasts_us) * u128::from(pool) / u128::from(arrivals);
        if arrivals > pool && turn_us <= u128::from(stay_us) {
            let needed = u128::from(stay_us) * u128::from(arrivals) / u128::from(lasts_us) + 1;
            return refuse(format!(
                "{pool} devices can arrive (of {devices}, {level} run already), but more than \
                 {needed} would be there at once"
            ));
        }
        if arrivals / pool.max(1) > MAX_VISITS {
            let needed = arrivals.div_ceil(MAX_VISITS);
            return refuse(format!(
                "{pool} devices would arrive {} times each, at most {MAX_VISITS} are allowed: use \
                 at least {needed} devices, or a group with `churn`",
                arrivals / pool.max(1)
            ));
        }
        Some(StageKind::Arrive { arrivals, stay_us })
    }
}

/// Near the golden ratio of `of` and without common divisor with it: multiples of it visit all
/// places, each far from those before.
fn stride(of: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let golden = ((u128::from(of) * 618_033_989) / 1_000_000_000) as u64;
    (golden.max(1)..).find(|stride| gcd(*stride, of) == 1).unwrap_or(1)
}
