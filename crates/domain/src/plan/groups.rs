//! Groups of devices: who they are, how they log in, and what they listen to.

use std::collections::BTreeMap;

use super::{Loop, Publish, Qos, Send, Sparkplug, Step, Task};
use crate::files::{FileId, Rows};
use crate::ids::SeriesId;
use crate::template::Template;

#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: String,
    /// Index into [`Plan::targets`](super::Plan::targets).
    pub target: usize,
    /// Index into [`Plan::loads`](super::Plan::loads).
    pub load: usize,
    pub devices: u64,
    /// Row i is device i's: `${row.name}`.
    pub rows: Option<Rows>,
    /// Device id and MQTT client id; known once per device.
    pub id: Template,
    /// `let` values, drawn once per device, in the file's order.
    pub lets: Vec<Let>,
    pub credentials: Option<Credentials>,
    pub reconnect: Reconnect,
    pub max_in_flight: u32,
    pub connect_within_us: u64,
    /// Labels that an agent must have to hold these devices.
    pub place: BTreeMap<String, String>,
    pub churn: Option<Churn>,
    /// What an MQTT broker publishes when a connection ends without a goodbye.
    pub will: Option<Will>,
    /// Its devices are edge nodes, whose will is their own.
    pub sparkplug: Option<Sparkplug>,
    /// The series of this group's connection attempts.
    pub connect: SeriesId,
    /// The series of the ends that an MQTT device announces.
    pub disconnect: Option<SeriesId>,
    /// Subscriptions and what is done with their messages.
    pub listeners: Vec<Listener>,
    /// The series of the subscriptions that commands need for their replies.
    pub subscribe: Option<SeriesId>,
    /// Names of the values that steps capture from replies; a template knows them by index.
    pub captures: Vec<String>,
    /// Once per device, after it is connected and before anything else; a step that fails makes the
    /// device a failed one.
    pub on_start: Vec<Step>,
    /// Once per device that was started, when its load ends.
    pub on_stop: Vec<Step>,
    pub behaviour: Behaviour,
}

/// What the devices of a group do: keep an absolute schedule, or wait for replies.
#[derive(Debug, Clone, PartialEq)]
pub enum Behaviour {
    /// `send`.
    Open(Vec<Send>),
    /// `loop`.
    Closed(Loop),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Let {
    pub name: String,
    pub value: Template,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Credentials {
    pub username: Option<Template>,
    pub password: Option<Template>,
    /// HTTP only, and then without the others.
    pub bearer: Option<Template>,
    pub certificate: Option<Certificate>,
    /// MQTT only, and then without user name, password and bearer.
    pub sas: Option<Sas>,
}

/// What a device shows in its TLS handshakes.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// Each device gets a key and a certificate of its own, signed by this test authority; otherwise
    /// these are the device's.
    pub is_signed: bool,
    pub cert: Pem,
    pub key: Pem,
}

/// A text in PEM form. No key is ever [`Pem::Shipped`].
#[derive(Debug, Clone, PartialEq)]
pub enum Pem {
    Shipped(FileId),
    /// A path on the agent, once per device; `agent:` may stand before it.
    OnAgent(Template),
    Text(Template),
}

/// A password that the device signs itself and renews, as Azure IoT Hub takes it ([`crate::sas`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Sas {
    pub hub: String,
    pub key: Template,
    /// Each device's key is derived from `key`, which is its group's.
    pub is_group_key: bool,
    pub life_us: u64,
}

/// Known once per device.
#[derive(Debug, Clone, PartialEq)]
pub struct Will {
    pub topic: Template,
    pub qos: Qos,
    pub retain: bool,
    pub payload: Template,
}

/// Back-off between connection attempts: doubles from `first` to `max`, with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    pub first_us: u64,
    pub max_us: u64,
}

/// Every device comes for `stay`, is gone for `away`, and comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Churn {
    pub stay_us: u64,
    pub away_us: u64,
}

/// A subscription of each device, and what it does with the messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Its SUBSCRIBEs are attempts; the messages are counted as received.
    pub series: SeriesId,
    /// Known once per device.
    pub filter: Template,
    pub qos: Qos,
    /// JSON pointers: what is read of a message, in the order of the reply's captured values.
    pub read: Vec<Read>,
    pub reply: Option<Reply>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub name: String,
    pub pointer: String,
}

/// Sent once for each message, with QoS 0 or 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub series: SeriesId,
    pub after_us: u64,
    pub publish: Publish,
}

impl Group {
    /// The series that keep a schedule; none in the closed model.
    pub fn sends(&self) -> &[Send] {
        match &self.behaviour {
            Behaviour::Open(sends) => sends,
            Behaviour::Closed(_) => &[],
        }
    }

    pub fn tasks(&self) -> &[Task] {
        match &self.behaviour {
            Behaviour::Open(_) => &[],
            Behaviour::Closed(closed) => &closed.tasks,
        }
    }

    /// Everything that waits for replies: all steps, in the order in which a device meets them.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        let tasks = self.tasks().iter().flat_map(|task| &task.steps);
        self.on_start.iter().chain(tasks).chain(&self.on_stop)
    }
}
