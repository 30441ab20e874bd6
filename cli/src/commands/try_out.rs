//! `shoal scenario try`: the first device of each group sends one message per series from here, and
//! every step is shown: address, connection, CONNACK, exact topic and payload, acknowledgement; and of
//! each observer the event that it saw, and how late.
//!
//! For the minute before a run, when "does it get through at all?" is the question. It measures
//! nothing: no schedule, no control plane, no document.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_agent::engine::single;
use shoal_domain::ids::RunId;
use shoal_domain::plan::{Endpoint, Group, HttpProtocol, Observer, Plan, Qos};
use shoal_domain::template::DeviceScope;
use shoal_service_kit::{Clock as _, SystemClock, random};

use super::try_observe::{Seen, Watching};
use super::try_reach::{self, Place};
use super::{DONE, try_http};
use crate::args::{Changes, Global, Output};
use crate::builtin::Builtin;
use crate::error::Error;
use crate::mqtt_client::{Connection, Message};
use crate::render::device::{self as view, Device};
use crate::render::{self, clean, json};
use crate::scenario::Scenario;

/// For each step; a target that takes longer has answered the question.
const PATIENCE: Duration = Duration::from_secs(10);
/// Larger files are no secrets.
const MAX_SECRET: u64 = 64 * 1024;
/// Something did not get through, and what is shown says where.
const NOT_THROUGH: u8 = 1;

/// What happened, in order: a word for machines and a sentence.
#[derive(Debug, Default)]
pub(super) struct Steps(Vec<(&'static str, String)>);

impl Steps {
    pub(super) fn add(&mut self, step: &'static str, what: impl Into<String>) {
        self.0.push((step, what.into()));
    }

    fn documents(&self) -> Vec<Value> {
        self.0.iter().map(|(step, what)| json!({ "step": step, "what": what })).collect()
    }
}

pub(super) async fn perform(
    global: &Global,
    file: &Path,
    changes: &Changes,
    secrets_dir: Option<&Path>,
) -> Result<u8, Error> {
    let scenario = Scenario::load(file, changes)?;
    let secrets = match secrets_dir {
        Some(dir) => read_secrets(dir)
            .map_err(|error| Error::DataDir { path: dir.to_owned(), why: error.to_string() })?,
        None => BTreeMap::new(),
    };
    let builtin = match scenario.builtin_target() {
        Some(_) => Some(Builtin::start().await?),
        None => None,
    };
    let plan = Arc::new(scenario.plan);
    let run = RunId::from_parts(SystemClock.unix_us() / 1_000, random::u128());
    let addr = builtin.as_ref().map(|broker| broker.addr);
    let watching = Watching::start(&plan, (run, view::seed(&plan)), &secrets, addr).await;
    let mut through = true;
    let mut documents = Vec::new();
    for (index, group) in plan.groups.iter().enumerate() {
        let device = || {
            let when = view::When::Now(SystemClock.unix_us());
            view::device(&plan, &run.mark(), (index, 0), when, &secrets)
        };
        let (sending, device) = (&device, device());
        if let Some(name) = device.missing.first() {
            return Err(Error::Refused {
                code: Some("SH0303".into()),
                message: format!("group {} needs the secret `{name}`", group.name),
                help: Some(format!("put it into a file called {name} and give --secrets-dir")),
            });
        }
        let (host, port) = match (plan.targets[group.target].endpoint(), &builtin) {
            (Endpoint::Tcp { host, port }, _) => (host.clone(), *port),
            (Endpoint::Builtin, Some(broker)) => (broker.addr.ip().to_string(), broker.addr.port()),
            (Endpoint::Builtin, None) => unreachable!("started above for every builtin target"),
        };
        let mut steps = Steps::default();
        if let Some(what) = beyond(&plan, group) {
            return Err(Error::Refused {
                code: None,
                message: format!(
                    "group {} uses {what}, which `scenario try` does not speak",
                    group.name
                ),
                help: Some("use `shoal run` with few devices".into()),
            });
        }
        let scope = device.scope(&plan, index, &secrets);
        let place = Place { host: &host, port, patience: PATIENCE };
        let failed = if plan.targets[group.target].http().is_some() {
            try_http::drive(&plan, group, &scope, &place, &mut steps).await.err()
        } else {
            drive(&plan, group, &scope, sending, &place, &mut steps).await.err()
        };
        if let Some(why) = &failed {
            steps.add("failed", why.clone());
            through = false;
        }
        match global.output {
            // Each group as soon as it is known: the next one may take its time.
            Output::Table => render::data(&text(&device, &steps))?,
            _ => documents.push(document(&device, &steps, failed.is_none())),
        }
    }
    for seen in watching.finish().await {
        let observer = &plan.observers[seen.observer.index()];
        through &= seen.through;
        match global.output {
            Output::Table => render::data(&observer_text(observer, &seen.steps))?,
            _ => documents.push(observer_document(observer, &seen)),
        }
    }
    if global.output != Output::Table {
        render::data(&json::documents(documents, global.output))?;
    }
    Ok(if through { DONE } else { NOT_THROUGH })
}

/// What this command does not speak.
fn beyond(plan: &Plan, group: &Group) -> Option<&'static str> {
    let http = plan.targets[group.target].http()?;
    matches!(http.protocol, HttpProtocol::Own(_)).then_some("a protocol of the agents' own")
}

/// `sending` renders the device's messages as they are at that moment.
async fn drive(
    plan: &Plan,
    group: &Group,
    scope: &DeviceScope<'_>,
    sending: &impl Fn() -> Device,
    place: &Place<'_>,
    steps: &mut Steps,
) -> Result<(), String> {
    let Some(mqtt) = plan.targets[group.target].mqtt() else { return Ok(()) };
    let stream = try_reach::connect(plan, group, scope, place, steps).await?;
    let mut connection = Connection::over(stream, mqtt.protocol, place.patience);
    let (username, password) = single::login(group, scope, SystemClock.unix_us() / 1_000_000)?;
    let login = username.as_deref().map(|name| (name, password.as_deref().unwrap_or_default()));
    let mut edge = single::Edge::new(group, scope, SystemClock.unix_us());
    let will = edge.as_ref().map(|edge| &edge.will);
    steps.add("connack", connection.connect(scope.device, login, will).await?);
    for (topic, payload) in edge.iter().flat_map(|edge| &edge.births) {
        certificate(&mut connection, "birth", (topic, payload), steps).await?;
    }
    // One of each series: the first slot.
    let device = sending();
    let first = device.messages.into_iter().filter(|message| message.slot == 0);
    for (n, mut message) in first.enumerate() {
        if let Some(edge) = &mut edge {
            edge.end_report(&mut message.payload);
        }
        steps.add("series", message.series);
        steps.add("topic", message.topic.clone());
        steps.add("payload", view::payload_text(&message.payload));
        let packet_id = u16::try_from(n + 1).map_err(|_| "too many series".to_owned())?;
        let message = Message {
            topic: message.topic,
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            user: message.user,
            content_type: message.content_type,
            expiry_s: message.expiry_s,
        };
        for (name, value) in &message.user {
            steps.add("property", format!("{name}: {value}"));
        }
        steps.add("answer", connection.publish(&message, packet_id).await?);
    }
    for (topic, payload) in edge.iter_mut().flat_map(|edge| edge.deaths(SystemClock.unix_us())) {
        certificate(&mut connection, "death", (&topic, &payload), steps).await?;
    }
    connection.disconnect().await
}

/// Births and deaths of Sparkplug, which nobody acknowledges.
async fn certificate(
    connection: &mut Connection,
    kind: &'static str,
    (topic, payload): (&str, &[u8]),
    steps: &mut Steps,
) -> Result<(), String> {
    steps.add(kind, topic);
    steps.add("payload", view::payload_text(payload));
    let message = Message {
        topic: topic.to_owned(),
        payload: payload.to_vec(),
        qos: Qos::AtMostOnce,
        retain: false,
        user: Vec::new(),
        content_type: None,
        expiry_s: None,
    };
    steps.add("answer", connection.publish(&message, 0).await?);
    Ok(())
}

fn text(device: &Device, steps: &Steps) -> String {
    let head = format!("device {} of group {}\n", clean(&device.id), clean(&device.group));
    listed(head, steps)
}

fn observer_text(observer: &Observer, steps: &Steps) -> String {
    listed(format!("observer {} by {}\n", clean(&observer.name), observer.source.word()), steps)
}

fn listed(mut text: String, steps: &Steps) -> String {
    for (step, what) in &steps.0 {
        let _ = writeln!(text, "  {step:8} {}", clean(what));
    }
    text.push('\n');
    text
}

fn observer_document(observer: &Observer, seen: &Seen) -> Value {
    json!({
        "observer": observer.name,
        "source": observer.source.word(),
        "through": seen.through,
        "steps": seen.steps.documents(),
    })
}

fn document(device: &Device, steps: &Steps, through: bool) -> Value {
    json!({
        "group": device.group,
        "device": device.id,
        "through": through,
        "steps": steps.documents(),
    })
}

/// Each regular file is one secret, named like the file; one line end at its end is not part of it.
fn read_secrets(dir: &Path) -> std::io::Result<BTreeMap<String, String>> {
    let mut secrets = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // Follows links: mounted secrets are links to files.
        let is_secret = std::fs::metadata(entry.path())
            .is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_SECRET);
        if let (true, Ok(name)) = (is_secret, entry.file_name().into_string())
            && !name.starts_with('.')
            && let Ok(text) = std::fs::read_to_string(entry.path())
        {
            secrets.insert(name, text.strip_suffix('\n').unwrap_or(&text).to_owned());
        }
    }
    Ok(secrets)
}
