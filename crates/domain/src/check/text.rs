//! Scalars that are evaluated once per device or once per message become templates.
//!
//! Every expression is checked where it stands: a name that is not known yet, a secret where it
//! would leak, or a part of the grammar that is not built is refused with its place.

use super::Check;
use crate::diagnostics::suggest;
use crate::expression::{self, Expression, Piece};
use crate::files::Rows;
use crate::scenario::{Level, Written};
use crate::template::{Generator, Template};
use crate::yaml::Style;

/// What kind of value an expression gives; a lone expression in JSON keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueKind {
    Number,
    Text,
    /// Raw bytes, printed as hexadecimal digits unless a function takes them.
    Bytes,
    /// A YAML scalar without quotes, whose text decides.
    Scalar,
    /// Out of a reply, which decides.
    Captured,
}

#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) generator: Generator,
    pub(super) kind: ValueKind,
}

/// What may be named where a scalar stands.
#[derive(Debug, Clone)]
pub(super) struct Scope<'a> {
    pub(super) level: Level,
    pub(super) secrets: bool,
    /// While the id itself renders, neither it nor what is drawn after it is known.
    pub(super) is_id: bool,
    pub(super) lets: &'a [(String, ValueKind)],
    pub(super) captures: &'a [String],
    /// Names that a reply reads of its message.
    pub(super) message: &'a [String],
    /// Whether there is a device that this goes `to`.
    pub(super) has_addressee: bool,
    /// Whether a connection stands for several devices.
    pub(super) has_children: bool,
    pub(super) columns: Columns<'a>,
    /// Of the series whose slots count time, for `sine`.
    pub(super) period_ns: Option<u64>,
}

/// What `row.` names may be of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Columns<'a> {
    None,
    /// The table could not be read, which was reported.
    Unknown,
    Of(&'a Rows),
}

impl Scope<'_> {
    pub(super) const fn plan() -> Self {
        Self {
            level: Level::Plan,
            secrets: false,
            is_id: false,
            lets: &[],
            captures: &[],
            message: &[],
            has_addressee: false,
            has_children: false,
            columns: Columns::None,
            period_ns: None,
        }
    }
}

/// Names without a namespace: who knows them from when on.
const NAMES: [(&str, Level, Generator, ValueKind); 11] = [
    ("device", Level::Device, Generator::Device, ValueKind::Text),
    ("index", Level::Device, Generator::Index, ValueKind::Number),
    ("run", Level::Device, Generator::Run, ValueKind::Text),
    ("child", Level::Message, Generator::Child, ValueKind::Number),
    ("seq", Level::Message, Generator::Seq, ValueKind::Number),
    ("stamp", Level::Message, Generator::Stamp, ValueKind::Text),
    ("request", Level::Message, Generator::Request, ValueKind::Text),
    ("now_s", Level::Message, Generator::NowSeconds, ValueKind::Number),
    ("now_ms", Level::Message, Generator::NowMillis, ValueKind::Number),
    ("now_us", Level::Message, Generator::NowMicros, ValueKind::Number),
    ("now_iso", Level::Message, Generator::NowIso, ValueKind::Text),
];

impl Check<'_> {
    /// A text outside JSON.
    pub(super) fn template(&self, written: &Written, scope: &Scope<'_>) -> Option<Template> {
        let mut template = Template::default();
        for piece in self.pieces(written, scope)? {
            template.push_value(piece.text());
        }
        Some(template)
    }

    /// The parts of a scalar with every expression compiled; all mistakes in it are reported.
    pub(super) fn pieces(&self, written: &Written, scope: &Scope<'_>) -> Option<Vec<Value>> {
        let pieces = match expression::parse(&written.text) {
            Ok(pieces) => pieces,
            Err(malformed) => {
                let place = written.at(malformed.offset);
                self.out.report(place, &written.path, malformed.message, None);
                return None;
            }
        };
        let values: Vec<Option<Value>> = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => {
                    Some(Value { generator: Generator::Text(text.clone()), kind: ValueKind::Text })
                }
                Piece::Expression { offset, value } => {
                    self.expression(value, scope, written, *offset)
                }
            })
            .collect();
        values.into_iter().collect()
    }

    /// One expression; `offset` is where its `$` stands in the scalar.
    pub(super) fn expression(
        &self,
        value: &Expression,
        scope: &Scope<'_>,
        written: &Written,
        offset: usize,
    ) -> Option<Value> {
        match value {
            Expression::Text(text) => {
                Some(Value { generator: Generator::Text(text.clone()), kind: ValueKind::Text })
            }
            Expression::Number(text) => {
                let (text, kind) = match super::json::number(text) {
                    Some(number) => (number, ValueKind::Number),
                    None => (text.clone(), ValueKind::Text),
                };
                Some(Value { generator: Generator::Text(text), kind })
            }
            Expression::Call { function, arguments } => {
                self.call(function, arguments, scope, written, offset)
            }
            Expression::Name(name) => self.name_value(name, scope, written, offset),
        }
    }

    fn name_value(
        &self,
        name: &str,
        scope: &Scope<'_>,
        written: &Written,
        offset: usize,
    ) -> Option<Value> {
        let refuse = |message: String, help: Option<String>| {
            self.out.report(written.at(offset), &written.path, message, help);
            None
        };
        let not_defined = |names: &mut dyn Iterator<Item = &str>| {
            let short = name.split_once('.').map_or(name, |(_, short)| short);
            refuse(format!("`{name}` is not defined"), suggest(short, names))
        };
        let Some((namespace, short)) = name.split_once('.') else {
            return self.bare_name(name, scope, written, offset);
        };
        match namespace {
            "vars" => {
                let Some(var) = self.vars.get(short) else {
                    return not_defined(&mut self.vars.names());
                };
                if !self.is_set(short, var, written) {
                    return None;
                }
                let kind = match var.style {
                    Style::Quoted => ValueKind::Text,
                    _ => ValueKind::Scalar,
                };
                Some(Value { generator: Generator::Text(var.text.clone()), kind })
            }
            "let" => {
                if scope.level == Level::Plan || scope.is_id {
                    return self.too_early(name, "drawn once per device", scope, written, offset);
                }
                match scope.lets.iter().position(|(known, _)| known == short) {
                    Some(i) => {
                        let kind = scope.lets[i].1;
                        Some(Value { generator: Generator::Let(i), kind })
                    }
                    None => not_defined(&mut scope.lets.iter().map(|(known, _)| known.as_str())),
                }
            }
            "secret" if scope.secrets => {
                let secret = Generator::Secret(short.to_owned());
                Some(Value { generator: secret, kind: ValueKind::Text })
            }
            "secret" => refuse(
                "a secret may only stand in credentials, connections and the body or headers of an on_start step".to_owned(),
                None,
            ),
            "captured" if !scope.captures.iter().any(|known| known == short) => {
                not_defined(&mut scope.captures.iter().map(String::as_str))
            }
            "row" => match scope.columns {
                Columns::Unknown => None,
                Columns::None => {
                    let help = Some("give the group `rows: table.csv`".to_owned());
                    refuse(format!("`{name}` needs a table of rows"), help)
                }
                Columns::Of(_) if scope.level == Level::Plan => {
                    self.too_early(name, "known once per device", scope, written, offset)
                }
                Columns::Of(rows) => match rows.columns().iter().position(|known| known == short) {
                    Some(column) => {
                        Some(Value { generator: Generator::Row(column), kind: ValueKind::Text })
                    }
                    None => not_defined(&mut rows.columns().iter().map(String::as_str)),
                },
            },
            "captured" => {
                let known = scope.captures.iter().position(|known| known == short)?;
                Some(Value { generator: Generator::Captured(known), kind: ValueKind::Captured })
            }
            "message" => match scope.message.iter().position(|known| known == short) {
                Some(index) => Some(Value {
                    generator: Generator::Captured(index),
                    kind: ValueKind::Captured,
                }),
                None => not_defined(&mut scope.message.iter().map(String::as_str)),
            },
            "to" if !scope.has_addressee => refuse(
                format!("`{name}` is known in a command's topic and payload only"),
                None,
            ),
            "to" => match ["device", "index"].iter().position(|known| *known == short) {
                Some(index) => Some(Value {
                    generator: Generator::Captured(index),
                    kind: ValueKind::Captured,
                }),
                None => not_defined(&mut ["device", "index"].into_iter()),
            },
            _ => refuse(
                format!("`{name}` is not a name"),
                suggest(namespace, ["vars", "let", "secret", "row", "captured", "message", "to"]),
            ),
        }
    }

    fn bare_name(
        &self,
        name: &str,
        scope: &Scope<'_>,
        written: &Written,
        offset: usize,
    ) -> Option<Value> {
        let Some((_, level, generator, kind)) = NAMES.iter().find(|(known, ..)| *known == name)
        else {
            let message = format!("`{name}` is not a name");
            let help = if self.vars.get(name).is_some() {
                Some(format!("did you mean `vars.{name}`?"))
            } else if scope.lets.iter().any(|(known, _)| known == name) {
                Some(format!("did you mean `let.{name}`?"))
            } else {
                suggest(name, NAMES.iter().map(|(known, ..)| *known))
            };
            self.out.report(written.at(offset), &written.path, message, help);
            return None;
        };
        let known = match level {
            Level::Message => "known once per message",
            _ => "known once per device",
        };
        let is_known = match scope.level {
            Level::Plan => false,
            Level::Device => *level != Level::Message,
            Level::Message => true,
        };
        if !is_known {
            return self.too_early(name, known, scope, written, offset);
        }
        if name == "child" && !scope.has_children {
            let message = "`child` is known where several devices are behind one connection";
            let help = Some("write `children: N` in this entry of `send`".to_owned());
            self.out.report(written.at(offset), &written.path, message, help);
            return None;
        }
        if scope.is_id && name == "device" {
            let message = "`device` is this id, which cannot name itself";
            let help = Some("did you mean `index`?".to_owned());
            self.out.report(written.at(offset), &written.path, message, help);
            return None;
        }
        Some(Value { generator: generator.clone(), kind: *kind })
    }

    pub(super) fn too_early(
        &self,
        name: &str,
        known: &str,
        scope: &Scope<'_>,
        written: &Written,
        offset: usize,
    ) -> Option<Value> {
        let key = written.key();
        let fixed = match scope.level {
            Level::Plan => "fixed when the plan is made",
            _ if scope.is_id && known.starts_with("drawn") => "fixed before",
            _ => "fixed once per device",
        };
        let message = format!("`{name}` is {known}, `{key}` is {fixed}");
        self.out.report(written.at(offset), &written.path, message, None);
        None
    }
}

impl Value {
    /// As it stands in a text: raw bytes become hexadecimal digits.
    pub(super) fn text(self) -> Generator {
        match self.kind {
            ValueKind::Bytes => Generator::Hex(Box::new(self.generator)),
            _ => self.generator,
        }
    }
}
