//! Past runs: `list`, `label`, `annotate`, `prune`.

use std::time::{SystemTime, UNIX_EPOCH};

use shoal_proto::v1::{
    AnnotateRequest, ChangeLabelsRequest, ListRunsRequest, PruneRequest, RunReference,
};
use shoal_service_kit::{Clock, SystemClock, age};

use super::DONE;
use crate::about;
use crate::args::results::{LabelArgs, ListArgs, PruneArgs, ValidityArg, VerdictArg};
use crate::args::{Global, Output};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::{self, clean, json, runs};

pub(super) async fn list(
    global: &Global,
    settings: &Settings,
    args: ListArgs,
) -> Result<u8, Error> {
    let request = ListRunsRequest {
        before: args.before.unwrap_or_default(),
        limit: args.limit,
        scenario: args.scenario.unwrap_or_default(),
        validity: args.validity.map_or("", validity).to_owned(),
        verdict: args.verdict.map_or("", verdict).to_owned(),
        labels: to_wire(&about::labels(&args.label)?),
        since_us: args.since.as_deref().map_or(Ok(0), instant)?,
        until_us: args.until.as_deref().map_or(Ok(0), instant)?,
    };
    let everything = ListRunsRequest { limit: request.limit, ..ListRunsRequest::default() };
    let is_filtered = request != everything;
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let answer = place.client.list_runs(request).await;
    let rows = answer.map_err(|status| place.refused(&status))?.into_inner().runs;
    let text = match global.output {
        Output::Table if rows.is_empty() && is_filtered => "no run fits\n".to_owned(),
        Output::Table => runs::runs(&rows),
        output => json::documents(rows.iter().map(runs::run_document).collect(), output),
    };
    render::data(&text)?;
    place.close().await;
    Ok(DONE)
}

fn validity(arg: ValidityArg) -> &'static str {
    match arg {
        ValidityArg::Valid => "VALID",
        ValidityArg::Degraded => "DEGRADED",
        ValidityArg::Invalid => "INVALID",
    }
}

fn verdict(arg: VerdictArg) -> &'static str {
    match arg {
        VerdictArg::Passed => "PASSED",
        VerdictArg::Failed => "FAILED",
    }
}

pub(super) fn to_wire(
    labels: &shoal_domain::labels::Labels,
) -> std::collections::HashMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Microseconds since 1970 of an age (`7d`) or a time in UTC (`2026-03-01`, `2026-03-01T12:00:00Z`).
fn instant(text: &str) -> Result<u64, Error> {
    if let Ok(age) = age(text) {
        let ago_us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        return Ok(SystemClock.unix_us().saturating_sub(ago_us).max(1));
    }
    let midnight = format!("{text}T00:00:00Z");
    let parse = |text: &str| -> Option<SystemTime> { humantime::parse_rfc3339_weak(text).ok() };
    parse(text)
        .or_else(|| parse(&midnight))
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_micros()).ok())
        .ok_or_else(|| Error::Usage {
            why: format!("`{text}` is no time"),
            help: "an age like 7d, or a time like 2026-03-01 or 2026-03-01T12:00:00Z".into(),
        })
}

pub(super) async fn label(
    global: &Global,
    settings: &Settings,
    args: LabelArgs,
) -> Result<u8, Error> {
    let (removed, set): (Vec<String>, Vec<String>) =
        args.changes.into_iter().partition(|text| text.ends_with('-') && !text.contains('='));
    let request = ChangeLabelsRequest {
        run: args.run,
        set: to_wire(&about::labels(&set)?),
        remove: removed.iter().map(|name| name.trim_end_matches('-').to_owned()).collect(),
    };
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let answer = place.client.change_labels(request).await;
    let answer = answer.map_err(|status| place.refused(&status))?.into_inner();
    let labels: std::collections::BTreeMap<_, _> = answer.labels.iter().collect();
    let run = answer.run.unwrap_or_default();
    let text = match global.output {
        Output::Table => {
            labels.iter().map(|(name, value)| format!("{name}={}\n", clean(value))).collect()
        }
        output => {
            let document =
                serde_json::json!({ "run": run.run_id, "name": run.name, "labels": labels });
            json::document(&document, output)
        }
    };
    render::data(&text)?;
    place.close().await;
    Ok(DONE)
}

pub(super) async fn annotate(
    global: &Global,
    settings: &Settings,
    run: String,
    text: String,
) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let answer = place.client.annotate(AnnotateRequest { run, text }).await;
    let run = answer.map_err(|status| place.refused(&status))?.into_inner();
    if !global.quiet {
        render::remark(&format!("noted in the history of {}\n", clean(&run.name)));
    }
    place.close().await;
    Ok(DONE)
}

pub(super) async fn prune(
    global: &Global,
    settings: &Settings,
    args: PruneArgs,
) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let mut gone: Vec<RunReference> = Vec::new();
    loop {
        let request = PruneRequest {
            runs: args.runs.clone(),
            keep: args.keep,
            older_than_us: u64::try_from(args.older_than.as_micros()).unwrap_or(u64::MAX),
            dry_run: !args.yes,
        };
        let answer = place.client.prune(request).await;
        let answer = answer.map_err(|status| place.refused(&status))?.into_inner();
        let goes_on = answer.more && args.yes && !answer.runs.is_empty();
        gone.extend(answer.runs);
        if !goes_on {
            break;
        }
    }
    let text = match global.output {
        Output::Table => gone
            .iter()
            .map(|run| format!("{} {}\n", clean(&run.run_id), clean(&run.name)))
            .collect(),
        output => {
            let documents = gone.iter().map(|run| {
                serde_json::json!({ "run": run.run_id, "name": run.name, "deleted": args.yes })
            });
            json::documents(documents.collect(), output)
        }
    };
    render::data(&text)?;
    if !global.quiet {
        let n = gone.len();
        render::remark(&if args.yes {
            format!("{n} run(s) deleted\n")
        } else {
            format!("{n} run(s) would be deleted; --yes deletes them\n")
        });
    }
    place.close().await;
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_an_age_a_date_or_an_instant() {
        assert_eq!(instant("2026-03-01").unwrap(), 1_772_323_200_000_000);
        assert_eq!(instant("2026-03-01T12:00:05Z").unwrap(), 1_772_366_405_000_000);
        assert!(instant("1d").unwrap() < SystemClock.unix_us());
        assert!(instant("yesterday").is_err());
    }
}
