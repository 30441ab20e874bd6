//! Values that are known when the plan is made: variables, and scalars read as what they must be.
//!
//! A variable is checked where it is used, and the mistake is reported where it was written: in
//! the file, or at its use where `--set` gave it.

use std::collections::BTreeMap;

use super::Check;
use crate::diagnostics::{Collector, Place, suggest};
use crate::expression::{self, Expression, Piece};
use crate::scenario::Written;
use crate::units::{self, Rate};
use crate::yaml::{self, Kind, Style};

#[derive(Debug)]
pub(super) struct Vars {
    values: BTreeMap<String, Var>,
}

#[derive(Debug, Clone)]
pub(super) struct Var {
    pub(super) text: String,
    pub(super) style: Style,
    /// `None`: given by `--set`.
    place: Option<Place>,
}

/// A scalar with its variables filled in.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) text: String,
    /// The variable that a lone `${vars.x}` names.
    origin: Option<(String, Var)>,
}

impl Vars {
    pub(super) fn new(
        written: &[Written],
        overrides: &[(String, String)],
        out: &Collector,
    ) -> Self {
        let mut values = BTreeMap::new();
        for var in written {
            if var.text.contains("${") {
                let message = "a variable is a plain value: an expression may not stand here";
                out.report(var.place, &var.path, message, None);
            }
            let value = Var { text: var.text.clone(), style: var.style, place: Some(var.place) };
            values.insert(var.key().to_owned(), value);
        }
        let start = written.first().map_or(Place { line: 1, column: 1 }, |var| var.place);
        for (name, text) in overrides.iter().filter(|(name, _)| !super::tags::is_option(name)) {
            let path = format!("vars.{name}");
            if !values.contains_key(name) {
                let message = format!("`--set {name}` names no variable of this file");
                let help = suggest(name, values.keys().map(String::as_str));
                out.report(start, &path, message, help);
            } else if let Some((text, style)) = override_scalar(text) {
                values.insert(name.clone(), Var { text, style, place: None });
            } else {
                let message = format!("`--set {name}={text}` found, a single value expected");
                out.report(start, &path, message, None);
            }
        }
        Self { values }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Var> {
        self.values.get(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Also the options of tags, which decide as much.
    pub(super) fn for_the_record(
        &self,
        overrides: &[(String, String)],
    ) -> BTreeMap<String, String> {
        let values = self.values.iter().map(|(name, var)| (name.clone(), var.text.clone()));
        let options = overrides.iter().filter(|(name, _)| super::tags::is_option(name)).cloned();
        values.chain(options).collect()
    }
}

fn override_scalar(text: &str) -> Option<(String, Style)> {
    if text.trim().is_empty() {
        return Some((String::new(), Style::Plain));
    }
    let quiet = Collector::default();
    let node = yaml::parse(text, &quiet)?;
    match node.kind {
        Kind::Scalar { text, style } if quiet.is_empty() && !text.contains("${") => {
            Some((text, style))
        }
        _ => None,
    }
}

impl Check<'_> {
    /// Evaluates a scalar that is fixed when the plan is made.
    pub(super) fn resolve(&self, written: &Written) -> Option<Resolved> {
        let pieces = match expression::parse(&written.text) {
            Ok(pieces) => pieces,
            Err(malformed) => {
                self.out.report(
                    written.at(malformed.offset),
                    &written.path,
                    malformed.message,
                    None,
                );
                return None;
            }
        };
        let mut resolved = Resolved { text: String::new(), origin: None };
        let is_lone = pieces.len() == 1;
        for piece in &pieces {
            match piece {
                Piece::Literal(text) => resolved.text.push_str(text),
                Piece::Expression { offset, value } => {
                    let (name, var) = self.plan_value(value, written, *offset)?;
                    resolved.text.push_str(&var.text);
                    if is_lone {
                        resolved.origin = Some((name.to_owned(), var.clone()));
                    }
                }
            }
        }
        Some(resolved)
    }

    fn plan_value<'a>(
        &'a self,
        value: &'a Expression,
        written: &Written,
        offset: usize,
    ) -> Option<(&'a str, &'a Var)> {
        if let Expression::Name(name) = value
            && let Some(var) = name.strip_prefix("vars.")
            && let Some(found) = self.vars.get(var)
        {
            return Some((var, found)).filter(|(name, var)| self.is_set(name, var, written));
        }
        // Whatever else stands here is a mistake, which compiling it names.
        let scope = super::text::Scope::plan();
        if self.expression(value, &scope, written, offset).is_some() {
            let message = format!(
                "a literal has no place in `{}`: only `vars.` names may stand here",
                written.key()
            );
            self.out.report(written.at(offset), &written.path, message, None);
        }
        None
    }

    pub(super) fn is_set(&self, name: &str, var: &Var, user: &Written) -> bool {
        let is_set = !var.text.is_empty() || var.style == Style::Quoted;
        if !is_set {
            let (place, path) = match var.place {
                Some(place) => (place, format!("vars.{name}")),
                None => (user.place, user.path.clone()),
            };
            let help = Some(format!("set it in the file or with --set {name}=..."));
            self.out.report(place, &path, format!("`{name}` has no value"), help);
        }
        is_set
    }

    /// Reads a resolved scalar, or says what was expected where the value was written.
    pub(super) fn read<T>(
        &self,
        written: &Written,
        needs: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let resolved = self.resolve(written)?;
        let value = read(&resolved.text);
        if value.is_none() {
            self.misread(written, &resolved, needs);
        }
        value
    }

    pub(super) fn misread(&self, written: &Written, resolved: &Resolved, needs: &str) {
        let text = &resolved.text;
        match &resolved.origin {
            Some((name, Var { place: Some(place), .. })) => {
                let message = format!(
                    "`{text}` is used as {} (line {}), which needs {needs}",
                    written.path, written.place.line
                );
                self.out.report(*place, &format!("vars.{name}"), message, None);
            }
            Some((name, _)) => {
                let message = format!("`{text}` (from --set {name}) found, {needs} expected");
                self.out.report(written.place, &written.path, message, None);
            }
            None => {
                let found =
                    if text.is_empty() { "nothing".to_owned() } else { format!("`{text}`") };
                let message = format!("{found} found, {needs} expected");
                self.out.report(written.place, &written.path, message, None);
            }
        }
    }

    pub(super) fn whole(&self, written: &Written, least: u64, most: u64) -> Option<u64> {
        let needs = match (least, most) {
            (0, u64::MAX) => "a whole number".to_owned(),
            (least, u64::MAX) => format!("a whole number of at least {least}"),
            (least, most) => format!("a whole number from {least} to {most}"),
        };
        let value = self.read(written, "a whole number", units::whole)?;
        if (least..=most).contains(&value) {
            return Some(value);
        }
        let resolved = self.resolve(written)?;
        self.misread(written, &resolved, &needs);
        None
    }

    /// Nanoseconds, more than 0.
    pub(super) fn nanos(&self, written: &Written) -> Option<u64> {
        let needs = "a duration with its unit, like 5s";
        let ns = self.read(written, needs, units::duration_ns)?;
        if ns < 1_000 {
            let resolved = self.resolve(written)?;
            self.misread(written, &resolved, "a duration of at least 1us");
            return None;
        }
        Some(ns)
    }

    pub(super) fn micros(&self, written: &Written) -> Option<u64> {
        self.nanos(written).map(|ns| ns / 1_000)
    }

    pub(super) fn micros_or(&self, written: Option<&Written>, default_us: u64) -> Option<u64> {
        written.map_or(Some(default_us), |written| self.micros(written))
    }

    pub(super) fn rate(&self, written: &Written) -> Option<Rate> {
        self.read(written, "a rate with its unit, like 100/s", units::rate)
    }

    pub(super) fn flag(&self, written: Option<&Written>) -> Option<bool> {
        let Some(written) = written else { return Some(false) };
        self.read(written, "true or false", |text| match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        })
    }
}
