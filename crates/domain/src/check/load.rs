//! `load` becomes contiguous stages in run time, for the file and for each group with its own.
//!
//! Stages that cannot be used still get a name, so that a threshold on them can be read.

mod kinds;

use std::collections::{HashMap, HashSet};

use super::Check;
use crate::plan::{Group, Load, Stage};
use crate::scenario;

const MAX_END_US: u64 = 30 * 24 * 3_600 * 1_000_000;
/// Stand for every stage, or for all of a kind, in results.
const RESERVED: [&str; 2] = ["all", "drain"];

pub(super) struct Loads {
    /// `None` where any is not usable.
    pub(super) usable: Option<Usable>,
    /// Of every stage of the file, also of those that are not usable, in the plan's order.
    pub(super) names: Vec<String>,
}

pub(super) struct Usable {
    pub(super) loads: Vec<Load>,
    pub(super) stages: Vec<Stage>,
}

/// A load as it is written and the groups that follow it.
struct Written<'f> {
    load: &'f scenario::Load,
    groups: Vec<usize>,
    /// The group whose own it is.
    owner: Option<usize>,
}

/// What the stages of one load are checked against.
struct Scope<'s> {
    /// All groups of the file; `None` where any is not usable.
    groups: Option<&'s [Group]>,
    /// The groups that follow this load.
    members: &'s [usize],
    owner: Option<usize>,
}

/// Where the stages so far have led; `None` after a stage that could not be read.
#[derive(Clone, Copy)]
struct Reached {
    us: Option<u64>,
    devices: Option<u64>,
}

impl Scope<'_> {
    /// Devices of all members.
    fn devices(&self) -> Option<u64> {
        let groups = self.groups?;
        Some(self.members.iter().map(|member| groups[*member].devices).sum())
    }
}

impl Check<'_> {
    pub(super) fn loads(&self, groups: Option<&[Group]>) -> Loads {
        let written = self.written_loads();
        let names = self.stage_names(&written);
        let mut rest = names.as_slice();
        let mut usable = Some(Usable { loads: Vec::new(), stages: Vec::new() });
        for Written { load, groups: members, owner } in written {
            let (ours, others) = rest.split_at(load.stages.len());
            rest = others;
            let scope = Scope { groups, members: &members, owner };
            match (self.stages(load, ours, &scope), &mut usable) {
                (Some(stages), Some(Usable { loads, stages: all })) => {
                    let start = all.len();
                    all.extend(stages);
                    loads.push(Load { groups: members, stages: start..all.len() });
                }
                _ => usable = None,
            }
        }
        Loads { usable, names }
    }

    /// The file's load first, where a group follows it.
    fn written_loads(&self) -> Vec<Written<'_>> {
        let groups = &self.file.groups;
        let sharing: Vec<usize> = (0..groups.len()).filter(|g| groups[*g].load.is_none()).collect();
        let mut written = Vec::new();
        if let Some(load) = &self.file.load {
            if sharing.is_empty() && !groups.is_empty() {
                let message = "every group has a `load` of its own: nobody follows this one";
                self.out.report(load.place, &load.path, message, None);
            }
            written.push(Written { load, groups: sharing, owner: None });
        }
        for (index, group) in groups.iter().enumerate() {
            if let Some(load) = &group.load {
                written.push(Written { load, groups: vec![index], owner: Some(index) });
            }
        }
        written
    }

    fn stages(
        &self,
        load: &scenario::Load,
        names: &[String],
        scope: &Scope<'_>,
    ) -> Option<Vec<Stage>> {
        let mut stages = Some(Vec::new());
        let mut reached = Reached { us: Some(0), devices: Some(0) };
        for (written, name) in load.stages.iter().zip(names) {
            let start_us = reached.us;
            let (kind, next) = self.stage(&written.kind, reached, scope);
            reached = next;
            let stage = (|| {
                let (start_us, end_us) = (start_us?, next.us?);
                Some(Stage { name: name.clone(), kind: kind?, start_us, end_us })
            })();
            match (stage, &mut stages) {
                (Some(stage), Some(stages)) => stages.push(stage),
                _ => stages = None,
            }
            if reached.us.is_some_and(|us| us > MAX_END_US) {
                let message = "the load lasts longer than 30 days";
                self.out.report(written.place, &written.path, message, None);
                reached.us = None;
            }
        }
        if load.stages.is_empty() {
            let message = "at least one stage is expected";
            self.out.report(load.place, &load.path, message, None);
            return None;
        }
        stages
    }

    fn stage_names(&self, loads: &[Written<'_>]) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let stages = || {
            loads
                .iter()
                .flat_map(|written| written.load.stages.iter().map(|stage| (written.owner, stage)))
        };
        // Names that a person gave come first, wherever they stand.
        let mut taken: HashSet<String> = stages()
            .filter_map(|(_, stage)| stage.name.as_ref().map(|name| name.text.clone()))
            .collect();
        let mut seen = HashSet::new();
        let mut counts: HashMap<String, usize> = HashMap::new();
        for (owner, stage) in stages() {
            let Some(written) = &stage.name else {
                let word = match owner {
                    None => stage.kind.word().to_owned(),
                    Some(group) => {
                        format!("{}-{}", self.file.groups[group].name, stage.kind.word())
                    }
                };
                let count = counts.entry(word.clone()).or_default();
                let name = loop {
                    *count += 1;
                    let name = if *count == 1 { word.clone() } else { format!("{word}-{count}") };
                    if taken.insert(name.clone()) {
                        break name;
                    }
                };
                names.push(name);
                continue;
            };
            let name = written.text.clone();
            let is_word = !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !is_word {
                let message =
                    format!("`{name}` found, 1 to 64 letters, digits, `_` or `-` expected");
                self.out.report(written.place, &written.path, message, None);
            } else if RESERVED.contains(&name.as_str()) {
                let message = format!("`{name}` is a reserved name");
                self.out.report(written.place, &written.path, message, None);
            } else if !seen.insert(name.clone()) {
                let message = format!("a stage before this one is called `{name}` already");
                self.out.report(written.place, &written.path, message, None);
            }
            names.push(name);
        }
        names
    }
}
