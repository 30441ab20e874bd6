//! The closed model's grammar: steps, tasks, HTTP requests. Read strictly, not built yet.

use super::fields::{Field, Fields, items, named, written};
use super::{LaterText, Level, keep_all, keep_text};
use crate::diagnostics::Collector;
use crate::yaml::Node;

/// What other checks need of these sections.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) series: Vec<String>,
    pub(super) captures: Vec<String>,
    pub(super) later: Vec<LaterText>,
}

pub(super) fn read_loop(field: &Field<'_>, found: &mut Found, out: &Collector) {
    let Some(mut fields) = Fields::open(field.node, &field.path, out) else { return };
    if let Some(mut wait) = fields.map("wait") {
        let kind = wait.exactly_one(&["pacing", "constant", "between"]);
        keep_all(kind.map(|(_, field)| field), Level::Plan, false, &mut found.later);
        wait.close();
    }
    if let Some(tasks) = fields.required("tasks") {
        for (name, task) in named(tasks.node, &tasks.path, out) {
            let Some(mut fields) = Fields::open(task.node, &task.path, out) else { continue };
            found.series.push(name);
            let weight = fields.find("weight");
            keep_text(weight, Level::Plan, false, &mut found.later, out);
            match fields.exactly_one(&["http", "steps"]) {
                Some(("http", field)) => request(&field, false, found, out),
                Some((_, field)) => steps(field.node, &field.path, false, found, out),
                None => {}
            }
            fields.close();
        }
    }
    fields.close();
}

/// Secrets may stand in the bodies of `on_start` only.
pub(super) fn steps(node: &Node, path: &str, secrets: bool, found: &mut Found, out: &Collector) {
    for (i, item) in items(node, path, out).iter().enumerate() {
        let path = format!("{path}[{i}]");
        let Some(mut fields) = Fields::open(item, &path, out) else { continue };
        if let Some(name) = fields.required_text("name") {
            found.series.push(name.text);
        }
        fields.text("when");
        if let Some((_, field)) = fields.exactly_one(&["http"]) {
            request(&field, secrets, found, out);
        }
        fields.close();
    }
}

pub(super) fn request(field: &Field<'_>, secrets: bool, found: &mut Found, out: &Collector) {
    let Some(mut fields) = Fields::open(field.node, &field.path, out) else { return };
    let method = fields.exactly_one(&["get", "post", "put", "patch", "delete", "head"]);
    keep_text(method.map(|(_, field)| field), Level::Message, false, &mut found.later, out);
    for key in ["json", "text", "headers"] {
        let field = fields.find(key);
        keep_all(field, Level::Message, secrets, &mut found.later);
    }
    let timeout = fields.find("timeout");
    keep_text(timeout, Level::Plan, false, &mut found.later, out);
    if let Some(mut expect) = fields.map("expect") {
        for key in ["status", "body"] {
            let field = expect.find(key);
            keep_all(field, Level::Plan, false, &mut found.later);
        }
        expect.close();
    }
    for key in ["capture", "capture_if_any"] {
        if let Some(field) = fields.find(key) {
            for (name, pointer) in named(field.node, &field.path, out) {
                written(pointer.node, &pointer.path, out);
                found.captures.push(name);
            }
        }
    }
    fields.close();
}
