//! `shoal apply`: a run as an object in a file; what is there already is left alone.
//!
//! The object's runs carry its name and the hash of what they were made of as labels, so the control
//! plane's list is all there is to ask.

use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};
use shoal_domain::object::{Apply, OBJECT, ObjectPhase, RunObject, SPEC, apply, parse_object};
use shoal_domain::run::{Phase, Verdict};
use shoal_proto::v1::{ListRunsRequest, RunRow, StartRunRequest};

use super::DONE;
use super::start::{begin, check_where, request};
use super::watching::Watching;
use crate::args::results::{AboutArgs, ApplyArgs};
use crate::args::{Changes, Global, Output, StartArgs};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::live::Live;
use crate::render::{self, clean, diagnostics, json};
use crate::scenario::{Scenario, read};

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    args: ApplyArgs,
) -> Result<u8, Error> {
    let (object, scenario, start) = load(&args.file)?;
    if settings.server.is_none() {
        return Err(Error::Usage {
            why: "`apply` leaves a run behind, but a control plane in this process ends with it"
                .into(),
            help: "name a control plane with --server".into(),
        });
    }
    check_where(settings, &start, &scenario)?;
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let mut request = request(&scenario, &start, None, false)?;
    let spec = spec_of(&request);
    request.labels.insert(OBJECT.to_owned(), object.name.clone());
    request.labels.insert(SPEC.to_owned(), spec.clone());

    let latest = latest(&mut place, &object.name).await?;
    let known = latest.as_ref().map(|row| {
        let of = row.labels.get(SPEC).map_or("", String::as_str);
        (of, phase_of(row))
    });
    let mut did = "unchanged";
    match apply(&spec, known, args.again) {
        Apply::Refuse => {
            let run = latest.map(|row| row.name).unwrap_or_default();
            return Err(Error::ObjectRuns { object: object.name, run });
        }
        Apply::Keep => {}
        Apply::Start => {
            begin(&mut place, request).await?;
            did = "started";
        }
    }
    let mut row = self::latest(&mut place, &object.name).await?.unwrap_or_default();
    if args.wait && !is_over(&row) {
        let live = Live::new(global.quiet);
        Watching::look_on(&mut place, row.run_id.clone(), live)?.until_over().await?;
        row = self::latest(&mut place, &object.name).await?.unwrap_or_default();
    }
    render::data(&shown(global.output, &object.name, did, &row))?;
    place.close().await;
    // What is over is answered with its exit code; what goes on was applied well.
    Ok(if is_over(&row) { u8::try_from(row.exit_code).unwrap_or(3) } else { DONE })
}

fn load(file: &Path) -> Result<(RunObject, Scenario, StartArgs), Error> {
    let unreadable = |why| Error::ScenarioUnreadable { path: file.into(), why };
    let text = read(file).map_err(unreadable)?;
    let object = parse_object(&text).map_err(|mistakes| Error::ScenarioMistakes {
        rendered: diagnostics::render(file, &text, &mistakes),
    })?;
    let dir = file.parent().unwrap_or(Path::new(""));
    let pairs = |pairs: &std::collections::BTreeMap<String, String>| {
        pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    let start = StartArgs {
        sample: None,
        file: dir.join(&object.scenario),
        changes: Changes { set: pairs(&object.set), ..Changes::default() },
        agents: object.agents,
        agents_timeout: std::time::Duration::from_secs(30),
        secrets_dir: None,
        allow_target: Vec::new(),
        about: AboutArgs {
            label: pairs(&object.labels),
            note: (!object.note.is_empty()).then(|| object.note.clone()),
            ..AboutArgs::default()
        },
    };
    let scenario = Scenario::load(&start.file, &start.changes)?;
    Ok((object, scenario, start))
}

/// Of everything that a run of it is made of, whoever starts it and of whatever revision.
fn spec_of(request: &StartRunRequest) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add(request.scenario.as_bytes());
    for change in &request.overrides {
        add(change.name.as_bytes());
        add(change.value.as_bytes());
    }
    for file in &request.files {
        add(file.path.as_bytes());
        add(&file.body);
    }
    add(&request.agents.to_be_bytes());
    let digest = hash.finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

async fn latest(place: &mut Place, object: &str) -> Result<Option<RunRow>, Error> {
    let request = ListRunsRequest {
        limit: 1,
        labels: [(OBJECT.to_owned(), object.to_owned())].into(),
        ..ListRunsRequest::default()
    };
    let answer = place.client.list_runs(request).await;
    let rows = answer.map_err(|status| place.refused(&status))?.into_inner().runs;
    Ok(rows.into_iter().next())
}

fn is_over(row: &RunRow) -> bool {
    Phase::from_word(&row.phase).is_some_and(Phase::is_over)
}

fn phase_of(row: &RunRow) -> ObjectPhase {
    let phase = Phase::from_word(&row.phase).unwrap_or(Phase::Pending);
    let verdict = (row.verdict == Verdict::Passed.word()).then_some(Verdict::Passed);
    ObjectPhase::of(phase, verdict, u8::try_from(row.exit_code).ok())
}

fn shown(output: Output, object: &str, did: &str, row: &RunRow) -> String {
    let phase = phase_of(row).word();
    match output {
        Output::Table => format!(
            "{} {did}: {phase}, run {} is {}\n",
            clean(object),
            clean(&row.name),
            clean(&row.phase)
        ),
        output => {
            let exit_code = is_over(row).then_some(row.exit_code);
            let document = json!({
                "object": object, "did": did, "phase": phase, "run": row.run_id,
                "name": row.name, "run_phase": row.phase, "exit_code": exit_code,
            });
            json::document(&document, output)
        }
    }
}
