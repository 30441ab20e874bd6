//! Groups: devices of one kind and what they do.

use super::fields::{Field, Fields, named, written};
use super::{
    Certificate, CertificateKind, Churn, Command, Group, Listener, Message, Metrics, Pace, Payload,
    Publish, Replay, Reply, Sas, Send, Sparkplug, plain_name,
};
use super::{http, payload};
use crate::diagnostics::Collector;
use crate::outcome::Operation;

pub(super) fn read(name: String, field: &Field<'_>, out: &Collector) -> Option<Group> {
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let mut group = Group {
        name,
        path: field.path.clone(),
        place: field.key_place,
        target: fields.required_text("target"),
        devices: fields.text("devices"),
        weight: fields.text("weight"),
        load: None,
        churn: None,
        rows: fields.text("rows"),
        id: fields.text("id"),
        lets: Vec::new(),
        has_credentials: false,
        sas: None,
        username: None,
        password: None,
        bearer: None,
        reconnect_first: None,
        reconnect_max: None,
        max_in_flight: fields.text("max_in_flight"),
        labels: Vec::new(),
        connect_within: fields.text("connect_within"),
        will: None,
        sparkplug: None,
        certificate: None,
        listeners: Vec::new(),
        sends: Vec::new(),
        on_start: Vec::new(),
        on_stop: Vec::new(),
        closed_loop: None,
        filtered: Vec::new(),
        captures: Vec::new(),
        peers: Vec::new(),
    };
    match (&group.devices, &group.weight) {
        (None, None) => fields.missing("devices"),
        (Some(_), Some(weight)) => {
            let message = "exactly one of devices and weight is expected, found both";
            out.report(weight.place, &fields.path, message, None);
        }
        _ => {}
    }
    if let Some(mut churn) = fields.map("churn") {
        let (stay, away) = (churn.required_text("stay"), churn.required_text("away"));
        churn.close();
        group.churn = Some(Churn { stay, away });
    }
    if let Some(lets) = fields.find("let") {
        for (name, value) in named(lets.node, &lets.path, out) {
            plain_name(&name, &value, out);
            group.lets.extend(written(value.node, &value.path, out));
        }
    }
    if let Some(credentials) = fields.map("credentials") {
        group.has_credentials = true;
        read_credentials(credentials, &mut group, out);
    }
    if let Some(mut reconnect) = fields.map("reconnect") {
        group.reconnect_first = reconnect.text("first");
        group.reconnect_max = reconnect.text("max");
        reconnect.close();
    }
    if let Some(send) = fields.find("send") {
        for (name, field) in named(send.node, &send.path, out) {
            group.sends.extend(read_send(name, &field, &mut group.peers, out));
        }
    }
    if let Some(place) = fields.find("place") {
        let labels = named(place.node, &place.path, out);
        group.labels = labels
            .into_iter()
            .filter_map(|(_, field)| written(field.node, &field.path, out))
            .collect();
    }
    if let Some(mut will) = fields.map("will") {
        group.will = Some(read_message(&mut will, out));
        will.close();
    }
    if let Some(field) = fields.find("sparkplug")
        && let Some(mut sparkplug) = Fields::open(field.node, &field.path, out)
    {
        group.sparkplug = Some(Sparkplug {
            place: field.key_place,
            path: field.path.clone(),
            group_id: sparkplug.required_text("group"),
            aliases: sparkplug.text("aliases"),
        });
        sparkplug.close();
    }
    if let Some(field) = fields.find("load") {
        group.load = Some(super::load::load(&field, super::load::Owner::Group, out));
    }
    if let Some(field) = fields.find("on_start") {
        group.on_start = http::steps(field.node, &field.path, true, out);
    }
    if let Some(field) = fields.find("on_stop") {
        group.on_stop = http::steps(field.node, &field.path, false, out);
    }
    if let Some(field) = fields.find("loop") {
        group.closed_loop = http::read_loop(&field, out);
        if !group.sends.is_empty() {
            let text = "exactly one of send (open model) and loop (closed model) is expected";
            out.report(field.key_place, &fields.path, text, None);
        }
    }
    let mut captures = Vec::new();
    let requests = group.steps().filter_map(|step| step.request.as_ref());
    for capture in requests
        .chain(group.sends.iter().filter_map(|send| send.request.as_ref()))
        .flat_map(|request| &request.captures)
    {
        if !captures.contains(&capture.name) {
            captures.push(capture.name.clone());
        }
    }
    group.captures = captures;
    if let Some(field) = fields.find("on_message") {
        for (name, field) in named(field.node, &field.path, out) {
            group.listeners.extend(read_listener(name, &field, out));
        }
    }
    fields.close();
    Some(group)
}

fn read_credentials(mut fields: Fields<'_>, group: &mut Group, out: &Collector) {
    group.username = fields.text("username");
    group.password = fields.text("password");
    group.bearer = fields.text("bearer");
    if let Some(field) = fields.find("sas")
        && let Some(mut sas) = Fields::open(field.node, &field.path, out)
    {
        let key_of = sas.text("key_of");
        group.sas = Some(Sas {
            path: field.path.clone(),
            place: field.key_place,
            hub: sas.required_text("hub"),
            key: sas.required_text("key"),
            key_of: key_of.filter(|of| super::word(of, &["device", "group"], out)),
            ttl: sas.text("ttl"),
        });
        sas.close();
    }
    if let Some(mut certificate) = fields.map("certificate") {
        if let Some((kind, source)) = certificate.exactly_one(&["signed_by", "files", "pem"])
            && let Some(mut pair) = Fields::open(source.node, &source.path, out)
        {
            let kind = match kind {
                "signed_by" => CertificateKind::SignedBy,
                "files" => CertificateKind::Files,
                _ => CertificateKind::Pem,
            };
            let (cert, key) = (pair.required_text("cert"), pair.required_text("key"));
            group.certificate = Some(Certificate { kind, cert, key });
            pair.close();
        }
        certificate.close();
    }
    fields.close();
}

fn read_send(
    name: String,
    field: &Field<'_>,
    peers: &mut Vec<super::Written>,
    out: &Collector,
) -> Option<Send> {
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let is_replay = fields.find("replay").is_some();
    let pace = match (fields.text("every"), fields.text("rate")) {
        (Some(every), None) if !is_replay => Some(Pace::Every(every)),
        (None, Some(rate)) if !is_replay => Some(Pace::Rate(rate)),
        (None, None) if is_replay => None,
        _ if is_replay => {
            let message = "a replay has the pace of its recording: no every or rate is expected";
            out.report(fields.place, &fields.path, message, None);
            None
        }
        _ => {
            let message =
                "exactly one of every (each device) and rate (the whole group) is expected";
            out.report(fields.place, &fields.path, message, None);
            None
        }
    };
    let mut one_of = |key: &'static str, allowed: &[&str]| {
        fields.text(key).filter(|text| super::word(text, allowed, out))
    };
    let while_away = one_of("while_away", &["skip", "buffer", "fail"]);
    let phase = one_of("phase", &["spread", "together", "random"]);
    let arrivals = one_of("arrivals", &["even", "poisson"]);
    let jitter = fields.text("jitter");
    let children = fields.text("children");
    let tags = http::words(fields.find("tags"), out);
    let kind = fields.exactly_one(&["publish", "http", "command", "replay", "sparkplug"]);
    fields.close();
    let place = field.key_place;
    let (kind, field) = kind?;
    let mut send = Send {
        name,
        place,
        operation: Operation::Publish,
        pace,
        children,
        jitter,
        phase,
        arrivals,
        while_away,
        publish: None,
        replay: None,
        command: None,
        metrics: None,
        request: None,
        tags,
    };
    match kind {
        "publish" | "replay" => (send.publish, send.replay) = read_publish(kind, &field, out),
        "http" => {
            send.operation = Operation::Http;
            send.request = http::request(&field, false, out);
        }
        "sparkplug" => send.metrics = read_metrics(&field, out),
        _ => {
            send.operation = Operation::Command;
            send.command = read_command(&field, out);
            peers.extend(send.command.as_ref().and_then(|command| command.to.clone()));
        }
    }
    Some(send)
}

fn read_metrics(field: &Field<'_>, out: &Collector) -> Option<Metrics> {
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let metrics = Metrics {
        place: field.key_place,
        path: field.path.clone(),
        device: fields.text("device"),
        metrics: fields.required("metrics").map(|tree| (tree.path, tree.node.clone())),
    };
    fields.close();
    Some(metrics)
}

/// A replay has the keys of a publish but for its payload, and a topic only where it wants another
/// than the recorded ones.
fn read_publish(
    kind: &str,
    field: &Field<'_>,
    out: &Collector,
) -> (Option<Publish>, Option<Replay>) {
    let Some(mut fields) = Fields::open(field.node, &field.path, out) else { return (None, None) };
    let replay = (kind == "replay").then(|| Replay {
        file: fields.required_text("file"),
        speed: fields.text("speed"),
        repeat: fields.text("loop"),
    });
    let Message { topic, qos, retain, payload } = match replay {
        Some(_) => Message {
            topic: fields.text("topic"),
            qos: fields.text("qos"),
            retain: fields.text("retain"),
            payload: Some(Payload::Recorded),
        },
        None => read_message(&mut fields, out),
    };
    let mut publish = Publish {
        topic,
        qos,
        retain,
        payload,
        size: fields.text("size"),
        gzip: fields.text("gzip"),
        ack_timeout: fields.text("ack_timeout"),
        message_expiry: fields.text("message_expiry"),
        content_type: fields.text("content_type"),
        topic_alias: fields.text("topic_alias"),
        properties: Vec::new(),
    };
    if let Some(properties) = fields.find("properties") {
        for (name, value) in named(properties.node, &properties.path, out) {
            if let Some(text) = written(value.node, &value.path, out) {
                publish.properties.push((name, text));
            }
        }
    }
    fields.close();
    (Some(publish), replay)
}

/// topic, qos, retain and a body.
fn read_message(fields: &mut Fields<'_>, out: &Collector) -> Message {
    Message {
        topic: fields.required_text("topic"),
        qos: fields.text("qos"),
        retain: fields.text("retain"),
        payload: fields
            .exactly_one(&payload::KINDS)
            .and_then(|(kind, field)| payload::read(kind, &field, out)),
    }
}

fn read_command(field: &Field<'_>, out: &Collector) -> Option<Command> {
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let to = fields.required_text("to");
    let message = read_message(&mut fields, out);
    let (mut filter, mut reply_id) = (None, None);
    if let Some(field) = fields.required("reply")
        && let Some(mut reply) = Fields::open(field.node, &field.path, out)
    {
        filter = reply.required_text("filter");
        reply_id = reply.required_text("id");
        reply.close();
    }
    let timeout = fields.text("timeout");
    fields.close();
    Some(Command { to, message, filter, reply_id, timeout })
}

fn read_listener(name: String, field: &Field<'_>, out: &Collector) -> Option<Listener> {
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let (place, path) = (field.key_place, field.path.clone());
    let (filter, qos) = (fields.required_text("filter"), fields.text("qos"));
    let mut read = Vec::new();
    if let Some(pointers) = fields.find("read") {
        for (name, pointer) in named(pointers.node, &pointers.path, out) {
            read.extend(written(pointer.node, &pointer.path, out).map(|text| (name, text)));
        }
    }
    let reply = fields.find("reply").and_then(|field| {
        let mut reply = Fields::open(field.node, &field.path, out)?;
        let after = reply.text("after");
        let message = reply.required("publish").and_then(|field| {
            let mut publish = Fields::open(field.node, &field.path, out)?;
            let message = read_message(&mut publish, out);
            publish.close();
            Some(message)
        });
        reply.close();
        Some(Reply { place: field.key_place, path: field.path, after, message })
    });
    fields.close();
    Some(Listener { name, place, path, filter, qos, read, reply })
}
