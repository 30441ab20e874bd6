//! `shoal run`: start a run, own it, print its document, exit with its exit code.

use shoal_domain::ids::RunId;
use shoal_domain::requests::Sampling;
use shoal_proto::v1::StartRunResponse;
use shoal_service_kit::traces;
use tracing::Instrument as _;

use super::start::{begin, check_where, request};
use super::watching::Watching;
use super::{export, requests, show};
use crate::args::results::{Format, ReportArgs};
use crate::args::{Global, RowArgs, StartArgs};
use crate::builtin::Builtin;
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::live::Live;
use crate::render::{self, clean};
use crate::scenario::Scenario;

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    mut args: StartArgs,
    rows: RowArgs,
    report: ReportArgs,
) -> Result<u8, Error> {
    if report.request_log.is_some() {
        args.sample = args.sample.or(Some(Sampling::DEFAULT));
    }
    let scenario = Scenario::load(&args.file, &args.changes)?;
    check_where(settings, &args, &scenario)?;
    let agents = args.agents.unwrap_or(scenario.plan.fleet.min_agents).max(1);
    let wish = Wish {
        allow_target: args.allow_target.clone(),
        secrets_dir: args.secrets_dir.clone(),
        ..Wish::private(agents)
    };
    let mut place = Place::open(settings, wish, global.quiet).await?;
    // Held until the run is over, also on the way out through an error.
    let outcome = own(global, &mut place, &scenario, &args, Shown { rows, report }).await;
    place.close().await;
    outcome
}

/// What a person wants to see of the result.
struct Shown {
    rows: RowArgs,
    report: ReportArgs,
}

async fn own(
    global: &Global,
    place: &mut Place,
    scenario: &Scenario,
    args: &StartArgs,
    shown: Shown,
) -> Result<u8, Error> {
    let builtin = match scenario.builtin_target() {
        Some(_) => Some(Builtin::start().await?),
        None => None,
    };
    let request = request(scenario, args, builtin.as_ref().map(|broker| broker.addr), true)?;
    let run = begin(place, request).await?;
    if !global.quiet {
        render::remark(&format!("run: {} ({})\n", clean(&run.name), clean(&run.run_id)));
    }
    // From here on a run is somewhere, whatever happens to us.
    let span = tracing::info_span!("shoal run", run = run.run_id);
    let span = match run.run_id.parse::<RunId>() {
        Ok(id) => traces::in_trace(span, id.number()),
        Err(_) => span,
    };
    let outcome = follow(global, place, &run, &shown).instrument(span).await;
    drop(builtin);
    outcome.map_err(|error| Error::AfterStart(Box::new(error)))
}

async fn follow(
    global: &Global,
    place: &mut Place,
    run: &StartRunResponse,
    shown: &Shown,
) -> Result<u8, Error> {
    let live = Live::new(global.quiet);
    let told = Watching::own(place, run, live)?.until_over().await?;
    let (text, exit_code) =
        show::fetch(place, run.run_id.clone(), global.output, shown.rows).await?;
    render::data(&text)?;
    if let Some(dir) = &shown.report.report {
        report(global, place, &run.run_id, dir).await;
    }
    if let Some(file) = &shown.report.request_log {
        match requests::write(place, &run.run_id, file).await {
            Ok(written) if !global.quiet => render::remark(&format!("request log: {written}\n")),
            Ok(_) => {}
            Err(error) => render::remark(&error.render()),
        }
    }
    // The document decides; a run that is over and has none would be no trustworthy verdict.
    Ok(exit_code.or_else(|| u8::try_from(told).ok()).unwrap_or(3))
}

/// The run is judged already: files that cannot be written do not change its exit code.
async fn report(global: &Global, place: &mut Place, run: &str, dir: &std::path::Path) {
    match export::write(place, run, Format::All, dir).await {
        Ok(paths) if !global.quiet => {
            if let Some(path) = paths.first() {
                render::remark(&format!("report: {}\n", path.display()));
            }
        }
        Ok(_) => {}
        Err(error) => render::remark(&error.render()),
    }
}
