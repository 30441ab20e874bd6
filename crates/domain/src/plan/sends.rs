//! What devices send by a schedule, and when.

use std::fmt;
use std::sync::Arc;

use super::{HttpRequest, Metrics, Plan};
use crate::ids::SeriesId;
use crate::template::Template;
use crate::values::{Source as Values, Stream};

/// One open-model series of a group: every device sends at an absolute pace.
#[derive(Debug, Clone, PartialEq)]
pub struct Send {
    pub series: SeriesId,
    pub pace: Pace,
    pub while_away: WhileAway,
    pub action: Action,
}

/// When the slots of a series are due, for each device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// `every` / `children`, or for `rate: R` the group's full count of devices / R; of a replay the mean.
    pub period_ns: u64,
    /// Devices behind the connection that take its slots in turn; 1: it speaks for itself.
    pub children: u32,
    pub arrivals: Arrivals,
    pub phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrivals {
    /// One slot in each period, up to this share of it (in millionths) late.
    Even { jitter_ppm: u32 },
    /// A Poisson process whose mean distance is the period.
    Poisson,
    /// As they were recorded, from the device's first start.
    Recorded(Recorded),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// At the speed of the replay.
    pub offsets_ns: Offsets,
    /// After which it begins again; later than the last offset. `None`: it is replayed once.
    pub cycle_ns: Option<u64>,
}

/// Never empty and ascending. The plan's files say where they come from, so a printed plan only
/// counts them.
#[derive(Clone, PartialEq, Eq)]
pub struct Offsets(pub Arc<[u64]>);

impl fmt::Debug for Offsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offsets({}, {:?})", self.0.len(), self.0.last())
    }
}

/// Where in its period the slot of a device lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The devices of a group spread over it.
    Spread,
    /// All at the same moment.
    Together,
    Random,
}

/// What becomes of slots during an absence that a storm declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhileAway {
    /// *away*: nothing was meant to be sent.
    Skip,
    /// They wait and are sent when the device is back.
    Buffer,
    /// *not_connected*, and an error.
    Fail,
}

/// What a device does in a slot; of the kind that its group's target speaks.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Publish(Publish),
    /// A message that is answered by another one.
    Command(Box<Command>),
    Sparkplug(Box<Metrics>),
    Http(Box<HttpRequest>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    pub topic: Template,
    pub qos: Qos,
    pub retain: bool,
    pub payload: Template,
    pub properties: Properties,
    pub ack_timeout_us: u64,
}

/// A message to a device of another group, measured until its reply.
///
/// In its topic and payload, captured value 0 is that device's id and 1 its index.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Index into [`Plan::groups`]: one of its devices, drawn anew for each slot.
    pub to: usize,
    pub publish: Publish,
    /// Where replies come, once per device.
    pub filter: Template,
    /// JSON pointer to what a reply repeats of the command's `${request}`.
    pub reply_id: String,
    pub timeout_us: u64,
}

impl Command {
    /// The device that the command of a slot goes to.
    pub fn addressee(
        &self,
        plan: &Plan,
        seed: u64,
        from: (u32, u64),
        send: (SeriesId, u64),
    ) -> u64 {
        let (group, device) = from;
        let (series, slot) = send;
        // No expression has this number: those hash their place in the file.
        let field = u64::MAX;
        let stream = Stream::of(Values { seed, group, device, series: series.0, field });
        let devices = plan.groups[self.to].devices.max(1);
        stream.int(slot, 0, i64::try_from(devices - 1).unwrap_or(i64::MAX)) as u64
    }
}

/// What MQTT 5 may say about a message; empty with MQTT 3.1.1.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Properties {
    pub message_expiry_s: Option<u32>,
    pub content_type: Option<Template>,
    /// User properties, in the file's order.
    pub user: Vec<(String, Template)>,
    /// The topic is named once per connection, then by a number, where the broker takes one.
    pub topic_alias: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

impl Qos {
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl Send {
    pub fn publish(&self) -> Option<&Publish> {
        match &self.action {
            Action::Publish(publish) => Some(publish),
            Action::Command(command) => Some(&command.publish),
            Action::Sparkplug(metrics) => Some(&metrics.publish),
            Action::Http(_) => None,
        }
    }

    pub fn http(&self) -> Option<&HttpRequest> {
        match &self.action {
            Action::Http(request) => Some(request),
            Action::Publish(_) | Action::Command(_) | Action::Sparkplug(_) => None,
        }
    }

    pub fn sparkplug(&self) -> Option<&Metrics> {
        match &self.action {
            Action::Sparkplug(metrics) => Some(metrics),
            Action::Publish(_) | Action::Command(_) | Action::Http(_) => None,
        }
    }

    /// Whether the target acknowledges it, so that it has a response time.
    pub fn is_acknowledged(&self) -> bool {
        match &self.action {
            Action::Publish(publish) => publish.is_acknowledged(),
            Action::Sparkplug(metrics) => metrics.publish.is_acknowledged(),
            Action::Command(_) | Action::Http(_) => true,
        }
    }
}

impl Publish {
    pub fn is_acknowledged(&self) -> bool {
        self.qos != Qos::AtMostOnce
    }
}
