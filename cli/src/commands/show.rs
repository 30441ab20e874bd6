//! `shoal show`: a run's document, as the control plane made it.

use serde_json::{Value, json};
use shoal_domain::export::{Course, RunExport};
use shoal_domain::report::RunReport;
use shoal_proto::v1::{ExportRunRequest, GetReportRequest};

use super::DONE;
use crate::args::{By, Global, Output, RowArgs};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::export::csv;
use crate::render::json::{document, rows as json_rows};
use crate::render::{self, Paint, report};

/// Marks in a row of the course.
const DRAWN: u64 = 60;

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    run: String,
    rows: RowArgs,
) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let (text, _) = fetch(&mut place, run, global.output, rows).await?;
    render::data(&text)?;
    place.close().await;
    Ok(DONE)
}

/// The course as far as it can be drawn. It is an extra: a table without it is still the result.
async fn course(place: &mut Place, report: &RunReport) -> Option<Course> {
    report.started_at.as_ref()?;
    let request = ExportRunRequest { run: report.run.clone(), points: DRAWN };
    let bytes = place.client.export_run(request).await.ok()?.into_inner().json;
    serde_json::from_slice::<RunExport>(&bytes).ok().map(|export| export.course)
}

/// Each part as a document whose own scalars name it; its `name` must leave room for the series'.
fn by_series(value: &Value) -> Vec<Value> {
    let part = |part: &Value| {
        let (by, name) = (&part["by"], &part["name"]);
        json!({ "run": value["name"], "by": by, "part": name, "series": part["series"] })
    };
    value["parts"].as_array().into_iter().flatten().map(part).collect()
}

/// The document as text and the exit code in it, if the run is over.
pub(super) async fn fetch(
    place: &mut Place,
    run: String,
    output: Output,
    rows: RowArgs,
) -> Result<(String, Option<u8>), Error> {
    let by = rows.by.map_or("", By::word).to_owned();
    let answer = place.client.get_report(GetReportRequest { run: run.clone(), by }).await;
    let bytes = answer.map_err(|status| place.refused(&status))?.into_inner().json;
    let bad =
        |error: serde_json::Error| Error::BadDocument { run: run.clone(), why: error.to_string() };
    // Printed as a value, so that fields of a newer control plane are not lost.
    let value: Value = serde_json::from_slice(&bytes).map_err(bad)?;
    let exit_code = value["exit_code"].as_u64().and_then(|code| u8::try_from(code).ok());
    let text = match output {
        Output::Table => {
            let report: RunReport = serde_json::from_value(value).map_err(bad)?;
            let course = course(place, &report).await;
            report::render(&report, course.as_ref(), rows, Paint::for_stdout())
        }
        Output::Csv if rows.by.is_some() => json_rows(&by_series(&value), "series"),
        Output::Csv => {
            let report: RunReport = serde_json::from_value(value).map_err(bad)?;
            csv::series(&report)
        }
        output => document(&value, output),
    };
    Ok((text, exit_code))
}
