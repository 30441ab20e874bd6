//! Messages for a device: subscriptions, replies, and the replies to its commands.
//!
//! Only devices that listen have this. A command is open from its PUBLISH to the reply that repeats
//! its `${request}`, whatever became of the PUBLISH's own ack; one whose time is up stays known, so
//! that its late reply is recognised. Tables are bounded: what is over the bound is an error, never
//! silence.

use std::collections::VecDeque;
use std::rc::Rc;

use shoal_domain::ids::SeriesId;
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Action, Command, Group, Qos};
use shoal_domain::reply::Captured;
use shoal_domain::requests::End;
use shoal_domain::template::{DeviceScope, MessageScope, Walks};

use super::super::core::Core;
use super::connecting::Link;
use super::tried::Tried;
use super::{Device, Identity, Lost, note_failure};
use crate::mqtt::encode::{self, Delivery, Head};
use crate::mqtt::filter::matches;
use crate::mqtt::{Message, Open, What};

/// Replies of one device that wait for their time.
const MAX_REPLIES: usize = 1_000;
/// Commands whose time is up and whose reply may still come.
const MAX_LATE: usize = 1_000;

#[derive(Debug)]
pub(super) struct Talk {
    /// Rendered: those of the listeners, then those of the commands, in the plan's order, then those
    /// by which an edge node is told what to do.
    filters: Box<[String]>,
    commands: Vec<OpenCommand>,
    /// By due time.
    replies: VecDeque<Pending>,
    /// Replies so far: the numbers of their slots.
    n_replies: u32,
    command_deadline_us: u64,
}

#[derive(Debug, Clone, Copy)]
struct OpenCommand {
    /// Place among the group's sends.
    send: u16,
    n: u32,
    expired: bool,
    intended_us: u64,
    sent_us: u64,
    n_bytes: u32,
}

impl OpenCommand {
    fn tried(&self, series: SeriesId) -> Tried {
        let Self { n, intended_us, sent_us, n_bytes, .. } = *self;
        Tried { series, number: u64::from(n), intended_us, sent_us, bytes: u64::from(n_bytes) }
    }
}

#[derive(Debug)]
struct Pending {
    due_us: u64,
    listener: u16,
    values: Vec<Option<Captured>>,
}

/// The commands of a group, with their places among its sends.
fn commands(group: &Group) -> impl Iterator<Item = (usize, &Command)> {
    group.sends().iter().enumerate().filter_map(|(i, send)| match &send.action {
        Action::Command(command) => Some((i, &**command)),
        _ => None,
    })
}

impl Talk {
    /// `None` where the group neither listens nor commands.
    pub(super) fn new(
        group: &Group,
        identity: &Identity,
        scope: &DeviceScope<'_>,
        told: Vec<String>,
    ) -> Option<Box<Self>> {
        let filters = group.listeners.iter().map(|listener| &listener.filter);
        let filters: Vec<String> = filters
            .chain(commands(group).map(|(_, command)| &command.filter))
            .filter_map(|filter| identity.text(filter, scope).ok())
            .chain(told)
            .collect();
        (!filters.is_empty()).then(|| {
            Box::new(Self {
                filters: filters.into(),
                commands: Vec::new(),
                replies: VecDeque::new(),
                n_replies: 0,
                command_deadline_us: u64::MAX,
            })
        })
    }

    pub(super) fn wake_us(&self) -> u64 {
        let reply = self.replies.front().map_or(u64::MAX, |pending| pending.due_us);
        reply.min(self.command_deadline_us)
    }

    /// A command was handed to the socket.
    pub(super) fn commanded(
        &mut self,
        send: u16,
        n: u32,
        times: (u64, u64),
        n_bytes: u32,
        timeout_us: u64,
    ) {
        let (intended_us, sent_us) = times;
        let expired = false;
        self.commands.push(OpenCommand { send, n, expired, intended_us, sent_us, n_bytes });
        self.command_deadline_us = self.command_deadline_us.min(sent_us.saturating_add(timeout_us));
    }

    /// Something came on a subscription.
    pub(super) fn heard(&mut self, core: &Core, who: &Who<'_>, message: Message<'_>, now: u64) {
        let group = &core.plan.groups[who.group];
        let stage = core.plan.stage_of(who.group, now);
        for (i, listener) in group.listeners.iter().enumerate() {
            if !matches(&self.filters[i], message.topic) {
                continue;
            }
            core.recorder.borrow_mut().tally(listener.series, stage).received += 1;
            let Some(reply) = &listener.reply else { continue };
            let wrong = match listener.read(message.payload) {
                Ok(_) if self.replies.len() >= MAX_REPLIES => {
                    format!("more than {MAX_REPLIES} replies wait")
                }
                Ok(values) => {
                    let due_us = now.saturating_add(reply.after_us);
                    let pending = Pending { due_us, listener: i as u16, values };
                    let place = self.replies.partition_point(|other| other.due_us <= due_us);
                    self.replies.insert(place, pending);
                    continue;
                }
                Err(why) => why,
            };
            let lost = Lost { class: ErrorClass::Protocol, text: wrong };
            note_failure(core, who.id, listener.series, stage, &lost, now);
        }
        for (i, (send, command)) in commands(group).enumerate() {
            let filter = &self.filters[group.listeners.len() + i];
            if matches(filter, message.topic)
                && let Some(request) = command.replied(message.payload)
                && let Some(n) = who.own_request(core, group.sends()[send].series, &request)
            {
                self.replied(core, who, (send as u16, n), now);
            }
        }
    }

    /// A second reply to one command closes nothing and harms nobody.
    fn replied(&mut self, core: &Core, who: &Who<'_>, (send, n): (u16, u32), now: u64) {
        let is_it = |open: &OpenCommand| open.send == send && open.n == n;
        let Some(place) = self.commands.iter().position(is_it) else { return };
        let open = self.commands.remove(place);
        let series = core.plan.groups[who.group].sends()[usize::from(send)].series;
        let stage = core.plan.stage_of(who.group, open.intended_us);
        core.recorder.borrow_mut().tally(series, stage).acked += 1;
        if !open.expired {
            core.answered();
            record(core, series, who.group, &open, now);
            who.ended(core, &open.tried(series), Some(now), End::Acked);
        }
    }

    /// Fails the live commands that `is_meant` picks; they stay known where `stays`.
    fn fail(
        &mut self,
        core: &Core,
        who: &Who<'_>,
        lost: &Lost,
        now: u64,
        (stays, is_sample): (bool, bool),
        is_meant: impl Fn(&OpenCommand) -> bool,
    ) {
        let group = &core.plan.groups[who.group];
        for open in self.commands.iter_mut().filter(|open| !open.expired && is_meant(open)) {
            open.expired = true;
            core.answered();
            let series = group.sends()[usize::from(open.send)].series;
            let stage = core.plan.stage_of(who.group, open.intended_us);
            note_failure(core, who.id, series, stage, lost, now);
            if is_sample {
                record(core, series, who.group, open, now);
            }
            let end = End::Failed(lost.class, &lost.text);
            who.ended(core, &open.tried(series), is_sample.then_some(now), end);
            if lost.class == ErrorClass::OpenAtEnd {
                core.recorder.borrow_mut().tally(series, stage).censored += 1;
            }
        }
        let n_late = self.commands.iter().filter(|open| open.expired).count();
        let mut surplus = if stays { n_late.saturating_sub(MAX_LATE) } else { n_late };
        self.commands.retain(|open| {
            let goes = open.expired && surplus > 0;
            surplus -= usize::from(goes);
            !goes
        });
    }

    /// The broker refused the message of a command.
    pub(super) fn rejected(
        &mut self,
        core: &Core,
        who: &Who<'_>,
        at: (u16, u32),
        lost: &Lost,
        now: u64,
    ) {
        self.fail(core, who, lost, now, (false, true), |open| (open.send, open.n) == at);
    }

    /// No reply can come any more.
    pub(super) fn cut_off(&mut self, core: &Core, who: &Who<'_>, lost: &Lost, now: u64) {
        let group = &core.plan.groups[who.group];
        for pending in std::mem::take(&mut self.replies) {
            if let Some(reply) = &group.listeners[usize::from(pending.listener)].reply {
                let stage = core.plan.stage_of(who.group, now);
                note_failure(core, who.id, reply.series, stage, lost, now);
            }
        }
        self.fail(core, who, lost, now, (false, false), |_| true);
        self.command_deadline_us = u64::MAX;
    }

    pub(super) fn end(&mut self, core: &Core, who: &Who<'_>, now: u64) {
        let text = "no reply by the end of the run".to_owned();
        let lost = Lost { class: ErrorClass::OpenAtEnd, text };
        self.fail(core, who, &lost, now, (false, true), |_| true);
        self.replies = VecDeque::new();
        self.command_deadline_us = u64::MAX;
    }

    fn expire(&mut self, core: &Core, who: &Who<'_>, now: u64) {
        if now < self.command_deadline_us {
            return;
        }
        let group = &core.plan.groups[who.group];
        let timeouts: Vec<(u16, u64)> =
            commands(group).map(|(send, command)| (send as u16, command.timeout_us)).collect();
        for (send, timeout_us) in &timeouts {
            let within = std::time::Duration::from_micros(*timeout_us);
            let text = format!("no reply within {within:?}");
            let lost = Lost { class: ErrorClass::ReplyTimeout, text };
            self.fail(core, who, &lost, now, (true, true), |open| {
                open.send == *send && open.sent_us.saturating_add(*timeout_us) <= now
            });
        }
        let deadline = |open: &OpenCommand| {
            let timeout = timeouts.iter().find(|(send, _)| *send == open.send);
            timeout.map_or(u64::MAX, |(_, timeout_us)| open.sent_us.saturating_add(*timeout_us))
        };
        let live = self.commands.iter().filter(|open| !open.expired);
        self.command_deadline_us = live.map(deadline).min().unwrap_or(u64::MAX);
    }

    /// Whether a command still waits for its reply; a device does not leave before.
    pub(super) fn awaits_replies(&self) -> bool {
        self.commands.iter().any(|open| !open.expired)
    }
}

/// The device that talks.
pub(super) struct Who<'a> {
    pub(super) group: usize,
    pub(super) index: u64,
    pub(super) incarnation: u32,
    pub(super) id: &'a str,
}

impl Who<'_> {
    /// The number of the command that a request names, where it is one of this device's.
    fn own_request(&self, core: &Core, series: SeriesId, request: &str) -> Option<u32> {
        let mut parts = request.split('.');
        let is_ours = parts.next() == Some(&core.mark)
            && parts.next()?.parse() == Ok(series.0)
            && parts.next()?.parse() == Ok(self.index)
            && parts.next()?.parse() == Ok(self.incarnation);
        let n = parts.next()?.parse().ok()?;
        (is_ours && parts.next().is_none()).then_some(n)
    }
}

fn record(core: &Core, series: SeriesId, group: usize, open: &OpenCommand, now: u64) {
    let stage = core.plan.stage_of(group, open.intended_us);
    let (intended_us, sent_us) = (Some(open.intended_us), open.sent_us);
    core.recorder.borrow_mut().took(series, stage, intended_us, sent_us, now);
}

impl Device {
    /// Runs `each` where this device talks.
    pub(super) fn with_talk(&mut self, each: impl FnOnce(&mut Talk, &Who<'_>)) {
        let Self { talk, group, index, incarnation, identity, .. } = self;
        if let Some(talk) = talk {
            let who =
                Who { group: *group, index: *index, incarnation: *incarnation, id: &identity.id };
            each(talk, &who);
        }
    }

    /// Asks for everything that the device listens to.
    pub(super) fn subscribe(&mut self, core: &Rc<Core>, now: u64) {
        let Some(talk) = &self.talk else { return };
        let group = &core.plan.groups[self.group];
        let mut bytes = Vec::new();
        let qos = group.listeners.iter().map(|listener| listener.qos);
        let qos = qos.chain(commands(group).map(|(_, command)| command.publish.qos));
        let qos = qos.chain(std::iter::repeat(Qos::AtLeastOnce));
        for (i, (filter, qos)) in talk.filters.iter().zip(qos).enumerate() {
            let Some(pid) = self.session.next_pid() else { break };
            // What was checked to be a text that fits is encoded without fail.
            let Ok(packet) = encode::subscribe(self.session.protocol(), pid, filter, qos) else {
                continue;
            };
            bytes.extend(packet);
            let what = What::Subscribe(i as u16);
            let (expired, released) = (false, false);
            let open = Open { pid, what, expired, released, intended_us: now, sent_us: now };
            self.session.opened(open);
            core.opened();
            let series = super::ending::series_of(core, self.group, &what);
            let stage = core.plan.stage_of(self.group, now);
            core.recorder.borrow_mut().tally(series, stage).sent += 1;
        }
        self.set_ack_deadline(core);
        self.births(core, now, &mut bytes);
        self.say(core, &bytes);
    }

    /// Whether replies to a command would be heard.
    pub(super) fn is_listening(&self) -> bool {
        !self.session.live().any(|open| matches!(open.what, What::Subscribe(_)))
    }

    /// What time brings about: replies that are due, commands whose time is up.
    pub(super) fn talk_on_time(&mut self, core: &Rc<Core>, now: u64) {
        if self.talk.as_ref().is_none_or(|talk| talk.wake_us() > now) {
            return;
        }
        self.with_talk(|talk, who| talk.expire(core, who, now));
        while matches!(self.link, Link::Up(_))
            && !self.blocked
            && let Some(talk) = &mut self.talk
            && talk.replies.front().is_some_and(|pending| pending.due_us <= now)
        {
            let Some(pending) = talk.replies.pop_front() else { return };
            let n = talk.n_replies;
            talk.n_replies = n.wrapping_add(1);
            self.reply(core, &pending, n, now);
        }
    }

    fn reply(&mut self, core: &Rc<Core>, pending: &Pending, n: u32, now: u64) {
        let group = &core.plan.groups[self.group];
        let Some(reply) = &group.listeners[usize::from(pending.listener)].reply else { return };
        let boot_us = core.boot_us();
        if !core.control.may_send(boot_us) {
            return;
        }
        let pid = match reply.publish.qos {
            Qos::AtMostOnce => 0,
            _ => match self.session.next_pid() {
                Some(pid) => pid,
                None => return,
            },
        };
        let scope = super::scope(core.seed, &core.mark, self.group, &core.secrets);
        let device = DeviceScope {
            captured: &pending.values,
            ..self.identity.scope(group, &scope, self.index)
        };
        let message = MessageScope {
            series: reply.series,
            slot: u64::from(n),
            child: 0,
            incarnation: self.incarnation,
            n,
            now_us: core.control.control_unix_us(boot_us),
        };
        let head = Head {
            protocol: self.session.protocol(),
            delivery: Delivery { qos: reply.publish.qos, pid },
            retain: reply.publish.retain,
            dup: false,
        };
        let walks = std::cell::RefCell::new(Walks::default());
        let render = |template: &shoal_domain::template::Template, out: &mut Vec<u8>| {
            template.render_message(&device, &message, &mut walks.borrow_mut(), out);
        };
        let (mut bytes, mut n_bytes) = (Vec::new(), 0);
        let written = encode::publish(
            &mut bytes,
            head,
            |out| render(&reply.publish.topic, out),
            |_| Ok(()),
            |out| {
                let start = out.len();
                render(&reply.publish.payload, out);
                n_bytes = (out.len() - start) as u32;
            },
        );
        let stage = core.plan.stage_of(self.group, pending.due_us);
        if let Err(error) = written {
            let lost = Lost { class: ErrorClass::PacketTooLarge, text: error.to_string() };
            return self.failed(core, reply.series, stage, &lost, now);
        }
        core.recorder.borrow_mut().tally(reply.series, stage).sent += 1;
        if pid != 0 {
            let what = What::Reply { listener: pending.listener, n_bytes };
            let (expired, released, intended_us) = (false, false, pending.due_us);
            self.session.opened(Open { pid, what, expired, released, intended_us, sent_us: now });
            core.opened();
            self.set_ack_deadline(core);
        } else {
            let (series, number) = (reply.series, u64::from(n));
            let (intended_us, bytes) = (pending.due_us, u64::from(n_bytes));
            let tried = Tried { series, number, intended_us, sent_us: now, bytes };
            self.who().ended(core, &tried, None, End::Sent);
        }
        self.say(core, &bytes);
    }
}
