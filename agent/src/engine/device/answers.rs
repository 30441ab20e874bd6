//! What the broker says, and what has to be said because of it.
//!
//! A message is acknowledged with its PUBACK or PUBREC and done with its PUBACK or PUBCOMP. After a
//! reconnect of a session that the broker has kept, everything unfinished is brought to its end
//! first, in the order in which it was sent; a slot renders again to the same message.

use std::rc::Rc;

use shoal_domain::ids::{SeriesId, StageId};
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::Qos;
use shoal_domain::receipts::Run;
use shoal_domain::requests::End;

use super::super::core::Core;
use super::ending::{is_command, series_of};
use super::sending::{Copy, publish_of};
use super::talk::Who;
use super::tried::Tried;
use super::{Device, Heard, Lost, note_failure};
use crate::mqtt::encode::{self, Delivery};
use crate::mqtt::{Broken, Event, Open, Refusal, Step, Welcome, What};
use crate::recorder::Passage;

/// How long a SUBACK, or the PUBACK of a reply, may take.
const ANSWER_TIMEOUT_US: u64 = 30_000_000;

impl Device {
    pub(super) fn received(&mut self, core: &Rc<Core>, bytes: &[u8]) -> Result<Heard, Lost> {
        let now = core.now_us();
        let (group, id) = (self.group, &self.identity.id);
        let (index, incarnation) = (self.index, self.incarnation);
        let who = Who { group, index, incarnation, id };
        let mut answer: Option<Result<Welcome, Refusal>> = None;
        let mut ended: Option<Refusal> = None;
        let mut pong = false;
        let mut heard = Heard::AcksOnly;
        let device = self.numbered(0);
        let mut answers = core.answers.borrow_mut();
        answers.clear();
        let result = self.session.receive(bytes, &mut answers, |event| {
            if !matches!(event, Event::Acked(_) | Event::Done(_)) {
                heard = Heard::Other;
            }
            match event {
                Event::Acked(open) => acked(core, (group, device), &open),
                Event::Done(open) => done(core, &who, &open, now),
                Event::Rejected(open, refusal) => match (&mut self.talk, open.what) {
                    (Some(talk), What::Slot { send, n, .. })
                        if is_command(core, group, &open.what) =>
                    {
                        if !open.expired {
                            core.answered();
                        }
                        talk.rejected(core, &who, (send, n), &refusal.into(), now);
                    }
                    _ => rejected(core, &who, &open, refusal, now),
                },
                Event::Accepted(welcome) => answer = Some(Ok(welcome)),
                Event::Refused(refusal) => answer = Some(Err(refusal)),
                Event::Pong => pong = true,
                Event::Ended(refusal) => ended = Some(refusal),
                Event::Message(message) => {
                    if let Some(talk) = &mut self.talk {
                        talk.heard(core, &who, message, now);
                    }
                    if let Some(node) = &mut self.edge {
                        node.heard(core, &who, message, now);
                    }
                }
            }
        });
        if pong {
            self.ping_us = None;
            self.lives(core);
        }
        match answer {
            Some(Ok(welcome)) => match self.misses(core, &welcome) {
                None => {
                    self.accepted(core, now);
                    let has_filters = welcome.session_present && self.standing_session;
                    self.resume(core, &welcome, now);
                    self.standing_session = self.target(core).keeps_session();
                    if !has_filters {
                        self.subscribe(core, now);
                    }
                }
                Some(lost) => {
                    self.attempt_failed(core, lost, true);
                    return Ok(Heard::Other);
                }
            },
            Some(Err(refusal)) => {
                self.attempt_failed(core, refusal.into(), true);
                // The connection is gone; whatever else came on it means nothing.
                return Ok(Heard::Other);
            }
            None => {}
        }
        if !answers.is_empty() {
            self.say(core, &answers);
        }
        drop(answers);
        self.rebirth(core, now);
        if let Some(refusal) = ended {
            return Err(refusal.into());
        }
        let lost = |broken: Broken| Lost { class: ErrorClass::Protocol, text: broken.to_string() };
        result.map(|()| heard).map_err(lost)
    }

    /// What the group needs and this broker does not have.
    fn misses(&self, core: &Core, welcome: &Welcome) -> Option<Lost> {
        let group = &core.plan.groups[self.group];
        let messages = || group.sends().iter().map(publish_of);
        let highest = messages().map(|publish| publish.qos).max().unwrap_or(Qos::AtMostOnce);
        let text = if highest.number() > welcome.maximum_qos {
            format!(
                "the broker takes QoS {} at most, the group sends with QoS {}",
                welcome.maximum_qos,
                highest.number()
            )
        } else if !welcome.retain_available && messages().any(|publish| publish.retain) {
            "the broker keeps no retained messages, the group sends some".to_owned()
        } else {
            return None;
        };
        Some(Lost { class: ErrorClass::Unsupported, text })
    }

    /// Brings to its end what the last connection of the session left open.
    fn resume(&mut self, core: &Rc<Core>, welcome: &Welcome, now: u64) {
        for stream in &mut self.streams {
            stream.aliased = false;
        }
        if self.session.unfinished().is_empty() {
            return;
        }
        if !welcome.session_present {
            let gone = self.session.forgotten();
            let text = "the broker did not keep the session".to_owned();
            let lost = Lost { class: ErrorClass::ConnectionLost, text };
            return self.lost_messages(core, &gone, &lost, now);
        }
        let mut bytes = Vec::new();
        for open in self.session.unfinished().to_vec() {
            let What::Slot { send, slot, n, now_us, qos, .. } = open.what else { continue };
            if open.released {
                encode::ack(&mut bytes, Step::Rel, open.pid);
                continue;
            }
            let delivery = Delivery { qos, pid: open.pid };
            let copy = Copy { send: usize::from(send), slot, n, now_us, delivery, dup: true };
            // It was written once, so it can be written again.
            if self.write_copy(core, &copy, &mut bytes).is_ok() {
                let stage = core.plan.stage_of(self.group, open.intended_us);
                let series = series_of(core, self.group, &open.what);
                let mut recorder = core.recorder.borrow_mut();
                recorder.tally(series, stage).resent += 1;
                recorder.number(series, Passage::Resent, self.numbered(n));
            }
        }
        self.say(core, &bytes);
    }

    pub(super) fn expire_acks(&mut self, core: &Core, now: u64) {
        if now < self.ack_deadline_us {
            return;
        }
        let mut over = Vec::new();
        let (session, group) = (&mut self.session, self.group);
        session.expire(|open| deadline_of(core, group, open) <= now, |open| over.push(*open));
        self.set_ack_deadline(core);
        for open in over {
            core.answered();
            // A command has its own time-out.
            if is_command(core, self.group, &open.what) {
                continue;
            }
            let series = series_of(core, self.group, &open.what);
            let stage = core.plan.stage_of(self.group, open.intended_us);
            let within = timeout_of(core, self.group, &open.what);
            let within = std::time::Duration::from_micros(within);
            let awaited = match (open.what, open.released) {
                (What::Slot { qos: Qos::ExactlyOnce, .. }, false) => "PUBREC",
                (What::Slot { qos: Qos::ExactlyOnce, .. }, true) => "PUBCOMP",
                (What::Subscribe(_), _) => "SUBACK",
                _ => "PUBACK",
            };
            let text = format!("no {awaited} within {within:?}");
            let lost = Lost { class: ErrorClass::AckTimeout, text };
            self.failed(core, series, stage, &lost, now);
            record_times(core, series, stage, &open, now);
            let tried = Tried::open(core, self.group, &open);
            self.who().ended(core, &tried, Some(now), End::Failed(lost.class, &lost.text));
        }
    }

    pub(super) fn set_ack_deadline(&mut self, core: &Core) {
        let deadlines = self.session.live().map(|open| deadline_of(core, self.group, open));
        self.ack_deadline_us = deadlines.min().unwrap_or(u64::MAX);
    }
}

fn timeout_of(core: &Core, group: usize, what: &What) -> u64 {
    let group = &core.plan.groups[group];
    match what {
        What::Slot { send, .. } => publish_of(&group.sends()[usize::from(*send)]).ack_timeout_us,
        What::Reply { .. } | What::Subscribe(_) => ANSWER_TIMEOUT_US,
    }
}

fn deadline_of(core: &Core, group: usize, open: &Open) -> u64 {
    open.sent_us.saturating_add(timeout_of(core, group, &open.what))
}

/// The peer has the message, in time or after its time-out.
fn acked(core: &Core, (group, device): (usize, Run), open: &Open) {
    let series = series_of(core, group, &open.what);
    if let What::Slot { n, .. } = open.what {
        let run = Run { first: n, ..device };
        core.recorder.borrow_mut().number(series, Passage::Acked, run);
    }
    // A command is acknowledged by its reply.
    if is_command(core, group, &open.what) {
        return;
    }
    let stage = core.plan.stage_of(group, open.intended_us);
    core.recorder.borrow_mut().tally(series, stage).acked += 1;
}

fn done(core: &Core, who: &Who<'_>, open: &Open, now: u64) {
    let group = who.group;
    let stage = core.plan.stage_of(group, open.intended_us);
    if matches!(open.what, What::Subscribe(_)) {
        core.recorder.borrow_mut().tally(series_of(core, group, &open.what), stage).acked += 1;
    }
    if !open.expired {
        core.answered();
        if !is_command(core, group, &open.what) {
            record_times(core, series_of(core, group, &open.what), stage, open, now);
            who.ended(core, &Tried::open(core, group, open), Some(now), End::Acked);
        }
    }
}

/// An answer too, so its time is a sample; one that came too late is an error already.
fn rejected(core: &Core, who: &Who<'_>, open: &Open, refusal: Refusal, now: u64) {
    if !open.expired {
        let group = who.group;
        let series = series_of(core, group, &open.what);
        let stage = core.plan.stage_of(group, open.intended_us);
        let lost = refusal.into();
        note_failure(core, who.id, series, stage, &lost, now);
        core.answered();
        record_times(core, series, stage, open, now);
        let end = End::Failed(lost.class, &lost.text);
        who.ended(core, &Tried::open(core, group, open), Some(now), end);
    }
}

fn record_times(core: &Core, series: SeriesId, stage: StageId, open: &Open, now: u64) {
    let mut recorder = core.recorder.borrow_mut();
    recorder.took(series, stage, Some(open.intended_us), open.sent_us, now);
}
