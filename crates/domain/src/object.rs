//! A run as an object: what `shoal apply` is given, and how such an object stands.
//!
//! The object has a name; its runs carry it and the hash of what they were made of as labels. So an
//! object needs no table: it is its latest run. Invariant: while a run of it goes on, an object is
//! what that run was made of, or applying it is refused.

use std::collections::BTreeMap;

use crate::diagnostics::{Collector, Diagnostic, Place};
use crate::run::{Phase, Verdict};
use crate::scenario::{Fields, Written, named, written};
use crate::units;
use crate::yaml;

/// The labels by which the runs of an object are found.
pub const OBJECT: &str = "object";
pub const SPEC: &str = "object_spec";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunObject {
    pub name: String,
    /// Relative to the object's file.
    pub scenario: String,
    pub set: BTreeMap<String, String>,
    pub agents: Option<u32>,
    pub labels: BTreeMap<String, String>,
    pub note: String,
}

/// As people who apply objects know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectPhase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl ObjectPhase {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Of the object's latest run; `exit_code` once it is over.
    pub fn of(phase: Phase, verdict: Option<Verdict>, exit_code: Option<u8>) -> Self {
        match phase {
            Phase::Pending | Phase::Preparing | Phase::Armed => Self::Pending,
            Phase::Running | Phase::Stopping | Phase::Collecting => Self::Running,
            _ if verdict == Some(Verdict::Passed) && exit_code == Some(0) => Self::Succeeded,
            _ => Self::Failed,
        }
    }
}

/// What applying an object does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    Start,
    /// It is as wanted already.
    Keep,
    /// A run goes on that was made of something else.
    Refuse,
}

/// `latest`: the spec of its newest run and how that stands; `again`: also what is over starts.
pub fn apply(wanted: &str, latest: Option<(&str, ObjectPhase)>, again: bool) -> Apply {
    match latest {
        None => Apply::Start,
        Some((spec, ObjectPhase::Pending | ObjectPhase::Running)) => {
            if spec == wanted {
                Apply::Keep
            } else {
                Apply::Refuse
            }
        }
        Some((spec, _)) if spec == wanted && !again => Apply::Keep,
        Some(_) => Apply::Start,
    }
}

/// The object in a file, or all its mistakes.
pub fn parse_object(text: &str) -> Result<RunObject, Vec<Diagnostic>> {
    let out = Collector::default();
    let object = yaml::parse(text, &out).and_then(|root| {
        let fields = Fields::open(&root, "", &out)?;
        read(fields, &out)
    });
    match object {
        Some(object) if out.is_empty() => Ok(object),
        _ => {
            if out.is_empty() {
                let start = Place { line: 1, column: 1 };
                out.report(start, "", "the object is incomplete", None);
            }
            Err(out.sorted())
        }
    }
}

fn read(mut fields: Fields<'_>, out: &Collector) -> Option<RunObject> {
    let version = fields.required_text("version");
    let name = fields.required_text("run");
    let scenario = fields.required_text("scenario");
    let agents = fields.text("agents").and_then(|written| whole(&written, out));
    let note = fields.text("note");
    let mut texts = |key| match fields.find(key) {
        None => BTreeMap::new(),
        Some(field) => named(field.node, &field.path, out)
            .into_iter()
            .filter_map(|(name, field)| {
                written(field.node, &field.path, out).map(|value| (name, value.text))
            })
            .collect(),
    };
    let (set, labels) = (texts("set"), texts("labels"));
    fields.close();
    if let Some(version) = version.filter(|version| version.text != "1") {
        let message = format!("`{}` found, version 1 expected", version.text);
        out.report(version.place, &version.path, message, None);
    }
    for reserved in [OBJECT, SPEC] {
        if labels.contains_key(reserved) {
            let message = format!("the label `{reserved}` is set by `shoal apply`");
            out.report(Place { line: 1, column: 1 }, "labels", message, None);
        }
    }
    let is_name = |text: &str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let name = name?;
    if !is_name(&name.text) {
        let message =
            format!("`{}` found, 1 to 64 letters, digits, `.`, `_` or `-` expected", name.text);
        out.report(name.place, &name.path, message, None);
    }
    let note = note.map(|note| note.text).unwrap_or_default();
    Some(RunObject { name: name.text, scenario: scenario?.text, set, agents, labels, note })
}

fn whole(written: &Written, out: &Collector) -> Option<u32> {
    let n = units::whole(&written.text).and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    if n.is_none() {
        let message = format!("`{}` found, a number of agents expected", written.text);
        out.report(written.place, &written.path, message, None);
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NIGHTLY: &str = "version: 1\nrun: nightly\nscenario: telemetry.yaml\nagents: 2\n\
                           set: { devices: 500, hold: 10m }\nlabels: { env: staging }\n";

    #[test]
    fn an_object_is_a_scenario_with_its_values() {
        let object = parse_object(NIGHTLY).unwrap();
        assert_eq!((object.name.as_str(), object.agents), ("nightly", Some(2)));
        assert_eq!(object.set["hold"], "10m");
        let found = |from: &str, to: &str| {
            let found = parse_object(&NIGHTLY.replace(from, to)).unwrap_err();
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(found("run: nightly\n", "").contains("`run` is missing"));
        assert!(found("agents: 2", "agents: two").contains("a number of agents"));
        assert!(found("agents: 2", "agent: 2").contains("unknown key `agent`"));
        assert!(found("env: staging", "object: x").contains("is set by `shoal apply`"));
        assert!(found("version: 1", "version: 2").contains("version 1 expected"));
    }

    #[test]
    fn what_runs_cannot_be_changed_and_what_is_over_can() {
        use ObjectPhase::{Failed, Pending, Running, Succeeded};
        for going_on in [Pending, Running] {
            assert_eq!(apply("a", Some(("a", going_on)), true), Apply::Keep);
            assert_eq!(apply("b", Some(("a", going_on)), true), Apply::Refuse);
        }
        for over in [Succeeded, Failed] {
            assert_eq!(apply("a", Some(("a", over)), false), Apply::Keep);
            assert_eq!(apply("a", Some(("a", over)), true), Apply::Start);
            assert_eq!(apply("b", Some(("a", over)), false), Apply::Start);
        }
        assert_eq!(apply("a", None, false), Apply::Start);
    }

    #[test]
    fn an_object_succeeds_only_with_a_run_that_passed() {
        for phase in Phase::ALL {
            let succeeded = ObjectPhase::of(phase, Some(Verdict::Passed), Some(0));
            assert_eq!(succeeded == ObjectPhase::Succeeded, phase.is_over());
            let degraded = ObjectPhase::of(phase, Some(Verdict::Passed), Some(3));
            assert_eq!(degraded == ObjectPhase::Failed, phase.is_over());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_object_or_has_mistakes(text in "\\PC{0,80}") {
            if let Err(found) = parse_object(&text) {
                prop_assert!(!found.is_empty());
            }
        }
    }
}
