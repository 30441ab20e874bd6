//! `shoal scenario init|schema|check|plan`: everything about a scenario that needs no network.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use shoal_domain::capacity::Limits;
use shoal_service_kit::{Clock as _, SystemClock, limits};

use super::DONE;
use crate::args::{Changes, Global, Output};
use crate::error::Error;
use crate::render::{self, device as one, json, plan as view};
use crate::scenario::Scenario;

/// The shipped quickstart is the one that tests run, so a copy of it is a good start.
const QUICKSTART: &str = include_str!("../../../scenarios/quickstart.yaml");
/// Editors with a YAML language server complete the file by it.
const SCHEMA_LINE: &str = concat!(
    "# yaml-language-server: $schema=",
    env!("CARGO_PKG_REPOSITORY"),
    "/raw/main/docs/scenario.schema.json\n"
);

pub(super) fn init(global: &Global, file: &Path) -> Result<u8, Error> {
    let failed = |error: std::io::Error| {
        let why = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "it is there already".to_owned(),
            _ => error.to_string(),
        };
        Error::Write { path: file.to_owned(), why }
    };
    let mut target = std::fs::File::create_new(file).map_err(failed)?;
    target.write_all([SCHEMA_LINE, QUICKSTART].concat().as_bytes()).map_err(failed)?;
    if !global.quiet {
        let file = file.display();
        render::remark(&format!("wrote {file}; `shoal run {file}` runs it\n"));
    }
    Ok(DONE)
}

pub(super) fn schema() -> Result<u8, Error> {
    let schema = shoal_domain::check::json_schema();
    render::data(&json::document(&schema, Output::Json))?;
    Ok(DONE)
}

pub(super) fn check(global: &Global, file: &Path, changes: &Changes) -> Result<u8, Error> {
    let scenario = Scenario::load(file, changes)?;
    let text = match global.output {
        Output::Table => view::summary(&scenario),
        output => json::document(&view::summary_document(&scenario), output),
    };
    render::data(&text)?;
    Ok(DONE)
}

pub(super) fn plan(
    global: &Global,
    file: &Path,
    changes: &Changes,
    per_agent: Option<u64>,
    device: Option<u64>,
    group: Option<&str>,
) -> Result<u8, Error> {
    let scenario = Scenario::load(file, changes)?;
    let text = match device {
        Some(index) => one_device(&scenario, index, group, global.output)?,
        None => {
            let fleet = per_agent.map_or_else(like_this_machine, view::Fleet::Each);
            match global.output {
                Output::Table => view::whole(&scenario, fleet),
                output => json::document(&view::whole_document(&scenario, fleet), output),
            }
        }
    };
    render::data(&text)?;
    Ok(DONE)
}

fn like_this_machine() -> view::Fleet {
    let memory_bytes = match limits::memory_limit_bytes() {
        0 => u64::MAX,
        bytes => bytes,
    };
    view::Fleet::LikeThisMachine(Limits {
        descriptors: limits::raise_descriptor_limit().now,
        ports: u64::from(limits::ephemeral_ports()),
        memory_bytes,
    })
}

fn one_device(
    scenario: &Scenario,
    index: u64,
    group: Option<&str>,
    output: Output,
) -> Result<String, Error> {
    let plan = &scenario.plan;
    let group = match group {
        None => 0,
        Some(name) => plan.groups.iter().position(|group| group.name == name).ok_or_else(|| {
            let names: Vec<&str> = plan.groups.iter().map(|group| group.name.as_str()).collect();
            Error::Usage {
                why: format!("no group `{name}` in {}", scenario.file.display()),
                help: format!("groups: {}", names.join(", ")),
            }
        })?,
    };
    let devices = plan.groups[group].devices;
    if index >= devices {
        return Err(Error::Usage {
            why: format!("device {index} is not in group `{}`", plan.groups[group].name),
            help: format!("it has {devices} devices, 0 to {}", devices - 1),
        });
    }
    let when = one::When::AsPlanned(SystemClock.unix_us());
    let device =
        one::device(&scenario.plan, one::EXAMPLE_RUN, (group, index), when, &BTreeMap::new());
    Ok(match output {
        Output::Table => one::device_text(&device),
        output => json::document(&one::device_document(&device), output),
    })
}
