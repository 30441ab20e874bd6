//! The plan: a scenario that passed every check, with every expression that stands outside a
//! message evaluated. What is true here is never validated again.
//!
//! Times are run time (since `t0`): `_us` microseconds, `_ns` nanoseconds where a rate must not
//! drift. A plan is a value: two processes that parse the same text with the same variables hold
//! equal plans, which [`Plan::hash`] proves before the first send.

mod http;
mod sources;
mod sparkplug;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use self::http::{
    Body, BodyCheck, Capture, CaptureFrom, Expect, HttpProtocol, HttpRequest, HttpTarget, Loop,
    Method, StatusRange, Step, Task, Wait,
};
pub use self::sources::{
    EventHubsSource, KafkaLogin, KafkaSource, MqttSource, NatsLogin, NatsSource, SaslMechanism,
    Source, WebhookSource,
};
pub use self::sparkplug::{Metrics, Sparkplug};
use crate::fields::{DeviceIs, Fields};
use crate::files::{File, FileId, Rows};
use crate::ids::{ObserverId, SeriesId, StageId};
use crate::outcome::Operation;
use crate::run::Probe;
use crate::template::Template;
use crate::values::{Source as Values, Stream};

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub name: String,
    /// Every variable with the value it had, as text; for the record.
    pub vars: BTreeMap<String, String>,
    /// Pinned in the file; otherwise the run draws a fresh one.
    pub seed: Option<u64>,
    /// The files that go with the run; a [`FileId`] is an index into this.
    pub files: Vec<File>,
    pub targets: Vec<Target>,
    pub groups: Vec<Group>,
    /// All series of all groups; a [`SeriesId`] is an index into this.
    pub series: Vec<Series>,
    /// Of all loads, one load after the other; a [`StageId`] is an index into this.
    pub stages: Vec<Stage>,
    /// Which groups follow which stages; every group follows one load.
    pub loads: Vec<Load>,
    /// What reads the platform's output; an [`ObserverId`] is an index into this.
    pub observers: Vec<Observer>,
    /// The file's and the default ones that no other replaced, in that order.
    pub thresholds: Vec<Threshold>,
    pub fleet: Fleet,
    pub stop_timeout_us: u64,
    pub max_duration_us: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub kind: TargetKind,
}

/// What a target speaks, with the options of that kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetKind {
    Mqtt(MqttTarget),
    Http(HttpTarget),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MqttTarget {
    pub endpoint: Endpoint,
    pub protocol: Protocol,
    pub keep_alive_us: u64,
    /// For one attempt, from its TCP connect to its CONNACK.
    pub connect_timeout_us: u64,
    pub tls: Option<Tls>,
    /// MQTT inside WebSocket messages: the path that is asked for.
    pub web_socket: Option<String>,
    /// Whether a device's first connection of a run begins without an older session. With MQTT
    /// 3.1.1 it says so for all of its connections.
    pub clean_start: bool,
    /// MQTT 5: how long a session outlives its connection; 0 with MQTT 3.1.1.
    pub session_expiry_s: u32,
}

/// How a target's certificate is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that may have signed its certificate; `None`: the public ones.
    pub ca: Option<FileRef>,
    /// Whom the certificate must be for; `None`: the host.
    pub server_name: Option<String>,
    /// Whether a device that comes back resumes its TLS session.
    pub resumption: bool,
}

/// A file that a scenario names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileRef {
    /// It goes with the run.
    Shipped(FileId),
    /// An absolute path on the agent, written `agent:/...`.
    OnAgent(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1.
    V3,
    /// MQTT 5.
    V5,
}

/// Where a target listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// The demo broker, which the CLI starts for a run in its own process.
    Builtin,
    Tcp {
        host: String,
        port: u16,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: String,
    /// Index into [`Plan::targets`].
    pub target: usize,
    /// Index into [`Plan::loads`].
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

/// Every device comes for `stay`, is gone for `away`, and comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Churn {
    pub stay_us: u64,
    pub away_us: u64,
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

/// The key of results: operation × name × group (results are split by stage as well).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    pub operation: Operation,
    pub name: String,
    /// Index into [`Plan::groups`].
    pub group: usize,
}

/// Reads the platform's output and finds the messages of one series in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observer {
    pub name: String,
    /// An open-model series whose messages carry `${stamp}`, or the fields that are read.
    pub of: SeriesId,
    /// `None`: its events are known by `${stamp}`.
    pub read: Option<Fields>,
    /// How long it waits, after the load, for what has not arrived.
    pub drain_us: u64,
    /// How long the readiness probe may take to come out; `None`: none is sent.
    pub probe_us: Option<u64>,
    pub source: Source,
}

/// A profile of load: the file's own, or that of a group which has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Indices into [`Plan::groups`], ascending; they start interleaved.
    pub groups: Vec<usize>,
    /// Into [`Plan::stages`]: contiguous and half-open in time, from 0; never empty.
    pub stages: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub name: String,
    pub kind: StageKind,
    pub start_us: u64,
    pub end_us: u64,
}

/// Device counts are of the load's groups together, in start order (see [`crate::schedule`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageKind {
    /// Devices `from..to` start evenly over the stage; downwards, those last started stop first.
    Ramp {
        from: u64,
        to: u64,
    },
    Hold,
    Storm(Storm),
    /// Beside the devices that run, `arrivals` come evenly over the stage and each stays a while.
    Arrive {
        arrivals: u64,
        stay_us: u64,
    },
}

/// A part of a group leaves at once and comes back spread over a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// Index into [`Plan::groups`].
    pub group: usize,
    /// How many leave, of how many: those of the lowest indices, which run at that time.
    pub devices: u64,
    pub of: u64,
    /// Without common divisor with `of`: device i is number `i · stride mod of` to return.
    pub stride: u64,
    pub leave: Leave,
    pub away_us: u64,
    pub back_within_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The socket closes without a word.
    Cut,
    /// DISCONNECT, after the open acknowledgements have come.
    Disconnect,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    /// As a person wrote it, or the sentence of a default one.
    pub text: String,
    pub subject: Subject,
    pub metric: Metric,
    pub comparison: Comparison,
    pub limit: Limit,
    /// `None`: the whole run.
    pub stage: Option<StageId>,
    pub region: Region,
    /// `None`: judged once, over all of its time.
    pub windows: Option<Windows>,
    pub abort_after_us: Option<u64>,
    /// One of those that hold unless the file overrides them.
    pub is_default: bool,
}

impl Threshold {
    /// Whether its windows are judged while the load goes on.
    pub fn is_watched_by_windows(&self) -> bool {
        self.windows.is_some() && self.abort_after_us.is_some()
    }
}

/// Whose agents a threshold asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Region {
    /// All agents together.
    All,
    /// Those of one region.
    Named(String),
    /// Every region by itself: the worst one decides.
    Each,
}

/// Judged in every stretch of so many seconds; it must hold in at least this share of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Windows {
    pub seconds: u64,
    pub held_ratio: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Series(SeriesId),
    /// All series of one operation, added up.
    All(Operation),
    /// The devices of a group (index into [`Plan::groups`]).
    Devices(usize),
    Observer(ObserverId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    Planned,
    Sent,
    Missed,
    Held,
    NotConnected,
    Away,
    Unsent,
    Unassigned,
    Count,
    Errors,
    /// Sends (attempts) per second of the stage or run.
    Rate,
    ResponseTime(Statistic),
    ServiceTime(Statistic),
    SendLag(Statistic),
    DevicesPlanned,
    DevicesConnected,
    DevicesFailed,
    Observed(Observed),
    IngestDelay(Statistic),
    DeliveryDelay(Statistic),
    EndToEndDelay(Statistic),
    /// How long the observer went on after the load.
    Drain,
    /// By how much its end-to-end delays can be wrong.
    ClockBound,
}

/// What an observer counts; see [`crate::tracker::Totals`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    Sent,
    Acked,
    Received,
    Unique,
    Lost,
    Undelivered,
    Unconfirmed,
    LostPossible,
    Duplicated,
    Resent,
    OutOfOrder,
    LateEvents,
    Unparsed,
    Foreign,
    /// End-to-end delays below 0.
    Negative,
    ReaderGaps,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistic {
    Min,
    Mean,
    P50,
    P90,
    P95,
    P99,
    P999,
    Max,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Less,
    AtMost,
    Greater,
    AtLeast,
    Equal,
    NotEqual,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    Count(f64),
    /// 0..1; errors by `count`, slot classes by `planned`.
    Ratio(f64),
    Micros(f64),
    PerSecond(f64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    pub min_agents: u32,
    /// Whether a DEGRADED run may pass.
    pub accept_degraded: bool,
    pub lease_us: u64,
    pub on_agent_loss: OnAgentLoss,
    /// Agents that join while the run goes on get devices of the others.
    pub rebalance: bool,
    /// Each value of this label gets the same share, whatever its agents can carry.
    pub spread_over: Option<String>,
}

/// What becomes of the devices of an agent that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAgentLoss {
    /// The others take them over.
    Reassign,
    Continue,
    Abort,
}

impl Target {
    pub fn endpoint(&self) -> &Endpoint {
        match &self.kind {
            TargetKind::Mqtt(mqtt) => &mqtt.endpoint,
            TargetKind::Http(http) => &http.endpoint,
        }
    }

    pub fn http(&self) -> Option<&HttpTarget> {
        match &self.kind {
            TargetKind::Http(http) => Some(http),
            TargetKind::Mqtt(_) => None,
        }
    }

    pub fn mqtt(&self) -> Option<&MqttTarget> {
        match &self.kind {
            TargetKind::Mqtt(mqtt) => Some(mqtt),
            TargetKind::Http(_) => None,
        }
    }
}

impl MqttTarget {
    /// Whether a session goes on after its connection, with what was not acknowledged.
    pub fn keeps_session(&self) -> bool {
        match self.protocol {
            Protocol::V3 => !self.clean_start,
            Protocol::V5 => self.session_expiry_s > 0,
        }
    }
}

impl StageKind {
    /// As results tell stages apart: `drain` is a ramp downwards.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ramp { from, to } if to < from => "drain",
            Self::Ramp { .. } => "ramp",
            Self::Hold => "hold",
            Self::Storm(_) => "storm",
            Self::Arrive { .. } => "arrive",
        }
    }
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

impl Observer {
    /// Whether it must know the ids of all devices that it reads of.
    pub fn needs_ids(&self) -> bool {
        self.read.as_ref().is_some_and(|fields| fields.device_is == DeviceIs::Id)
    }

    /// By so much the times that its events carry may be early.
    pub fn resolution_us(&self) -> u64 {
        self.read.as_ref().map_or(0, |fields| fields.resolution_us)
    }
}

impl Publish {
    pub fn is_acknowledged(&self) -> bool {
        self.qos != Qos::AtMostOnce
    }
}

impl Plan {
    /// Run time at which the last stage of the longest load ends.
    pub fn end_us(&self) -> u64 {
        self.stages.iter().map(|stage| stage.end_us).max().unwrap_or(0)
    }

    /// Devices of all groups that follow a load.
    pub fn devices_of(&self, load: usize) -> u64 {
        self.loads[load].groups.iter().map(|group| self.groups[*group].devices).sum()
    }

    /// Devices that run when each stage begins, of its load.
    pub fn levels(&self) -> Vec<u64> {
        let mut levels = vec![0; self.stages.len()];
        for load in &self.loads {
            let mut level = 0;
            for stage in load.stages.clone() {
                levels[stage] = level;
                level = self.stages[stage].kind.level_after(level);
            }
        }
        levels
    }

    /// The stages that a group follows.
    pub fn stages_of(&self, group: usize) -> &[Stage] {
        &self.stages[self.loads[self.groups[group].load].stages.clone()]
    }

    pub fn devices(&self) -> u64 {
        self.groups.iter().map(|group| group.devices).sum()
    }

    pub fn file(&self, id: FileId) -> &File {
        &self.files[id.index()]
    }

    /// `group.name`, as in metric paths.
    pub fn series_path(&self, id: SeriesId) -> String {
        let series = &self.series[id.index()];
        format!("{}.{}", self.groups[series.group].name, series.name)
    }

    /// Whether a series waits for replies (steps) instead of keeping a schedule.
    pub fn is_closed(&self, id: SeriesId) -> bool {
        let group = &self.groups[self.series[id.index()].group];
        group.steps().any(|step| step.series == id)
    }

    /// Whether what a series counts is acknowledged by the target.
    pub fn is_acknowledged(&self, id: SeriesId) -> bool {
        let group = &self.groups[self.series[id.index()].group];
        let is_certificate =
            group.sparkplug.as_ref().is_some_and(|node| [node.births, node.deaths].contains(&id));
        let send = group.sends().iter().find(|send| send.series == id);
        !is_certificate && send.is_none_or(Send::is_acknowledged)
    }

    /// The send that an observer looks for.
    pub fn observed(&self, observer: &Observer) -> Option<&Send> {
        let group = &self.groups[self.series[observer.of.index()].group];
        group.sends().iter().find(|send| send.series == observer.of)
    }

    /// Whether any observer needs the receipts of a series.
    pub fn is_observed(&self, series: SeriesId) -> bool {
        self.observers.iter().any(|observer| observer.of == series)
    }

    /// What has to come through the platform before the start.
    pub fn probes(&self) -> Vec<Probe> {
        let probe = |(n, observer): (usize, &Observer)| {
            let within_us = observer.probe_us?;
            Some(Probe { observer: ObserverId(n as u32), name: observer.name.clone(), within_us })
        };
        self.observers.iter().enumerate().filter_map(probe).collect()
    }

    /// The sends of a group that readiness probes are made of, with their places.
    pub fn probed_sends(&self, group: usize) -> impl Iterator<Item = (usize, &Send)> {
        let waits = |observer: &Observer| observer.probe_us.map(|_| observer.of);
        let probed: Vec<SeriesId> = self.observers.iter().filter_map(waits).collect();
        let sends = self.groups[group].sends().iter().enumerate();
        sends.filter(move |(_, send)| probed.contains(&send.series))
    }

    /// The longest drain of all observers.
    pub fn drain_us(&self) -> u64 {
        self.observers.iter().map(|observer| observer.drain_us).max().unwrap_or(0)
    }

    /// What all processes of a run must agree on: every fact of the plan, hashed.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(format!("{self:?}").as_bytes()).into()
    }

    /// The most connects per second that the plan declares: its steepest ramp, arrival or storm
    /// and all churn; 100/s where it declares none.
    pub fn spawn_rate(&self) -> f64 {
        let per_second = |n: u64, us: u64| n as f64 * 1e6 / us.max(1) as f64;
        let rate = |stage: &Stage| {
            let lasts_us = stage.end_us - stage.start_us;
            match stage.kind {
                StageKind::Ramp { from, to } => per_second(to.saturating_sub(from), lasts_us),
                StageKind::Hold => 0.0,
                StageKind::Storm(storm) => per_second(storm.devices, storm.back_within_us),
                StageKind::Arrive { arrivals, .. } => per_second(arrivals, lasts_us),
            }
        };
        let churn = self.groups.iter().filter_map(|group| {
            let Churn { stay_us, away_us } = group.churn?;
            Some(per_second(group.devices, stay_us + away_us))
        });
        // Loads run side by side, the stages of one load one after the other.
        let most: f64 = self
            .loads
            .iter()
            .map(|load| self.stages[load.stages.clone()].iter().map(rate).fold(0.0, f64::max))
            .chain(churn)
            .sum();
        if most > 0.0 { most } else { 100.0 }
    }
}
