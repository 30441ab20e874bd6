//! One device of a scenario as an agent would drive it, with its first messages.
//!
//! Texts are rendered as they would be, with seed and run mark of an example where the file pins none.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};
use shoal_domain::outcome::Operation;
use shoal_domain::plan::{Plan, Qos};
use shoal_domain::template::{DeviceScope, MessageScope, Template, Walks};

use super::clean;
use super::numbers::seconds;
use super::plan::{EXAMPLE_SEED, s, timetable};
use super::requests::{self, Request};

/// Slots shown of one device and series.
const SHOWN_SLOTS: usize = 3;
/// One device as an agent would drive it.
#[derive(Debug)]
pub(crate) struct Device {
    run: String,
    pub(crate) group: String,
    index: u64,
    pub(crate) id: String,
    /// Run time; `None`: no ramp reaches it.
    start_us: Option<u64>,
    /// Drawn for this example when the file pins none.
    seed: u64,
    seed_is_pinned: bool,
    pub(crate) username: Option<String>,
    /// Secrets that its texts need and that were not given.
    pub(crate) missing: BTreeSet<String>,
    lets: Vec<String>,
    pub(crate) messages: Vec<Message>,
    /// Of an HTTP device, each once, or why one cannot be shown.
    requests: Vec<Result<Request, String>>,
}

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) series: String,
    pub(crate) slot: u64,
    intended_us: u64,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// MQTT 5.
    pub(crate) user: Vec<(String, String)>,
    pub(crate) content_type: Option<String>,
    pub(crate) expiry_s: Option<u32>,
}

pub(crate) fn qos_number(qos: Qos) -> u8 {
    qos.number()
}

/// More of a binary payload tells nobody anything.
const SHOWN_BYTES: usize = 512;

/// Text as it is, anything else as `0x` and hexadecimal digits.
pub(crate) fn payload_text(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => text.to_owned(),
        _ => {
            let shown = payload.iter().take(SHOWN_BYTES);
            let digits: String = shown.map(|byte| format!("{byte:02x}")).collect();
            let more = if payload.len() > SHOWN_BYTES { "..." } else { "" };
            format!("0x{digits}{more} ({} bytes)", payload.len())
        }
    }
}

/// The mark of the example run in `${run}` and `${stamp}`.
pub(crate) const EXAMPLE_RUN: &str = "00000000";

/// When messages are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    /// By the schedule of a run that begins at this time.
    AsPlanned(u64),
    /// All of them now.
    Now(u64),
}

pub(crate) fn device(
    plan: &Plan,
    run: &str,
    (group_index, index): (usize, u64),
    when: When,
    secrets: &BTreeMap<String, String>,
) -> Device {
    let group = &plan.groups[group_index];
    let seed = seed(plan);
    let (When::AsPlanned(now_us) | When::Now(now_us)) = when;
    let mut scope = DeviceScope {
        seed,
        run,
        group: group_index as u32,
        index,
        device: "",
        lets: &[],
        rows: group.rows.as_ref(),
        captured: &[],
        secrets,
    };
    let missing = RefCell::new(BTreeSet::new());
    let text = |template: &Template, scope: &DeviceScope<'_>| {
        let mut out = Vec::new();
        match template.render_device(scope, &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            // Secrets live with the agents; here their place is shown.
            Err(secret) => {
                let place = format!("<secret {}>", secret.name);
                missing.borrow_mut().insert(secret.name);
                place
            }
        }
    };
    let id = text(&group.id, &scope);
    scope.device = &id;
    let mut lets: Vec<String> = Vec::new();
    for value in &group.lets {
        let known = lets.clone();
        lets.push(text(&value.value, &DeviceScope { lets: &known, ..scope }));
    }
    let scope = DeviceScope { lets: &lets, ..scope };
    let credentials = group.credentials.as_ref();
    let credential = |template: Option<&Template>| template.map(|template| text(template, &scope));
    let username = credential(credentials.and_then(|both| both.username.as_ref()));
    // It is never shown, but what it needs may be missing.
    credential(credentials.and_then(|both| both.password.as_ref()));

    let timetable = timetable(plan);
    let mut messages = Vec::new();
    for send in group.sends() {
        let Some(slots) = timetable.slots(group_index, index, send) else { continue };
        let mut walks = Walks::default();
        let first = std::iter::successors(slots.first_from(0), |(slot, _)| slots.after(*slot));
        for (n, (slot, intended_us)) in first.take(SHOWN_SLOTS).enumerate() {
            let message = MessageScope {
                series: send.series,
                slot,
                child: 0,
                incarnation: 0,
                n: n as u32,
                now_us: match when {
                    When::AsPlanned(now_us) => now_us + intended_us,
                    When::Now(now_us) => now_us,
                },
            };
            let message = message.behind(send.pace.children);
            let mut render = |template: &Template| {
                let mut out = Vec::new();
                template.render_message(&scope, &message, &mut walks, &mut out);
                out
            };
            let Some(publish) = send.publish() else { continue };
            let mut text = |template| String::from_utf8_lossy(&render(template)).into_owned();
            let properties = &publish.properties;
            let user = properties.user.iter();
            let user = user.map(|(name, value)| (name.clone(), text(value))).collect();
            let content_type = properties.content_type.as_ref().map(&mut text);
            messages.push(Message {
                series: plan.series_path(send.series),
                slot,
                intended_us,
                qos: publish.qos,
                retain: publish.retain,
                topic: String::from_utf8_lossy(&render(&publish.topic)).into_owned(),
                payload: render(&publish.payload),
                user,
                content_type,
                expiry_s: properties.message_expiry_s,
            });
        }
    }
    let requests = match plan.targets[group.target].http() {
        None => Vec::new(),
        Some(target) => {
            let examples = requests::examples(group);
            let scope = DeviceScope { captured: &examples, ..scope };
            let render = |placed: &requests::Placed<'_>| {
                requests::render(plan, group, target, placed, &scope, now_us)
            };
            requests::all(group).iter().map(render).collect()
        }
    };
    Device {
        run: run.to_owned(),
        requests,
        lets: lets.clone(),
        group: group.name.clone(),
        index,
        start_us: timetable.start_us(group_index, index, 0),
        seed,
        seed_is_pinned: plan.seed.is_some(),
        username,
        messages,
        missing: missing.into_inner(),
        id,
    }
}

/// The file's, or that of examples.
pub(crate) fn seed(plan: &Plan) -> u64 {
    plan.seed.unwrap_or(EXAMPLE_SEED)
}

impl Device {
    /// What its texts render with; nothing is captured yet.
    pub(crate) fn scope<'d>(
        &'d self,
        plan: &'d Plan,
        group: usize,
        secrets: &'d BTreeMap<String, String>,
    ) -> DeviceScope<'d> {
        DeviceScope {
            seed: self.seed,
            run: &self.run,
            group: group as u32,
            index: self.index,
            device: &self.id,
            lets: &self.lets,
            rows: plan.groups[group].rows.as_ref(),
            captured: &[],
            secrets,
        }
    }
}

pub(crate) fn device_text(device: &Device) -> String {
    let mut text = format!(
        "device {} ({} of group {})\n",
        clean(&device.id),
        device.index,
        clean(&device.group)
    );
    match device.start_us {
        Some(us) => {
            let _ = writeln!(text, "{} at {}", Operation::Connect.word(), seconds(s(us)));
        }
        None => text.push_str("never starts: no ramp reaches it\n"),
    }
    if let Some(username) = &device.username {
        let _ = writeln!(text, "username {}", clean(username));
    }
    for message in &device.messages {
        let _ = writeln!(
            text,
            "\n{} slot {} at {:.6} s, QoS {}\n  topic   {}\n  payload {}",
            clean(&message.series),
            message.slot,
            s(message.intended_us),
            qos_number(message.qos),
            clean(&message.topic),
            clean(&payload_text(&message.payload))
        );
    }
    for request in &device.requests {
        match request {
            Ok(request) => text.push_str(&requests::text(request)),
            Err(why) => {
                let _ = writeln!(text, "\n(not shown: {})", clean(why));
            }
        }
    }
    let seed = device.seed;
    if device.seed_is_pinned {
        let _ = writeln!(text, "\nseed {seed}, as the file says");
    } else {
        let _ = writeln!(
            text,
            "\nseed {seed} as an example; every run draws its own unless the file pins one"
        );
    }
    text
}

pub(crate) fn device_document(device: &Device) -> Value {
    let messages = device.messages.iter().map(|message| {
        json!({
            "series": message.series,
            "slot": message.slot,
            "intended_s": s(message.intended_us),
            "qos": qos_number(message.qos),
            "topic": message.topic,
            "payload": payload_text(&message.payload),
        })
    });
    json!({
        "group": device.group,
        "index": device.index,
        "device": device.id,
        "start_s": device.start_us.map(s),
        "seed": device.seed,
        "username": device.username,
        "messages": messages.collect::<Vec<_>>(),
        "requests": device.requests.iter().flatten().map(requests::document).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::render::golden;
    use crate::scenario::Scenario;

    fn quickstart() -> Scenario {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scenarios/quickstart.yaml");
        let mut scenario = Scenario::load(&file, &Default::default()).unwrap();
        scenario.file = "scenarios/quickstart.yaml".into();
        scenario
    }

    #[test]
    fn one_device_of_the_quickstart_with_its_messages() {
        let when = When::AsPlanned(1_772_366_405_000_000);
        let device = device(&quickstart().plan, EXAMPLE_RUN, (0, 17), when, &BTreeMap::new());
        golden::assert("device.txt", &device_text(&device));
    }
}
