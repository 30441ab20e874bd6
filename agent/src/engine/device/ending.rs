//! How attempts and connections end, and what then becomes of the device's slots.
//!
//! Each attempt ends in exactly one of accepted, an error, or open at the end; each open message of
//! a lost connection is one error, and each waiting slot is not_connected.

use std::time::Duration;

use shoal_domain::ids::SeriesId;
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::Action;
use shoal_domain::requests::End;
use shoal_domain::schedule::Presence;
use shoal_service_kit::Backoff;

use super::super::core::Core;
use super::connecting::Link;
use super::tried::Tried;
use super::{Device, Lost, Standing};
use crate::mqtt::{Open, What};
use crate::recorder::SlotClass;

impl Device {
    pub(super) fn accepted(&mut self, core: &Core, now: u64) {
        match std::mem::replace(&mut self.link, Link::Down) {
            Link::Greeting { attempt, transport } => {
                self.link = Link::Up(transport);
                core.answered();
                self.connect_ended(core, &attempt, Some(now), End::Acked);
                let connect = core.plan.groups[self.group].connect;
                let stage = core.plan.stage_of(self.group, attempt.intended_us);
                let mut recorder = core.recorder.borrow_mut();
                recorder.tally(connect, stage).acked += 1;
                recorder.took(connect, stage, Some(attempt.intended_us), attempt.began_us, now);
                let gauge = recorder.gauge(self.group);
                gauge.connected += 1;
                gauge.known += u64::from(self.standing != Standing::Known);
            }
            other => self.link = other,
        }
        self.is_here_from(core, now);
        self.standing = Standing::Known;
        self.is_renewing = false;
        self.tries = 0;
    }

    /// The attempt ended in an error. `answered`: by the peer or by our patience, so its time is
    /// a sample.
    pub(super) fn attempt_failed(&mut self, core: &Core, lost: Lost, answered: bool) {
        let now = core.now_us();
        // What came on the attempt's connection means nothing on the next one.
        self.session.suspend();
        let link = std::mem::replace(&mut self.link, Link::Down);
        if let Link::Dialing { attempt, .. } | Link::Greeting { attempt, .. } = link {
            core.answered();
            self.rest = Vec::new();
            let connect = core.plan.groups[self.group].connect;
            let stage = core.plan.stage_of(self.group, attempt.intended_us);
            if answered {
                let (intended_us, began_us) = (Some(attempt.intended_us), attempt.began_us);
                core.recorder.borrow_mut().took(connect, stage, intended_us, began_us, now);
            }
            core.stalls.generator_error(lost.class);
            self.failed(core, connect, stage, &lost, now);
            let end = End::Failed(lost.class, &lost.text);
            self.connect_ended(core, &attempt, answered.then_some(now), end);
        }
        if std::mem::take(&mut self.is_renewing) {
            // From here on it is like any other connection that is gone.
            self.drain(core, SlotClass::NotConnected);
        }
        if self.standing == Standing::Starting && lost.class.is_final_refusal() {
            self.give_up(core);
        } else {
            self.rest_for_a_while(core, now);
        }
    }

    /// Not up within `connect_within`: the device has failed.
    pub(super) fn too_late(&mut self, core: &Core) {
        let group = &core.plan.groups[self.group];
        let within = Duration::from_micros(group.connect_within_us);
        let text = format!("not connected within {within:?} of its start");
        let lost = Lost { class: ErrorClass::ConnectTimeout, text };
        match &self.link {
            Link::Dialing { .. } | Link::Greeting { .. } => self.attempt_failed(core, lost, true),
            _ => {}
        }
        self.give_up(core);
    }

    /// Whoever changed hands: what was due before is nobody's.
    fn is_here_from(&mut self, core: &Core, now: u64) {
        if self.here_us == u64::MAX {
            self.here_us = now;
            self.fall_due(core, now);
        }
    }

    fn give_up(&mut self, core: &Core) {
        self.is_here_from(core, core.now_us());
        self.link = Link::Down;
        self.standing = Standing::Failed;
        core.recorder.borrow_mut().gauge(self.group).failed += 1;
        self.drain(core, SlotClass::NotConnected);
    }

    /// The connection, up or about to be, is gone.
    pub(super) fn lost(&mut self, core: &Core, lost: Lost) {
        if !matches!(self.link, Link::Up(_)) {
            return self.attempt_failed(core, lost, false);
        }
        let now = core.now_us();
        self.forget_connection();
        let gone = match self.target(core).keeps_session() {
            true => self.session.suspend(),
            false => self.session.reset(),
        };
        self.lost_messages(core, &gone, &lost, now);
        if !self.target(core).keeps_session() {
            self.with_talk(|talk, who| talk.cut_off(core, who, &lost, now));
        }
        core.recorder.borrow_mut().gauge(self.group).connected -= 1;
        self.tries = 0;
        match self.presence {
            Presence::Away(_) => self.drain_away(core),
            Presence::In | Presence::Out => self.drain(core, SlotClass::NotConnected),
        }
        self.rest_for_a_while(core, now);
    }

    /// What only a connection has.
    pub(super) fn forget_connection(&mut self) {
        self.renew_us = u64::MAX;
        self.rest = Vec::new();
        self.blocked = false;
        self.ping_us = None;
        self.never_proved();
        self.ack_deadline_us = u64::MAX;
    }

    /// Messages that no connection will bring to their end.
    pub(super) fn lost_messages(&mut self, core: &Core, gone: &[Open], lost: &Lost, now: u64) {
        for open in gone {
            core.answered();
            // What becomes of a command is decided by its reply.
            if is_command(core, self.group, &open.what) {
                continue;
            }
            let stage = core.plan.stage_of(self.group, open.intended_us);
            self.failed(core, series_of(core, self.group, &open.what), stage, lost, now);
            let tried = Tried::open(core, self.group, open);
            self.who().ended(core, &tried, None, End::Failed(lost.class, &lost.text));
        }
        self.set_ack_deadline(core);
    }

    /// Waits for the next attempt: full jitter, from this device's own random numbers.
    fn rest_for_a_while(&mut self, core: &Core, now: u64) {
        if core.closing.get() || self.leaving || self.presence != Presence::In {
            self.link = Link::Down;
            return;
        }
        let pace = core.plan.groups[self.group].reconnect;
        let first = Duration::from_micros(pace.first_us);
        let backoff = Backoff::new(first, Duration::from_micros(pace.max_us));
        let key = [core.seed, self.group as u64, self.index, self.n_attempts];
        let delay = backoff.delay(self.tries, unit_random(&key));
        self.tries = self.tries.saturating_add(1);
        let until_us = now.saturating_add(delay.as_micros() as u64).max(now + 1);
        self.link = Link::Resting { until_us };
    }

    /// Counts what waits for an answer as open at the end, with its time so far as a lower bound.
    pub(super) fn end_open(&mut self, core: &Core, now: u64) {
        let group = &core.plan.groups[self.group];
        let attempt = match &self.link {
            Link::Dialing { attempt, .. } | Link::Greeting { attempt, .. } => Some(Tried {
                series: group.connect,
                number: self.n_attempts,
                intended_us: attempt.intended_us,
                sent_us: attempt.began_us,
                bytes: 0,
            }),
            _ => None,
        };
        self.with_talk(|talk, who| talk.end(core, who, now));
        let mut messages = self.session.reset();
        messages.retain(|open| {
            let is_command = is_command(core, self.group, &open.what);
            if is_command {
                core.answered();
            }
            !is_command
        });
        let of_message = |open: &Open| Tried::open(core, self.group, open);
        for tried in attempt.into_iter().chain(messages.iter().map(of_message)) {
            core.answered();
            let Tried { series, intended_us, .. } = tried;
            let stage = core.plan.stage_of(self.group, intended_us);
            let text = "no answer by the end of the run".to_owned();
            let lost = Lost { class: ErrorClass::OpenAtEnd, text };
            self.failed(core, series, stage, &lost, now);
            self.who().ended(core, &tried, Some(now), End::Failed(lost.class, &lost.text));
            let mut recorder = core.recorder.borrow_mut();
            recorder.tally(series, stage).censored += 1;
            recorder.took(series, stage, Some(intended_us), tried.sent_us, now);
        }
    }
}

pub(super) fn is_command(core: &Core, group: usize, what: &What) -> bool {
    let What::Slot { send, .. } = what else { return false };
    matches!(core.plan.groups[group].sends()[usize::from(*send)].action, Action::Command(_))
}

/// Whose result an open packet is.
pub(super) fn series_of(core: &Core, group: usize, what: &What) -> SeriesId {
    let group = &core.plan.groups[group];
    let subscribe = group.subscribe.unwrap_or(group.connect);
    match what {
        What::Slot { send, .. } => group.sends()[usize::from(*send)].series,
        What::Reply { listener, .. } => {
            let reply = group.listeners[usize::from(*listener)].reply.as_ref();
            reply.map_or(group.connect, |reply| reply.series)
        }
        What::Subscribe(filter) => {
            let listener = group.listeners.get(usize::from(*filter));
            listener.map_or(subscribe, |listener| listener.series)
        }
    }
}

/// A number in `0.0..1.0` that depends on nothing but its key.
pub(in crate::engine) fn unit_random(key: &[u64]) -> f64 {
    let mix = |state: u64, word: &u64| {
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (key.iter().fold(0, mix) >> 11) as f64 / (1u64 << 53) as f64
}
