//! `--tags` and `--exclude-tags`: which tasks and sends of a file take part.
//!
//! They travel as overrides under the names of the options, so that control plane and agents see
//! the same plan. A filter that leaves a group nothing to do is refused here, not found out in a
//! run.

use crate::diagnostics::{Collector, Place};
use crate::scenario::{Group, ScenarioFile, Written};

/// Names of overrides that are no variables.
pub const TAGS: &str = "--tags";
pub const EXCLUDE_TAGS: &str = "--exclude-tags";

#[derive(Debug, Default)]
struct Filter {
    include: Vec<String>,
    exclude: Vec<String>,
}

impl Filter {
    fn of(overrides: &[(String, String)]) -> Self {
        let tags = |option: &str| {
            let texts = overrides.iter().filter(|(name, _)| name == option);
            texts
                .flat_map(|(_, text)| text.split(','))
                .map(|tag| tag.trim().to_owned())
                .filter(|tag| !tag.is_empty())
                .collect()
        };
        Self { include: tags(TAGS), exclude: tags(EXCLUDE_TAGS) }
    }

    /// As it was written.
    fn options(&self) -> String {
        let option = |name: &str, tags: &[String]| {
            (!tags.is_empty()).then(|| format!("{name} {}", tags.join(",")))
        };
        let options = [option(TAGS, &self.include), option(EXCLUDE_TAGS, &self.exclude)];
        options.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn selects(&self, tags: &[Written]) -> bool {
        let has_one = |of: &[String]| tags.iter().any(|tag| of.contains(&tag.text));
        (self.include.is_empty() || has_one(&self.include)) && !has_one(&self.exclude)
    }
}

/// Whether an override is one of these options.
pub(super) fn is_option(name: &str) -> bool {
    name == TAGS || name == EXCLUDE_TAGS
}

/// Drops what the options exclude. Names of series that are gone stay known to thresholds.
pub(super) fn apply(file: &mut ScenarioFile, overrides: &[(String, String)], out: &Collector) {
    let filter = Filter::of(overrides);
    if filter.include.is_empty() && filter.exclude.is_empty() {
        return;
    }
    let all: Vec<String> = file.groups.iter().flat_map(tags_of).collect();
    for group in &mut file.groups {
        let had = n_activities(group);
        let mut gone = Vec::new();
        group.sends.retain(|send| {
            let stays = filter.selects(&send.tags);
            if !stays {
                gone.push(send.name.clone());
            }
            stays
        });
        if let Some(closed) = &mut group.closed_loop {
            closed.tasks.retain(|task| {
                let stays = filter.selects(&task.tags);
                if !stays {
                    gone.extend(task.steps.iter().map(|step| step.name.clone()));
                }
                stays
            });
        }
        group.closed_loop = group.closed_loop.take().filter(|closed| !closed.tasks.is_empty());
        gone.retain(|name| !group.steps().any(|step| step.name == *name));
        group.filtered = gone;
        if had > 0 && n_activities(group) == 0 {
            let message = format!("`{}` leaves nothing of this group", filter.options());
            let mut known = all.clone();
            known.sort_unstable();
            known.dedup();
            let help = if known.is_empty() {
                "this file has no tags".to_owned()
            } else {
                format!("tags of this file: {}", known.join(", "))
            };
            out.report(group.place, &group.path, message, Some(help));
        }
    }
    if file.groups.is_empty() {
        let place = Place { line: 1, column: 1 };
        out.report(place, "groups", format!("`{}` leaves nothing", filter.options()), None);
    }
}

fn tags_of(group: &Group) -> Vec<String> {
    let tasks = group.closed_loop.iter().flat_map(|closed| &closed.tasks);
    let tags = group.sends.iter().flat_map(|send| &send.tags);
    tags.chain(tasks.flat_map(|task| &task.tags)).map(|tag| tag.text.clone()).collect()
}

fn n_activities(group: &Group) -> usize {
    group.sends.len() + group.closed_loop.as_ref().map_or(0, |closed| closed.tasks.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::parse_plan;
    use crate::files::Files;

    const FILE: &str = "version: 1
name: tags
targets: { t: { http: { url: http://127.0.0.1 } } }
groups:
  g:
    target: t
    devices: 1
    loop:
      tasks:
        one: { tags: a, http: { get: /1 } }
        both: { tags: [a, b], http: { get: /2 } }
        none: { http: { get: /3 } }
load: [ { ramp: { to: 100%, over: 1s } } ]
thresholds: [ g.one.errors == 0, g.none.errors == 0 ]
";

    fn selected(options: &[(&str, &str)]) -> Result<Vec<String>, Vec<String>> {
        let overrides: Vec<_> =
            options.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        match parse_plan(FILE, &overrides, &Files::none()) {
            Ok(plan) => Ok(plan.groups[0].tasks().iter().map(|task| task.name.clone()).collect()),
            Err(found) => Err(found.iter().map(ToString::to_string).collect()),
        }
    }

    /// The matrix that Locust's `-T` and `-E` give.
    #[test]
    fn tags_select_as_people_know_it() {
        assert_eq!(selected(&[]).unwrap(), ["one", "both", "none"]);
        assert_eq!(selected(&[(TAGS, "a")]).unwrap(), ["one", "both"]);
        assert_eq!(selected(&[(TAGS, "b")]).unwrap(), ["both"]);
        assert_eq!(selected(&[(EXCLUDE_TAGS, "b")]).unwrap(), ["one", "none"]);
        assert_eq!(selected(&[(TAGS, "a"), (EXCLUDE_TAGS, "b")]).unwrap(), ["one"]);
    }

    #[test]
    fn a_filter_that_leaves_nothing_is_refused() {
        assert_eq!(
            selected(&[(TAGS, "zzz")]).unwrap_err(),
            [
                "5:3 groups.g: `--tags zzz` leaves nothing of this group | help: tags of this file: a, b"
            ]
        );
    }
}
