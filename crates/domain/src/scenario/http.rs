//! HTTP: targets, requests, and the closed model's steps, tasks and waits.

use super::fields::{Field, Fields, Written, items, named, written};
use super::{Payload, payload, plain_name};
use crate::diagnostics::{Collector, Place};
use crate::plan::Method;
use crate::yaml::{Kind, Node, child};

#[derive(Debug)]
pub(crate) struct HttpTarget {
    pub(crate) url: Option<Written>,
    pub(crate) ca: Option<Written>,
    pub(crate) server_name: Option<Written>,
    pub(crate) resumption: Option<Written>,
    pub(crate) timeout: Option<Written>,
    pub(crate) connect_timeout: Option<Written>,
    pub(crate) http2: Option<Written>,
    pub(crate) protocol: Option<Written>,
    pub(crate) headers: Vec<Entry>,
}

/// A header, a query parameter, a field of a form.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) value: Written,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Option<Method>,
    pub(crate) url: Option<Written>,
    pub(crate) query: Vec<Entry>,
    pub(crate) headers: Vec<Entry>,
    pub(crate) body: Option<Body>,
    pub(crate) timeout: Option<Written>,
    pub(crate) max_redirects: Option<Written>,
    pub(crate) max_body: Option<Written>,
    pub(crate) expect: Expect,
    pub(crate) captures: Vec<Capture>,
    /// In the body and the headers.
    pub(crate) may_hold_secrets: bool,
}

#[derive(Debug)]
pub(crate) enum Body {
    Payload(Payload),
    Form(Vec<Entry>),
}

#[derive(Debug, Default)]
pub(crate) struct Expect {
    pub(crate) status: Vec<Written>,
    /// `contains`, `lacks` or `equals`, and the text.
    pub(crate) body: Vec<(&'static str, Written)>,
    /// JSON pointers, their paths and what stands there.
    pub(crate) json: Vec<(String, String, Node)>,
    pub(crate) headers: Vec<Entry>,
}

#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) name: String,
    pub(crate) from: CaptureFrom,
    pub(crate) required: bool,
}

#[derive(Debug)]
pub(crate) enum CaptureFrom {
    Json(Written),
    Header(Written),
}

#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) when: Option<Written>,
    pub(crate) request: Option<Request>,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) weight: Option<Written>,
    pub(crate) tags: Vec<Written>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) wait: Option<Wait>,
    pub(crate) rate_cap: Option<Written>,
    pub(crate) tasks: Vec<Task>,
}

#[derive(Debug)]
pub(crate) enum Wait {
    Pacing(Written),
    Constant(Written),
    Between(Written, Written),
}

pub(super) fn target(mut fields: Fields<'_>, out: &Collector) -> HttpTarget {
    let target = HttpTarget {
        url: fields.required_text("url"),
        ca: fields.text("ca"),
        server_name: fields.text("server_name"),
        resumption: fields.text("tls_resumption"),
        timeout: fields.text("timeout"),
        connect_timeout: fields.text("connect_timeout"),
        http2: fields.text("http2"),
        protocol: fields.text("protocol"),
        headers: entries(fields.find("headers"), out),
    };
    fields.close();
    target
}

pub(super) fn read_loop(field: &Field<'_>, out: &Collector) -> Option<Loop> {
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let wait = fields.map("wait").and_then(|wait| read_wait(wait, out));
    let rate_cap = fields.text("rate_cap");
    let mut tasks = Vec::new();
    if let Some(found) = fields.required("tasks") {
        for (name, task) in named(found.node, &found.path, out) {
            tasks.extend(read_task(name, &task, out));
        }
    }
    fields.close();
    Some(Loop { path: field.path.clone(), place: field.key_place, wait, rate_cap, tasks })
}

fn read_wait(mut fields: Fields<'_>, out: &Collector) -> Option<Wait> {
    let kind = fields.exactly_one(&["pacing", "constant", "between"]);
    fields.close();
    let (kind, field) = kind?;
    if kind != "between" {
        let text = written(field.node, &field.path, out)?;
        return Some(if kind == "pacing" { Wait::Pacing(text) } else { Wait::Constant(text) });
    }
    let bounds: Vec<Written> = items(field.node, &field.path, out)
        .iter()
        .enumerate()
        .filter_map(|(i, item)| written(item, &format!("{}[{i}]", field.path), out))
        .collect();
    match <[Written; 2]>::try_from(bounds) {
        Ok([least, most]) => Some(Wait::Between(least, most)),
        Err(_) => {
            let message = "the least and the most are expected, like [1s, 3s]";
            out.report(field.node.place, &field.path, message, None);
            None
        }
    }
}

fn read_task(name: String, task: &Field<'_>, out: &Collector) -> Option<Task> {
    let mut fields = Fields::open(task.node, &task.path, out)?;
    let weight = fields.text("weight");
    let tags = words(fields.find("tags"), out);
    let steps = match fields.exactly_one(&["http", "steps"]) {
        Some(("http", field)) => {
            let request = request(&field, false, out);
            let (name, place, path) = (name.clone(), task.key_place, task.path.clone());
            vec![Step { name, place, path, when: None, request }]
        }
        Some((_, field)) => {
            let steps = steps(field.node, &field.path, false, out);
            if steps.is_empty() {
                let message = "at least one step is expected";
                out.report(field.key_place, &field.path, message, None);
            }
            steps
        }
        None => Vec::new(),
    };
    fields.close();
    Some(Task { name, weight, tags, steps })
}

/// Secrets may stand in the bodies and headers of `on_start` only.
pub(super) fn steps(node: &Node, path: &str, secrets: bool, out: &Collector) -> Vec<Step> {
    let mut steps = Vec::new();
    for (i, item) in items(node, path, out).iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Some(mut fields) = Fields::open(item, &path, out) else { continue };
        let name = fields.required_text("name");
        let when = fields.text("when");
        let kind = fields.exactly_one(&["http"]);
        let request = kind.and_then(|(_, field)| request(&field, secrets, out));
        fields.close();
        let Some(name) = name else { continue };
        let fits = !name.text.is_empty()
            && name.text.len() <= 64
            && name.text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !fits {
            let message =
                format!("`{}` found, 1 to 64 letters, digits, `_` or `-` expected", name.text);
            out.report(name.place, &name.path, message, None);
        }
        let (place, path) = (name.place, name.path);
        steps.push(Step { name: name.text, place, path, when, request });
    }
    steps
}

pub(super) fn request(field: &Field<'_>, secrets: bool, out: &Collector) -> Option<Request> {
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let method = fields.exactly_one(&Method::ALL.map(Method::key));
    let url = method.as_ref().and_then(|(_, field)| written(field.node, &field.path, out));
    let method =
        method.and_then(|(key, _)| Method::ALL.into_iter().find(|method| method.key() == key));
    let request = Request {
        method,
        url,
        query: entries(fields.find("query"), out),
        headers: entries(fields.find("headers"), out),
        body: read_body(&mut fields, out),
        timeout: fields.text("timeout"),
        max_redirects: fields.text("max_redirects"),
        max_body: fields.text("max_body"),
        expect: fields.map("expect").map_or_else(Expect::default, |found| expect(found, out)),
        captures: ["capture", "capture_if_any"]
            .into_iter()
            .filter_map(|key| Some((fields.find(key)?, key == "capture")))
            .flat_map(|(field, required)| captures(&field, required, out))
            .collect(),
        may_hold_secrets: secrets,
    };
    fields.close();
    Some(request)
}

fn read_body(fields: &mut Fields<'_>, out: &Collector) -> Option<Body> {
    let mut found: Vec<(&str, Field<'_>)> = payload::KINDS
        .into_iter()
        .chain(["form"])
        .filter_map(|key| fields.find(key).map(|field| (key, field)))
        .collect();
    if let [(first, _), (second, field), ..] = found.as_slice() {
        let message = format!("at most one body is expected, found {first} and {second}");
        out.report(field.key_place, &fields.path, message, None);
    }
    if found.is_empty() {
        return None;
    }
    let (kind, field) = found.swap_remove(0);
    match kind {
        "form" => Some(Body::Form(entries(Some(field), out))),
        kind => payload::read(kind, &field, out).map(Body::Payload),
    }
}

fn expect(mut fields: Fields<'_>, out: &Collector) -> Expect {
    let mut expect = Expect { status: words(fields.find("status"), out), ..Expect::default() };
    if let Some(body) = fields.find("body") {
        if matches!(body.node.kind, Kind::Map(_)) {
            if let Some(mut checks) = Fields::open(body.node, &body.path, out) {
                for key in ["contains", "lacks", "equals"] {
                    expect.body.extend(checks.text(key).map(|text| (key, text)));
                }
                checks.close();
            }
        } else {
            let text = written(body.node, &body.path, out);
            expect.body.extend(text.map(|text| ("contains", text)));
        }
    }
    if let Some(json) = fields.find("json") {
        match &json.node.kind {
            Kind::Map(entries) => {
                for entry in entries {
                    let path = child(&json.path, &entry.key);
                    pointer(&entry.key, entry.place, &path, out);
                    expect.json.push((entry.key.clone(), path, entry.value.clone()));
                }
            }
            _ => {
                let message =
                    format!("{} found, a map of JSON pointers expected", json.node.found());
                out.report(json.node.place, &json.path, message, None);
            }
        }
    }
    expect.headers = entries(fields.find("headers"), out);
    fields.close();
    expect
}

/// Whether a text is a JSON pointer, which was reported otherwise.
fn pointer(text: &str, place: Place, path: &str, out: &Collector) -> bool {
    let fits = text.is_empty() || text.starts_with('/');
    if !fits {
        let help = Some(format!("did you mean `/{text}`?"));
        let message = format!("`{text}` found, a JSON pointer like /token expected");
        out.report(place, path, message, help);
    }
    fits
}

fn captures(field: &Field<'_>, required: bool, out: &Collector) -> Vec<Capture> {
    let mut captures = Vec::new();
    for (name, field) in named(field.node, &field.path, out) {
        plain_name(&name, &field, out);
        let from = if matches!(field.node.kind, Kind::Map(_)) {
            let Some(mut fields) = Fields::open(field.node, &field.path, out) else { continue };
            let kind = fields.exactly_one(&["json", "header"]);
            fields.close();
            kind.and_then(|(kind, field)| {
                let text = written(field.node, &field.path, out)?;
                Some(if kind == "json" {
                    CaptureFrom::Json(text)
                } else {
                    CaptureFrom::Header(text)
                })
            })
        } else {
            written(field.node, &field.path, out).map(CaptureFrom::Json)
        };
        let Some(from) = from else { continue };
        if let CaptureFrom::Json(text) = &from {
            pointer(&text.text, text.place, &text.path, out);
        }
        captures.push(Capture { name, from, required });
    }
    captures
}

/// A map whose keys are free.
fn entries(field: Option<Field<'_>>, out: &Collector) -> Vec<Entry> {
    let Some(field) = field else { return Vec::new() };
    let Kind::Map(found) = &field.node.kind else {
        if field.node.found() != "nothing" {
            let message = format!("{} found, a map expected", field.node.found());
            out.report(field.node.place, &field.path, message, None);
        }
        return Vec::new();
    };
    let entry = |entry: &crate::yaml::Entry| {
        let path = child(&field.path, &entry.key);
        if entry.key.contains("${") {
            let message = "a key is fixed: an expression may not stand here";
            out.report(entry.place, &path, message, None);
        }
        let value = written(&entry.value, &path, out)?;
        Some(Entry { name: entry.key.clone(), place: entry.place, value })
    };
    found.iter().filter_map(entry).collect()
}

/// One scalar or a list of them.
pub(super) fn words(field: Option<Field<'_>>, out: &Collector) -> Vec<Written> {
    let Some(field) = field else { return Vec::new() };
    match &field.node.kind {
        Kind::List(items) => items
            .iter()
            .enumerate()
            .filter_map(|(i, item)| written(item, &format!("{}[{i}]", field.path), out))
            .collect(),
        _ => written(field.node, &field.path, out).into_iter().collect(),
    }
}
