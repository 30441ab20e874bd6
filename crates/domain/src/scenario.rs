//! The scenario file as a person wrote it: the shape is proven, the values are still text.
//!
//! The whole grammar is read strictly: what is not known is a mistake at its place.

mod fields;
mod grammar;
mod groups;
pub(crate) mod http;
mod load;
mod observers;
mod payload;
mod reading;

pub(crate) use self::fields::{Fields, Written, named, word, written};
pub(crate) use self::grammar::schema;
pub(crate) use self::load::{Arrive, Fleet, Load, RampTime, StageKind, Storm, ThresholdLine};
pub(crate) use self::observers::{
    EventHubsSource, KafkaCredentials, KafkaSource, MqttSource, NatsSource, Observer, WebhookSource,
};
pub(crate) use self::payload::{Payload, Protobuf, Replay};
pub(crate) use self::reading::{Binary, FieldAt, Read};
use crate::diagnostics::{Collector, Place};
use crate::outcome::Operation;
use crate::yaml::Node;

#[derive(Debug)]
pub(crate) struct ScenarioFile {
    pub(crate) version: Option<Written>,
    pub(crate) name: Option<Written>,
    pub(crate) vars: Vec<Written>,
    pub(crate) seed: Option<Written>,
    pub(crate) stop_timeout: Option<Written>,
    pub(crate) max_duration: Option<Written>,
    pub(crate) targets: Vec<Target>,
    pub(crate) groups: Vec<Group>,
    pub(crate) observers: Vec<Observer>,
    /// Shared out over the groups with a `weight`.
    pub(crate) devices: Option<Written>,
    /// Of the groups that have none of their own.
    pub(crate) load: Option<Load>,
    pub(crate) thresholds: Vec<ThresholdLine>,
    pub(crate) fleet: Fleet,
}

#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// Exactly one of the two.
    pub(crate) mqtt: Option<MqttTarget>,
    pub(crate) http: Option<http::HttpTarget>,
}

#[derive(Debug, Default)]
pub(crate) struct MqttTarget {
    pub(crate) url: Option<Written>,
    pub(crate) protocol: Option<Written>,
    pub(crate) keep_alive: Option<Written>,
    pub(crate) ca: Option<Written>,
    pub(crate) clean_start: Option<Written>,
    pub(crate) session_expiry: Option<Written>,
    pub(crate) server_name: Option<Written>,
    pub(crate) tls_resumption: Option<Written>,
    pub(crate) connect_timeout: Option<Written>,
}

/// `credentials.sas`.
#[derive(Debug)]
pub(crate) struct Sas {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) hub: Option<Written>,
    pub(crate) key: Option<Written>,
    pub(crate) key_of: Option<Written>,
    pub(crate) ttl: Option<Written>,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) target: Option<Written>,
    pub(crate) devices: Option<Written>,
    pub(crate) weight: Option<Written>,
    /// Its own; otherwise it follows the file's.
    pub(crate) load: Option<Load>,
    pub(crate) churn: Option<Churn>,
    pub(crate) rows: Option<Written>,
    pub(crate) id: Option<Written>,
    /// The last part of the path is the name.
    pub(crate) lets: Vec<Written>,
    pub(crate) has_credentials: bool,
    pub(crate) sas: Option<Sas>,
    pub(crate) username: Option<Written>,
    pub(crate) password: Option<Written>,
    pub(crate) bearer: Option<Written>,
    pub(crate) reconnect_first: Option<Written>,
    pub(crate) reconnect_max: Option<Written>,
    pub(crate) max_in_flight: Option<Written>,
    pub(crate) connect_within: Option<Written>,
    pub(crate) will: Option<Message>,
    pub(crate) sparkplug: Option<Sparkplug>,
    pub(crate) certificate: Option<Certificate>,
    pub(crate) listeners: Vec<Listener>,
    /// Labels of agents; the last part of the path is the name.
    pub(crate) labels: Vec<Written>,
    pub(crate) sends: Vec<Send>,
    pub(crate) on_start: Vec<http::Step>,
    pub(crate) on_stop: Vec<http::Step>,
    pub(crate) closed_loop: Option<http::Loop>,
    /// Series that tags have taken out.
    pub(crate) filtered: Vec<String>,
    /// Names of all captured values, each once.
    pub(crate) captures: Vec<String>,
    /// Other groups that this one's commands go to.
    pub(crate) peers: Vec<Written>,
}

/// What makes the devices of a group edge nodes of Sparkplug B.
#[derive(Debug)]
pub(crate) struct Sparkplug {
    pub(crate) place: Place,
    pub(crate) path: String,
    /// `group`.
    pub(crate) group_id: Option<Written>,
    pub(crate) aliases: Option<Written>,
}

/// `sparkplug` of an entry of `send`.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) device: Option<Written>,
    /// Path and tree.
    pub(crate) metrics: Option<(String, Node)>,
}

#[derive(Debug)]
pub(crate) struct Churn {
    pub(crate) stay: Option<Written>,
    pub(crate) away: Option<Written>,
}

#[derive(Debug)]
pub(crate) struct Send {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) operation: Operation,
    pub(crate) pace: Option<Pace>,
    pub(crate) children: Option<Written>,
    pub(crate) jitter: Option<Written>,
    pub(crate) phase: Option<Written>,
    pub(crate) arrivals: Option<Written>,
    pub(crate) while_away: Option<Written>,
    pub(crate) publish: Option<Publish>,
    /// What is published is a recording.
    pub(crate) replay: Option<Replay>,
    pub(crate) command: Option<Command>,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) request: Option<http::Request>,
    pub(crate) tags: Vec<Written>,
}

#[derive(Debug)]
pub(crate) enum Pace {
    Every(Written),
    Rate(Written),
}

#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) topic: Option<Written>,
    pub(crate) qos: Option<Written>,
    pub(crate) retain: Option<Written>,
    pub(crate) payload: Option<Payload>,
    pub(crate) size: Option<Written>,
    pub(crate) gzip: Option<Written>,
    pub(crate) ack_timeout: Option<Written>,
    pub(crate) message_expiry: Option<Written>,
    pub(crate) content_type: Option<Written>,
    pub(crate) topic_alias: Option<Written>,
    /// User properties; the last part of the path is the name.
    pub(crate) properties: Vec<(String, Written)>,
}

#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) to: Option<Written>,
    pub(crate) message: Message,
    pub(crate) filter: Option<Written>,
    pub(crate) reply_id: Option<Written>,
    pub(crate) timeout: Option<Written>,
}

#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) filter: Option<Written>,
    pub(crate) qos: Option<Written>,
    /// Names and JSON pointers.
    pub(crate) read: Vec<(String, Written)>,
    pub(crate) reply: Option<Reply>,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) after: Option<Written>,
    pub(crate) message: Option<Message>,
}

#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) kind: CertificateKind,
    pub(crate) cert: Option<Written>,
    pub(crate) key: Option<Written>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateKind {
    /// `signed_by`: a test authority.
    SignedBy,
    /// `files` on the agent.
    Files,
    /// `pem`: texts.
    Pem,
}

/// What an MQTT message needs.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: Option<Written>,
    pub(crate) qos: Option<Written>,
    pub(crate) retain: Option<Written>,
    pub(crate) payload: Option<Payload>,
}

impl Group {
    /// All steps, in the order in which a device meets them.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &http::Step> {
        let tasks = self.closed_loop.iter().flat_map(|closed| &closed.tasks);
        self.on_start.iter().chain(tasks.flat_map(|task| &task.steps)).chain(&self.on_stop)
    }
}

/// When the text of a part that is not built yet is evaluated; its names are checked already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Plan,
    Device,
    Message,
}

pub(crate) fn read(root: &Node, out: &Collector) -> Option<ScenarioFile> {
    let mut top = Fields::open(root, "", out)?;
    let version = top.required_text("version");
    let name = top.required_text("name");
    let vars = top.find("vars").map_or_else(Vec::new, |field| {
        let mut vars = Vec::new();
        for (name, var) in named(field.node, &field.path, out) {
            plain_name(&name, &var, out);
            vars.extend(written(var.node, &var.path, out));
        }
        vars
    });
    let (seed, stop_timeout) = (top.text("seed"), top.text("stop_timeout"));
    let max_duration = top.text("max_duration");
    let targets = top.required("targets").map_or_else(Vec::new, |field| {
        named(field.node, &field.path, out)
            .into_iter()
            .filter_map(|(name, field)| target(name, field.node, &field.path, out))
            .collect()
    });
    let groups = top.required("groups").map_or_else(Vec::new, |field| {
        named(field.node, &field.path, out)
            .into_iter()
            .filter_map(|(name, field)| groups::read(name, &field, out))
            .collect()
    });
    let observers = top.find("observers").map_or_else(Vec::new, |field| {
        named(field.node, &field.path, out)
            .into_iter()
            .filter_map(|(name, field)| observers::read(name, &field, out))
            .collect()
    });
    let load = top.find("load").map(|field| load::load(&field, load::Owner::File, out));
    if load.is_none() && (groups.is_empty() || groups.iter().any(|group| group.load.is_none())) {
        top.missing("load");
    }
    let devices = top.text("devices");
    let thresholds = top
        .find("thresholds")
        .map_or_else(Vec::new, |field| load::thresholds(field.node, &field.path, out));
    let fleet = top.map("fleet").map_or_else(Fleet::default, |fields| load::fleet(fields, out));
    top.close();
    Some(ScenarioFile {
        version,
        name,
        vars,
        seed,
        stop_timeout,
        max_duration,
        targets,
        groups,
        observers,
        devices,
        load,
        thresholds,
        fleet,
    })
}

/// `vars` and `let` names stand in expressions, where `-` is no letter.
fn plain_name(name: &str, field: &fields::Field<'_>, out: &Collector) {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || name.contains('-') {
        let message = format!(
            "`{name}` cannot stand in an expression: a letter first, then letters, digits or `_` are expected"
        );
        out.report(field.key_place, &field.path, message, None);
    }
}

fn target(name: String, node: &Node, path: &str, out: &Collector) -> Option<Target> {
    let mut fields = Fields::open(node, path, out)?;
    let kind = fields.exactly_one(&["mqtt", "http"]);
    fields.close();
    let (kind, field) = kind?;
    let mut inner = Fields::open(field.node, &field.path, out)?;
    if kind == "http" {
        let http = Some(http::target(inner, out));
        return Some(Target { name, mqtt: None, http });
    }
    let mqtt = MqttTarget {
        url: inner.required_text("url"),
        protocol: inner.text("protocol"),
        keep_alive: inner.text("keep_alive"),
        ca: inner.text("ca"),
        clean_start: inner.text("clean_start"),
        session_expiry: inner.text("session_expiry"),
        server_name: inner.text("server_name"),
        tls_resumption: inner.text("tls_resumption"),
        connect_timeout: inner.text("connect_timeout"),
    };
    inner.close();
    Some(Target { name, mqtt: Some(mqtt), http: None })
}
