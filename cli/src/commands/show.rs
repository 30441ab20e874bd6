//! `shoal show`: a run's document, as the control plane made it.

use serde_json::Value;
use shoal_domain::report::RunReport;
use shoal_proto::v1::GetReportRequest;

use super::DONE;
use crate::args::{Global, Output, RowArgs};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::{self, Paint, json, report};

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

/// The document as text and the exit code in it, if the run is over.
pub(super) async fn fetch(
    place: &mut Place,
    run: String,
    output: Output,
    rows: RowArgs,
) -> Result<(String, Option<u8>), Error> {
    let answer = place.client.get_report(GetReportRequest { run: run.clone() }).await;
    let bytes = answer.map_err(|status| place.refused(&status))?.into_inner().json;
    let bad =
        |error: serde_json::Error| Error::BadDocument { run: run.clone(), why: error.to_string() };
    // Printed as a value, so that fields of a newer control plane are not lost.
    let value: Value = serde_json::from_slice(&bytes).map_err(bad)?;
    let exit_code = value["exit_code"].as_u64().and_then(|code| u8::try_from(code).ok());
    let text = match output {
        Output::Table => {
            let report: RunReport = serde_json::from_value(value).map_err(bad)?;
            report::render(&report, rows, Paint::for_stdout())
        }
        output => json::document(&value, output),
    };
    Ok((text, exit_code))
}
