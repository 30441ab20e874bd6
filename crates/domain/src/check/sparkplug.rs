//! Sparkplug B: topics, types and aliases follow from the names that a person gives.
//!
//! The numbers are those of the specification (Eclipse Sparkplug 3.0, chapter 6): fields of
//! `Payload` and `Metric`, data types. A metric is compiled once and stands in two messages, with
//! name and type in a birth certificate and by its alias in the reports.

use serde_json::Value as Json;

use super::Check;
use super::text::Scope;
use super::typed::Typed;
use crate::diagnostics::{Place, suggest};
use crate::ids::SeriesId;
use crate::plan::{Metrics, Properties, Publish, Qos, Sparkplug, Target};
use crate::scenario::{self, Level, Written};
use crate::template::{Generator, NumberFormat, Part, Prefix, Template, push_varint};
use crate::yaml::{Kind, Node, child};

/// What every edge node says of itself.
const OWN: [&str; 2] = ["bdSeq", "Node Control/Rebirth"];
/// Reports without acknowledgements have no time-out; a plan has one all the same.
const NO_TIMEOUT_US: u64 = 30_000_000;

/// How a value of a type is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// Of 32 bits.
    Int {
        low: i32,
        high: u32,
    },
    /// Of 64 bits.
    Long {
        low: i64,
        high: u64,
    },
    Float,
    Double,
    Boolean,
    Text {
        field: u8,
    },
    Bytes,
}

struct DataType {
    word: &'static str,
    number: u8,
    form: Form,
}

const fn typed(word: &'static str, number: u8, form: Form) -> DataType {
    DataType { word, number, form }
}

const TYPES: [DataType; 16] = [
    typed("int8", 1, Form::Int { low: i8::MIN as i32, high: i8::MAX as u32 }),
    typed("int16", 2, Form::Int { low: i16::MIN as i32, high: i16::MAX as u32 }),
    typed("int32", 3, Form::Int { low: i32::MIN, high: i32::MAX as u32 }),
    typed("int64", 4, Form::Long { low: i64::MIN, high: i64::MAX as u64 }),
    typed("uint8", 5, Form::Int { low: 0, high: u8::MAX as u32 }),
    typed("uint16", 6, Form::Int { low: 0, high: u16::MAX as u32 }),
    typed("uint32", 7, Form::Int { low: 0, high: u32::MAX }),
    typed("uint64", 8, Form::Long { low: 0, high: u64::MAX }),
    typed("float", 9, Form::Float),
    typed("double", 10, Form::Double),
    typed("boolean", 11, Form::Boolean),
    typed("string", 12, Form::Text { field: 15 }),
    typed("datetime", 13, Form::Long { low: 0, high: u64::MAX }),
    typed("text", 14, Form::Text { field: 15 }),
    typed("uuid", 15, Form::Text { field: 15 }),
    typed("bytes", 17, Form::Bytes),
];

/// An edge node of the group that is being checked, as its reports need it.
pub(super) struct EdgeNode {
    group_id: Template,
    pub(super) devices: Vec<Template>,
    has_aliases: bool,
    /// (device, metric) of all reports so far; the place is the alias.
    known: Vec<(Option<usize>, String)>,
}

impl EdgeNode {
    pub(super) fn finish(self, births: SeriesId, deaths: SeriesId) -> Sparkplug {
        Sparkplug { group_id: self.group_id, devices: self.devices, births, deaths }
    }

    fn topic(&self, kind: &str, device: Option<usize>) -> Template {
        let mut topic = Template::literal("spBv1.0/");
        topic.append(&self.group_id);
        topic.push_literal(&format!("/{}{kind}/", if device.is_some() { "D" } else { "N" }));
        topic.push_value(Generator::Device);
        if let Some(device) = device {
            topic.push_literal("/");
            topic.append(&self.devices[device]);
        }
        topic
    }
}

impl Check<'_> {
    /// `scope` is that of a device. `Some(None)`: the group is of another kind.
    pub(super) fn edge_node(
        &self,
        written: &scenario::Group,
        target: Option<&Target>,
        scope: &Scope<'_>,
    ) -> Option<Option<EdgeNode>> {
        let reports = || written.sends.iter().filter_map(|send| send.metrics.as_ref());
        let Some(sparkplug) = &written.sparkplug else {
            if let Some(report) = reports().next() {
                let message = "reports of Sparkplug need the group's own key `sparkplug`";
                let help = Some("write `sparkplug: { group: NAME }` beside `send`".to_owned());
                self.out.report(report.place, &report.path, message, help);
            }
            return Some(None);
        };
        let refuse = |message: &str| {
            self.out.report(sparkplug.place, &sparkplug.path, message, None);
        };
        if written.will.is_some() {
            refuse("the will of an edge node is its death certificate: `will` is of no use here");
        }
        match target.map(Target::mqtt) {
            Some(None) => refuse("`sparkplug` needs an mqtt target"),
            Some(Some(mqtt)) if mqtt.keeps_session() || !mqtt.clean_start => {
                refuse("an edge node begins with a clean session: its target may not keep one");
            }
            _ => {}
        }
        if let Some(id) = &written.id {
            self.is_topic_word(&Template::literal(&id.text.replace("${", "")), id);
        }
        let has_aliases = match &sparkplug.aliases {
            Some(aliases) => self.flag(Some(aliases)),
            None => Some(true),
        };
        let word = |written: &Written| {
            let template = self.template(written, scope)?;
            self.is_topic_word(&template, written).then_some(template)
        };
        let group_id = sparkplug.group_id.as_ref().and_then(word);
        let mut devices: Option<Vec<Template>> = Some(Vec::new());
        for device in reports().filter_map(|report| report.device.as_ref()) {
            match (word(device), &mut devices) {
                (Some(device), Some(devices)) => {
                    if !devices.contains(&device) {
                        devices.push(device);
                    }
                }
                _ => devices = None,
            }
        }
        let known = Vec::new();
        Some(Some(EdgeNode {
            group_id: group_id?,
            devices: devices?,
            has_aliases: has_aliases?,
            known,
        }))
    }

    /// Each part of a Sparkplug topic is one level of it.
    fn is_topic_word(&self, template: &Template, written: &Written) -> bool {
        let found = template.parts().iter().find_map(|part| match part {
            Part::Literal(text) => text.find(['/', '+', '#']).map(|at| text[at..=at].to_owned()),
            Part::Value(_) => None,
        });
        if let Some(found) = &found {
            let message = format!("`{found}` may not stand in a name of Sparkplug");
            self.out.report(written.place, &written.path, message, None);
        }
        found.is_none()
    }

    /// `scope` is that of a message.
    pub(super) fn metrics(
        &self,
        written: &scenario::Metrics,
        node: &mut EdgeNode,
        scope: &Scope<'_>,
    ) -> Option<Metrics> {
        let device = match &written.device {
            None => None,
            Some(device) => {
                let scope = Scope { level: Level::Device, ..scope.clone() };
                let template = self.template(device, &scope)?;
                Some(node.devices.iter().position(|known| *known == template)?)
            }
        };
        let (path, tree) = written.metrics.as_ref()?;
        let Kind::Map(entries) = &tree.kind else {
            let message = format!("{} found, a map of metrics expected", tree.found());
            self.out.report(tree.place, path, message, None);
            return None;
        };
        let (mut report, mut birth) = (timestamp(0x08), Template::default());
        let mut is_whole = true;
        for entry in entries {
            let path = child(path, &entry.key);
            let name = (device, entry.key.clone());
            let wrong = if entry.key.is_empty() || entry.key.contains("${") {
                Some("a metric has a fixed name")
            } else if OWN.contains(&entry.key.as_str()) {
                Some("every edge node has this metric of itself")
            } else if node.known.contains(&name) {
                Some("this metric is reported already: each has one place in a birth certificate")
            } else {
                None
            };
            if let Some(wrong) = wrong {
                self.out.report(entry.place, &path, wrong, None);
                is_whole = false;
            }
            let alias = node.known.len() as u64;
            node.known.push(name);
            let Some((kind, value)) = self.one_metric(&entry.value, &path, scope) else {
                is_whole = false;
                continue;
            };
            let named = delimited(0x0a, Template::literal(&entry.key));
            let numbered = number(0x10, alias);
            let mut in_birth = named.clone();
            if node.has_aliases {
                in_birth.append(&numbered);
            }
            in_birth.append(&timestamp(0x18));
            in_birth.append(&number(0x20, kind.number.into()));
            in_birth.append(&value);
            let mut in_report = if node.has_aliases { numbered } else { named };
            in_report.append(&timestamp(0x18));
            in_report.append(&value);
            birth.append(&delimited(0x12, in_birth));
            report.append(&delimited(0x12, in_report));
        }
        if entries.is_empty() {
            self.out.report(tree.place, path, "at least one metric is expected", None);
            is_whole = false;
        }
        let publish = Publish {
            topic: node.topic("DATA", device),
            qos: Qos::AtMostOnce,
            retain: false,
            payload: report,
            properties: Properties::default(),
            ack_timeout_us: NO_TIMEOUT_US,
        };
        is_whole.then_some(Metrics { publish, device, birth })
    }

    /// A value, or one under the word of its type.
    fn one_metric(
        &self,
        node: &Node,
        path: &str,
        scope: &Scope<'_>,
    ) -> Option<(&'static DataType, Template)> {
        match &node.kind {
            Kind::Map(entries) => {
                let [entry] = entries.as_slice() else {
                    let message = "exactly one type is expected, like { int32: 5 }";
                    self.out.report(node.place, path, message, None);
                    return None;
                };
                let path = child(path, &entry.key);
                let Some(kind) = TYPES.iter().find(|kind| kind.word == entry.key) else {
                    let help = suggest(&entry.key, TYPES.iter().map(|kind| kind.word));
                    let message = format!("no type `{}`", entry.key);
                    self.out.report(entry.place, &path, message, help);
                    return None;
                };
                let (written, value) = self.metric_value(&entry.value, &path, scope)?;
                Some((kind, self.encoded(kind, value, &written)?))
            }
            _ => {
                let (written, value) = self.metric_value(node, path, scope)?;
                let word = match &value {
                    Typed::Constant(Json::Bool(_)) => "boolean",
                    Typed::Constant(Json::Number(n)) if n.is_i64() => "int64",
                    Typed::Constant(Json::Number(_)) => "double",
                    Typed::Number(generator) if generator.is_whole() => "int64",
                    Typed::Number(_) => "double",
                    Typed::Bytes(_) => "bytes",
                    Typed::Constant(_) | Typed::Text(_) => "string",
                };
                let kind = TYPES.iter().find(|kind| kind.word == word)?;
                Some((kind, self.encoded(kind, value, &written)?))
            }
        }
    }

    fn metric_value(&self, node: &Node, path: &str, scope: &Scope<'_>) -> Option<(Written, Typed)> {
        let Kind::Scalar { text, style } = &node.kind else {
            let message = format!("{} found, a single value expected", node.found());
            self.out.report(node.place, path, message, None);
            return None;
        };
        let (path, text) = (path.to_owned(), text.clone());
        let written = Written { path, text, style: *style, place: node.place };
        let value = self.typed(&written, scope)?;
        Some((written, value))
    }

    /// The field of a value.
    fn encoded(&self, kind: &DataType, value: Typed, written: &Written) -> Option<Template> {
        let generated = |tag: u8, format: NumberFormat| {
            let generator = match &value {
                Typed::Constant(Json::Number(n)) => Generator::Text(n.to_string()),
                Typed::Constant(Json::Bool(value)) if matches!(kind.form, Form::Boolean) => {
                    Generator::Text(value.to_string())
                }
                Typed::Number(generator) => generator.clone(),
                // `choice('true', 'false')` and the like.
                Typed::Text(text) if matches!(kind.form, Form::Boolean) => {
                    text.only_value()?.clone()
                }
                _ => return None,
            };
            let mut field = Template::raw(&[tag]);
            field.push_fixed(Generator::Number(format, Box::new(generator)));
            Some(field)
        };
        let fits = |low: i128, high: i128| match &value {
            Typed::Constant(Json::Number(n)) => {
                let whole = n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
                whole.is_some_and(|whole| (low..=high).contains(&whole))
            }
            _ => true,
        };
        let found = match kind.form {
            Form::Int { low, high } => fits(low.into(), high.into())
                .then(|| generated(0x50, NumberFormat::Wrapped { low, high }))
                .flatten(),
            Form::Long { low, high } => fits(low.into(), high.into())
                .then(|| generated(0x58, NumberFormat::Varint { low, high }))
                .flatten(),
            Form::Float => generated(0x65, NumberFormat::Float { n_bytes: 4, is_little: true }),
            Form::Double => generated(0x69, NumberFormat::Float { n_bytes: 8, is_little: true }),
            Form::Boolean if matches!(value, Typed::Constant(Json::Number(_))) => None,
            Form::Boolean => generated(0x70, NumberFormat::Varint { low: 0, high: 1 }),
            Form::Text { field } => match value {
                Typed::Constant(Json::Null) => None,
                Typed::Constant(Json::String(text)) => Some(Template::literal(&text)),
                Typed::Constant(other) => Some(Template::literal(&other.to_string())),
                Typed::Text(text) => Some(text),
                Typed::Number(generator) => Some(Template::of(generator)),
                Typed::Bytes(generator) => Some(Template::of(Generator::Hex(Box::new(generator)))),
            }
            .map(|text| delimited(field << 3 | 2, text)),
            Form::Bytes => match value {
                Typed::Constant(Json::String(text)) => Some(Template::literal(&text)),
                Typed::Text(text) => Some(text),
                Typed::Bytes(generator) => Some(Template::of(generator)),
                _ => None,
            }
            // Its tag has two bytes.
            .map(|bytes| {
                let mut field = Template::raw(&[0x82, 0x01]);
                field.push_fixed(Generator::Prefixed(Prefix::Varint, bytes));
                field
            }),
        };
        if found.is_none() {
            let message =
                format!("`{}` found, a value of type {} expected", written.text, kind.word);
            self.out.report(written.place, &written.path, message, None);
        }
        found
    }

    /// Where the group that has them begins its series.
    pub(super) fn certificates_are_new(&self, written: &scenario::Group, place: Place) {
        let listeners = written.listeners.iter().map(|listener| &listener.name);
        let names = written.sends.iter().map(|send| &send.name).chain(listeners);
        for name in names.filter(|name| CERTIFICATES.contains(&name.as_str())) {
            let message = format!("`{name}` is the series of its {name} certificates");
            self.out.report(place, &written.path, message, None);
        }
    }
}

/// The series of birth and death certificates.
pub(super) const CERTIFICATES: [&str; 2] = ["birth", "death"];

fn timestamp(tag: u8) -> Template {
    let mut field = Template::raw(&[tag]);
    let format = NumberFormat::Varint { low: 0, high: u64::MAX };
    field.push_value(Generator::Number(format, Box::new(Generator::NowMillis)));
    field
}

fn number(tag: u8, value: u64) -> Template {
    let mut field = vec![tag];
    push_varint(&mut field, value);
    Template::raw(&field)
}

fn delimited(tag: u8, inner: Template) -> Template {
    let mut field = Template::raw(&[tag]);
    field.push_fixed(Generator::Prefixed(Prefix::Varint, inner));
    field
}
