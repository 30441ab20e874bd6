//! One device: its identity, its connection, its slots.
//!
//! A device is polled as one future without buffers of its own; bytes are read into and rendered in
//! memory that all devices of the core share. The core's loop reaches into devices as well (close,
//! cut, finish), which is safe because nothing holds a device across an await.

mod answers;
mod burst;
mod connecting;
mod edge;
mod ending;
mod goodbye;
mod identity;
mod presence;
mod proof;
mod renewing;
mod sending;
mod talk;
mod tried;
mod turns;

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use rustls::ClientConfig;
use shoal_domain::ids::{SeriesId, StageId};
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::MqttTarget;
use shoal_domain::plan::{Send, WhileAway};
use shoal_domain::schedule::{Calendar, Presence};

pub(super) use self::burst::Burst;
use self::connecting::Link;
pub(super) use self::edge::EdgeNode;
pub(super) use self::ending::unit_random;
use self::goodbye::Goodbye;
pub(super) use self::identity::{Identity, addressee, scope};
pub(super) use self::sending::Parcel;
use self::sending::Stream;
use self::talk::{Talk, Who};
use self::turns::Heard;
pub(super) use self::turns::drive;
use super::alarms::AlarmId;
use super::book::{Fate, SlotBook};
use super::core::Core;
use super::start::Seat;
use crate::mqtt::{Refusal, Rules, Session};
use crate::recorder::{FailedOperation, SlotClass};

/// The longest packet that a device takes from its broker.
pub(super) const MAX_PACKET: u32 = 256 * 1024;

/// What a device has reached; decides what a slot without a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Before its first CONNACK: slots wait.
    Starting,
    /// Has been connected: slots without a connection are not_connected.
    Known,
    /// Never got in and tries no more.
    Failed,
}

pub(super) struct Device {
    pub(super) group: usize,
    pub(super) book: SlotBook,
    index: u64,
    ordinal: u64,
    from_us: u64,
    incarnation: u32,
    /// Earlier slots are nobody's: one that changed hands is here from its first connection on.
    here_us: u64,
    /// Run time from which this device is let go, by the schedule of this number.
    until_us: u64,
    n_releases: u64,
    /// Its gate has closed, before that of the others or with it.
    leaving: bool,
    calendar: Box<Calendar>,
    presence: Presence,
    /// When the calendar changes what it is.
    change_us: u64,
    /// Since when it is present: what `connect_within` counts from.
    since_us: u64,
    /// It leaves as soon as nothing is open, and at the latest then.
    leave_by_us: Option<u64>,
    /// Of its task, for those who change what the task must see to.
    waker: Option<Waker>,
    /// When its core must look at it if nothing arrives before.
    alarm: AlarmId,
    identity: Identity,
    streams: Box<[Stream]>,
    session: Session,
    /// `None`: it neither listens nor commands.
    talk: Option<Box<Talk>>,
    /// `None`: it is none.
    edge: Option<Box<EdgeNode>>,
    /// A session of this run has its subscriptions.
    standing_session: bool,
    /// What only its own TLS connections use, from the first one on.
    tls: Option<Arc<ClientConfig>>,
    link: Link,
    /// Its last connection, while the broker has not closed it.
    goodbye: Option<Box<Goodbye>>,
    standing: Standing,
    /// Attempts since the connection was last up, for the back-off.
    tries: u32,
    /// All attempts so far: what the random part of the back-off depends on.
    n_attempts: u64,
    /// What the socket would not take of a packet that it took the start of.
    rest: Vec<u8>,
    /// The socket takes nothing more at present.
    blocked: bool,
    written_us: u64,
    ping_us: Option<u64>,
    ack_deadline_us: u64,
    /// When its connection is made anew, because its signature ends.
    renew_us: u64,
    /// Between two connections of its own accord: slots wait.
    is_renewing: bool,
}

/// Why a connection ended.
pub(super) struct Lost {
    pub(super) class: ErrorClass,
    pub(super) text: String,
}

impl Lost {
    /// An error of the socket, or of what wraps it.
    pub(super) fn broken(error: &std::io::Error) -> Self {
        let named = super::tls::class_of(error).or_else(|| super::transport::class_of(error));
        match named {
            Some((class, text)) => Self { class, text },
            None => Self {
                class: ErrorClass::ConnectionLost,
                text: format!("the connection broke: {error}"),
            },
        }
    }
}

impl From<Refusal> for Lost {
    fn from(Refusal { class, text }: Refusal) -> Self {
        Self { class, text }
    }
}

impl Device {
    /// `None` where its identity cannot render, which `prepare` has excluded.
    pub(super) fn new(core: &Core, seat: &Seat, alarm: AlarmId) -> Option<Self> {
        let group = &core.plan.groups[seat.group];
        let scope = scope(core.seed, &core.mark, seat.group, &core.secrets);
        let identity = Identity::render(group, &scope, seat.index).ok()?;
        let timetable = core.timetable.borrow();
        let calendar = timetable.calendar(seat.group, seat.index)?;
        let slots = |send| timetable.slots_on(&calendar, seat.group, seat.index, send);
        let book = SlotBook::new(group.sends().iter().map(slots), seat.from_us);
        // One that comes from another agent may come in the middle of a storm.
        let (presence, change_us) = calendar.at(seat.start_us);
        let target = core.plan.targets[group.target].mqtt()?;
        let own = identity.scope(group, &scope, seat.index);
        let edge = EdgeNode::new(group, &identity, &own, seat.incarnation);
        let told = edge.iter().flat_map(|node| node.filters(&identity.id)).collect();
        let talk = Talk::new(group, &identity, &own, told);
        let rules = Rules {
            protocol: target.protocol,
            max_packet: MAX_PACKET,
            // A session that the broker keeps may have been used by another run.
            expects_messages: talk.is_some() || target.keeps_session() || !target.clean_start,
        };
        Some(Self {
            group: seat.group,
            book,
            index: seat.index,
            ordinal: seat.ordinal,
            from_us: seat.from_us,
            incarnation: seat.incarnation,
            here_us: if seat.incarnation > 0 { u64::MAX } else { 0 },
            until_us: u64::MAX,
            n_releases: 0,
            leaving: false,
            presence,
            change_us,
            since_us: seat.start_us,
            leave_by_us: None,
            waker: None,
            alarm,
            calendar: Box::new(calendar),
            identity,
            streams: group.sends().iter().map(|_| Stream::default()).collect(),
            session: Session::new(rules),
            talk,
            edge,
            standing_session: false,
            tls: None,
            link: match presence {
                Presence::In => Link::Resting { until_us: seat.start_us },
                Presence::Out | Presence::Away(_) => Link::Down,
            },
            goodbye: None,
            standing: Standing::Starting,
            tries: 0,
            n_attempts: 0,
            rest: Vec::new(),
            blocked: false,
            written_us: 0,
            ping_us: None,
            ack_deadline_us: u64::MAX,
            renew_us: u64::MAX,
            is_renewing: false,
        })
    }

    /// The target that its group is for; only MQTT groups have devices of this kind.
    fn target<'c>(&self, core: &'c Core) -> &'c MqttTarget {
        let target = &core.plan.targets[core.plan.groups[self.group].target];
        target.mqtt().expect("an MQTT device is for an MQTT target")
    }

    /// Where its slots begin and end here, as known when it last ran.
    pub(super) fn tenure(&self) -> (u64, u64) {
        (self.from_us, self.until_us)
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Run time from which it is let go; asks for a newer schedule each time, at the price of a load.
    pub(super) fn until_us(&mut self, core: &Core) -> u64 {
        let n_releases = core.control.n_releases();
        if self.n_releases != n_releases {
            self.n_releases = n_releases;
            // What it has left it does not take up again.
            if !self.leaving {
                self.until_us = core.control.releases().until_us(self.group, self.index);
            }
        }
        self.until_us
    }

    fn end_us(&mut self, core: &Core) -> u64 {
        core.control.end_us().min(self.until_us(core))
    }

    fn fall_due(&mut self, core: &Core, now: u64) {
        let until = now
            .min(self.end_us(core))
            .min(core.horizon_us())
            .min(core.window_end_us.get())
            .min(core.control.leased_until_us());
        if self.book.next_us() >= until {
            return;
        }
        let waits = match self.standing {
            Standing::Starting => true,
            // A cut is our doing: what it keeps from being sent is unsent.
            Standing::Known => {
                matches!(self.link, Link::Up(_)) || self.is_renewing || core.control.is_cut()
            }
            Standing::Failed => false,
        };
        let group = self.group;
        let sends = core.plan.groups[group].sends();
        let is_away = matches!(self.presence, Presence::Away(_));
        let (id, here_us) = (&self.identity.id, self.here_us);
        self.book.fall_due(until, |send, intended_us| {
            let away = is_away.then(|| sends[send].while_away);
            let class = match (away, core.stalls.contains(intended_us), waits) {
                _ if intended_us < here_us => SlotClass::Unassigned,
                (Some(WhileAway::Skip), ..) => SlotClass::Away,
                (_, true, _) => SlotClass::Missed,
                (Some(WhileAway::Buffer), ..) | (None, _, true) => return Fate::Waits,
                (Some(WhileAway::Fail), ..) | (None, _, false) => SlotClass::NotConnected,
            };
            let (series, stage) = (sends[send].series, core.plan.stage_of(group, intended_us));
            let mut recorder = core.recorder.borrow_mut();
            recorder.class(series, stage, class);
            if (away, class) == (Some(WhileAway::Fail), SlotClass::NotConnected) {
                let (class, text) = (ErrorClass::ConnectionLost, "a storm has this device");
                let failed =
                    FailedOperation { series, class, text, device: id, at_us: intended_us };
                recorder.failed(stage, &failed);
            }
            Fate::Classed
        });
    }

    /// Gives a class to all slots that still wait.
    fn drain(&mut self, core: &Core, class: SlotClass) {
        self.drain_of(core, class, |_| true);
    }

    fn drain_of(&mut self, core: &Core, class: SlotClass, meant: impl Fn(&Send) -> bool) {
        let group = self.group;
        let sends = core.plan.groups[group].sends();
        let meant = |send: usize| meant(&sends[send]);
        self.book.drain(meant, |send, intended_us| {
            let stage = core.plan.stage_of(group, intended_us);
            core.recorder.borrow_mut().class(sends[send].series, stage, class);
        });
    }

    /// The gate closes at the core's end: what is due is handled, the rest is unsent.
    pub(super) fn close(&mut self, core: &Rc<Core>, now: u64) {
        self.keep_calendar(core, now);
        self.fall_due(core, now);
        self.expire_acks(core, now);
        self.pump(core);
        self.drain(core, SlotClass::Unsent);
        self.leaving = true;
        if matches!(self.link, Link::Resting { .. } | Link::Queued { .. }) {
            self.link = Link::Down;
        }
    }

    /// Somebody else holds this device in a moment: its connection ends, and it counts here no more.
    pub(super) fn part(&mut self, core: &Core, now: u64) {
        {
            let mut recorder = core.recorder.borrow_mut();
            let gauge = recorder.gauge(self.group);
            gauge.started -= 1;
            gauge.connected -= u64::from(matches!(self.link, Link::Up(_)));
            gauge.known -= u64::from(self.standing == Standing::Known);
            gauge.failed -= u64::from(self.standing == Standing::Failed);
        }
        self.finish(core, now);
    }

    /// No send may leave any more: the socket closes without a word.
    pub(super) fn cut(&mut self, core: &Core, now: u64) {
        self.end_open(core, now);
        self.goodbye_open(core, now);
        self.link = Link::Down;
    }

    /// The run is over for this device: open messages are censored, the connection ends cleanly.
    pub(super) fn finish(&mut self, core: &Core, now: u64) {
        self.end_open(core, now);
        if self.say_goodbye(core) {
            self.ended_cleanly(core);
        }
        self.link = Link::Down;
    }

    fn failed(&self, core: &Core, series: SeriesId, stage: StageId, lost: &Lost, now: u64) {
        note_failure(core, &self.identity.id, series, stage, lost, now);
    }
}

fn note_failure(
    core: &Core,
    device: &str,
    series: SeriesId,
    stage: StageId,
    lost: &Lost,
    now: u64,
) {
    let Lost { class, text } = lost;
    let failed = FailedOperation { series, class: *class, text, device, at_us: now };
    core.recorder.borrow_mut().failed(stage, &failed);
}
