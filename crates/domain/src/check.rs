//! A scenario file becomes a plan, or a list of everything that is wrong with it.
//!
//! Every check goes on after a mistake, so a value that could not be read is `None` and whoever
//! needs it says nothing more. Invariant: a plan exists only where no mistake was reported, and
//! what it says is never validated again.

mod cbor;
mod certificates;
mod commands;
mod counts;
mod defaults;
mod eventhubs;
mod files;
mod fleet;
mod functions;
mod groups;
mod http;
mod json;
mod kafka;
mod load;
mod nats;
mod observers;
mod payload;
mod protobuf;
mod reading;
mod replay;
mod sas;
mod sends;
mod sparkplug;
mod steps;
mod tags;
mod targets;
mod text;
mod thresholds;
mod typed;
mod vars;
mod webhook;
mod windows;

use std::collections::BTreeSet;

use self::files::Shipping;
use self::load::Usable;
pub use self::tags::{EXCLUDE_TAGS, TAGS};
use self::vars::Vars;
use crate::diagnostics::{Collector, Diagnostic, Place};
use crate::files::Files;
use crate::plan::{Load, Plan};
use crate::scenario::{self, ScenarioFile};
use crate::yaml;

/// Reads a scenario. `overrides` are (name, text) of `--set`, each read as a YAML scalar, or of
/// [`TAGS`] and [`EXCLUDE_TAGS`]; `files`
/// has what [`files_named`] asked for.
///
/// All mistakes at once, sorted by place.
pub fn parse_plan(
    text: &str,
    overrides: &[(String, String)],
    files: &Files,
) -> Result<Plan, Vec<Diagnostic>> {
    let out = Collector::default();
    let shipping = Shipping::new(files);
    let plan = yaml::parse(text, &out).and_then(|root| scenario::read(&root, &out)).and_then(
        |mut file| {
            tags::apply(&mut file, overrides, &out);
            build(&file, overrides, shipping, &out)
        },
    );
    match plan {
        Some(plan) if out.is_empty() => Ok(plan),
        None if out.is_empty() => {
            let start = Place { line: 1, column: 1 };
            out.report(start, "", "the scenario is incomplete", None);
            Err(out.sorted())
        }
        _ => Err(out.sorted()),
    }
}

/// The paths of the files that go with a run of this scenario, relative to it, whatever else is
/// wrong with it: `parse_plan` says that.
pub fn files_named(text: &str, overrides: &[(String, String)]) -> BTreeSet<String> {
    let quiet = Collector::default();
    let none = Files::none();
    let shipping = Shipping::new(&none);
    let asked = shipping.asked();
    if let Some(root) = yaml::parse(text, &quiet)
        && let Some(file) = scenario::read(&root, &quiet)
    {
        build(&file, overrides, shipping, &quiet);
    }
    asked.take()
}

/// The JSON Schema of the scenario file, for editors; it knows the keys, not the values.
pub fn json_schema() -> serde_json::Value {
    scenario::schema()
}

/// What every check needs.
struct Check<'f> {
    file: &'f ScenarioFile,
    vars: Vars,
    shipping: Shipping<'f>,
    out: &'f Collector,
}

fn build(
    file: &ScenarioFile,
    overrides: &[(String, String)],
    shipping: Shipping<'_>,
    out: &Collector,
) -> Option<Plan> {
    let vars = Vars::new(&file.vars, overrides, out);
    let check = Check { file, vars, shipping, out };
    check.version();
    let name = check.name();
    let seed = file.seed.as_ref().and_then(|seed| check.whole(seed, 0, u64::MAX));
    let stop_timeout_us = check.micros_or(file.stop_timeout.as_ref(), 5_000_000);
    let max_duration_us = file.max_duration.as_ref().and_then(|written| check.micros(written));
    let targets = check.targets();
    let (groups, series) = check.groups(targets.as_deref());
    let observers = check.observers(groups.as_deref(), &series);
    let loads = check.loads(groups.as_deref());
    let thresholds = check.thresholds(groups.as_deref(), &series, &loads.names);
    let fleet = check.fleet();
    let (Usable { loads, stages }, mut groups) = (loads.usable?, groups?);
    for (load, Load { groups: members, .. }) in loads.iter().enumerate() {
        members.iter().for_each(|member| groups[*member].load = load);
    }
    Some(Plan {
        name: name?,
        vars: check.vars.for_the_record(overrides),
        seed,
        files: check.shipping.files()?,
        targets: targets?,
        groups,
        series,
        loads,
        stages,
        observers: observers?,
        thresholds: thresholds?,
        fleet,
        stop_timeout_us: stop_timeout_us?,
        max_duration_us,
    })
}

impl Check<'_> {
    fn version(&self) {
        if let Some(written) = &self.file.version
            && written.text != "1"
        {
            let message = format!("`{}` found, version 1 expected", written.text);
            self.out.report(written.place, &written.path, message, None);
        }
    }

    fn name(&self) -> Option<String> {
        let written = self.file.name.as_ref()?;
        let name = self.resolve(written)?.text;
        let is_fitting = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !is_fitting {
            let message =
                format!("`{name}` found, 1 to 64 letters, digits, `.`, `_` or `-` expected");
            self.out.report(written.place, &written.path, message, None);
            return None;
        }
        Some(name)
    }
}

#[cfg(test)]
mod tests;
