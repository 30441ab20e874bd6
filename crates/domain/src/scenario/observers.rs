//! Observers: what reads the platform's output. Read strictly, not built yet.

use super::fields::{Field, Fields};
use super::{LaterText, Level, Written, keep_all, keep_text};
use crate::diagnostics::{Collector, Place};

#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) of: Option<Written>,
    /// `eventhubs`, `kafka`, ...
    pub(crate) source: &'static str,
    pub(crate) later: Vec<LaterText>,
}

pub(super) fn read(name: String, field: &Field<'_>, out: &Collector) -> Option<Observer> {
    let (path, place) = (field.path.clone(), field.key_place);
    out.later(field.key_place, &field.path, "an observer");
    let mut fields = Fields::open(field.node, &field.path, out)?;
    let mut later = Vec::new();
    let of = fields.required_text("of");
    let drain = fields.find("drain");
    keep_text(drain, Level::Plan, false, &mut later, out);
    let read = fields.find("read");
    keep_all(read, Level::Plan, false, &mut later);
    let kind = fields.exactly_one(&["mqtt", "kafka", "eventhubs", "webhook", "nats"]);
    fields.close();
    let (source, field) = kind?;
    let (required, optional): (&[&'static str], &[&'static str]) = match source {
        "mqtt" => (&["url", "filter"], &["qos", "share", "protocol", "ca", "credentials"]),
        "kafka" => (&["brokers", "topic"], &["group", "tls", "ca", "credentials"]),
        "eventhubs" => (&["connection", "hub"], &["consumer_group"]),
        "webhook" => (&["listen"], &["path", "ca", "credentials"]),
        _ => (&["url", "subject"], &["stream", "durable", "ca", "credentials"]),
    };
    let mut inner = Fields::open(field.node, &field.path, out)?;
    for key in required {
        let field = inner.required(key);
        keep_all(field, Level::Plan, true, &mut later);
    }
    for key in optional {
        let field = inner.find(key);
        keep_all(field, Level::Plan, true, &mut later);
    }
    inner.close();
    Some(Observer { name, path, place, of, source, later })
}
