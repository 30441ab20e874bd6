//! `shoal start`: hands a run over and returns; nobody owns it afterwards.

use shoal_domain::files::File;
use shoal_domain::requests::Sampling;
use shoal_proto::v1::{Override, ShippedFile, StartRunRequest, StartRunResponse};

use super::DONE;
use super::past::to_wire;
use crate::about::About;
use crate::args::{Global, Output, StartArgs};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::{self, json};
use crate::scenario::Scenario;

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    args: StartArgs,
) -> Result<u8, Error> {
    let scenario = Scenario::load(&args.file, &args.changes)?;
    if settings.server.is_none() {
        return Err(Error::Usage {
            why: "`start` leaves a run behind, but a control plane in this process ends with it"
                .into(),
            help: "use `shoal run`, or name a control plane with --server".into(),
        });
    }
    check_where(settings, &args, &scenario)?;
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let request = request(&scenario, &args, None, false)?;
    let run = begin(&mut place, request).await?;
    let text = match global.output {
        Output::Table => format!("{}\n", run.run_id),
        output => {
            let document = serde_json::json!({ "run": run.run_id, "name": run.name });
            json::document(&document, output)
        }
    };
    render::data(&text)?;
    if !global.quiet {
        let name = &run.name;
        render::remark(&format!(
            "run {name} was accepted; `shoal watch {name}` shows it, `shoal stop {name}` ends it\n"
        ));
    }
    place.close().await;
    Ok(DONE)
}

/// What only an agent in this process can be told.
pub(super) fn check_where(
    settings: &Settings,
    args: &StartArgs,
    scenario: &Scenario,
) -> Result<(), Error> {
    let Some(server) = &settings.server else { return Ok(()) };
    if let Some(target) = scenario.builtin_target() {
        return Err(Error::BuiltinOnServer { target: target.to_owned(), server: server.clone() });
    }
    for (flag, given) in [
        ("--secrets-dir", args.secrets_dir.is_some()),
        ("--allow-target", !args.allow_target.is_empty()),
    ] {
        if given {
            return Err(Error::Usage {
                why: format!("{flag} is for a run in this process, but this one goes to {server}"),
                help: format!("give {flag} to the agents: their owner decides"),
            });
        }
    }
    Ok(())
}

pub(super) fn request(
    scenario: &Scenario,
    args: &StartArgs,
    builtin: Option<std::net::SocketAddr>,
    owned: bool,
) -> Result<StartRunRequest, Error> {
    let about = About::of(&args.about, &|name| std::env::var(name).ok())?;
    let overrides = scenario.overrides.iter();
    Ok(StartRunRequest {
        scenario: scenario.text.clone(),
        overrides: overrides
            .map(|(name, value)| Override { name: name.clone(), value: value.clone() })
            .collect(),
        agents: args.agents.unwrap_or(0),
        agents_timeout_us: u64::try_from(args.agents_timeout.as_micros()).unwrap_or(u64::MAX),
        owned,
        files: scenario.plan.files.iter().filter_map(shipped).collect(),
        builtin: builtin.map(|addr| addr.to_string()).unwrap_or_default(),
        labels: to_wire(&about.labels),
        note: about.note,
        started_by: about.started_by,
        revision: about.revision,
        sample_millionths: args.sample.map_or(0, Sampling::millionths),
    })
}

/// What was read here is whole.
fn shipped(file: &File) -> Option<ShippedFile> {
    Some(ShippedFile { path: file.path.clone(), body: file.bytes()?.to_vec() })
}

pub(super) async fn begin(
    place: &mut Place,
    request: StartRunRequest,
) -> Result<StartRunResponse, Error> {
    match place.client.start_run(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(place.refused(&status)),
    }
}
