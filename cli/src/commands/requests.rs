//! The request log of a run as a CSV file, page by page: it may be larger than memory likes.

use std::io::Write;
use std::path::{Path, PathBuf};

use shoal_domain::report::RunReport;
use shoal_proto::v1::{GetReportRequest, ReadRequestsRequest};

use super::export::beside;
use crate::error::Error;
use crate::place::Place;
use crate::render;
use crate::render::export::{named, requests};

/// To a file, or into a directory as `requests.csv`. It is replaced as a whole or not at all. What it
/// holds, for people.
pub(super) async fn write(place: &mut Place, run: &str, to: &Path) -> Result<String, Error> {
    let report = report(place, run).await?;
    let to = PathBuf::from(named(&to.to_string_lossy(), &report));
    let path = if to.is_dir() || to.extension().is_none() { to.join("requests.csv") } else { to };
    let failed =
        |error: std::io::Error| Error::Report { path: path.clone(), why: error.to_string() };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let temporary = beside(&path);
    let file = std::fs::File::create(&temporary).map_err(failed)?;
    let mut file = std::io::BufWriter::new(file);
    let mut each = |text: &str| file.write_all(text.as_bytes()).map_err(failed);
    let written = match tell(place, &report, &mut each).await {
        Ok(()) => file.flush().and_then(|()| std::fs::rename(&temporary, &path)).map_err(failed),
        Err(error) => Err(error),
    };
    written.inspect_err(|_| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    })?;
    let held = report.request_log.as_ref().map(requests::held).unwrap_or_default();
    Ok(format!("{}: {held}", path.display()))
}

pub(super) async fn print(place: &mut Place, run: &str) -> Result<(), Error> {
    let report = report(place, run).await?;
    tell(place, &report, &mut render::data).await
}

async fn tell(
    place: &mut Place,
    report: &RunReport,
    each: &mut impl FnMut(&str) -> Result<(), Error>,
) -> Result<(), Error> {
    let request = ReadRequestsRequest { run: report.run.clone() };
    let answer = place.client.read_requests(request).await;
    let mut pages = answer.map_err(|status| place.refused(&status))?.into_inner();
    each(&requests::header())?;
    while let Some(page) = pages.message().await.map_err(|status| place.refused(&status))? {
        each(&requests::rows(&report.name, &page.rows))?;
    }
    Ok(())
}

async fn report(place: &mut Place, run: &str) -> Result<RunReport, Error> {
    let request = GetReportRequest { run: run.to_owned(), by: String::new() };
    let answer = place.client.get_report(request).await;
    let bytes = answer.map_err(|status| place.refused(&status))?.into_inner().json;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::BadDocument { run: run.to_owned(), why: error.to_string() })
}
