//! `shoal export`, and what `shoal run --report` writes: a run as files.

use std::path::{Path, PathBuf};

use shoal_domain::export::RunExport;
use shoal_proto::v1::ExportRunRequest;

use super::{DONE, requests};
use crate::args::Global;
use crate::args::results::{ExportArgs, Format};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::export::{CHART_POINTS, File, files, named};
use crate::render::{self};

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    args: ExportArgs,
) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    if args.format == Format::Requests {
        match &args.to {
            None => requests::print(&mut place, &args.run).await?,
            Some(to) => {
                let written = requests::write(&mut place, &args.run, to).await?;
                if !global.quiet {
                    render::remark(&format!("written: {written}\n"));
                }
            }
        }
        place.close().await;
        return Ok(DONE);
    }
    let written = match &args.to {
        Some(to) => Some(write(&mut place, &args.run, args.format, to).await?),
        None => {
            let (files, _) = fetch(&mut place, &args.run, args.format).await?;
            let [(_, text)] = files.as_slice() else {
                return Err(Error::Usage {
                    why: "this format is several files".into(),
                    help: "name a directory with --to, like --to 'reports/{scenario}-{run}'".into(),
                });
            };
            render::data(text)?;
            None
        }
    };
    if let Some(paths) = written.filter(|_| !global.quiet) {
        for path in paths {
            render::remark(&format!("written: {}\n", path.display()));
        }
    }
    place.close().await;
    Ok(DONE)
}

/// One file where `to` has a file's ending, else all files of the format into that directory.
pub(super) async fn write(
    place: &mut Place,
    run: &str,
    format: Format,
    to: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let (files, export) = fetch(place, run, format).await?;
    let to = PathBuf::from(named(&to.to_string_lossy(), &export.report));
    let paths: Vec<(PathBuf, &File)> = match files.as_slice() {
        [file] if to.extension().is_some() && !to.is_dir() => vec![(to, file)],
        several => several.iter().map(|file| (to.join(file.0), file)).collect(),
    };
    for (path, (_, text)) in &paths {
        let failed =
            |error: std::io::Error| Error::Report { path: path.clone(), why: error.to_string() };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).map_err(failed)?;
        }
        replace(path, text).map_err(failed)?;
    }
    Ok(paths.into_iter().map(|(path, _)| path).collect())
}

/// Where a file is written before it takes its place.
pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Whoever reads the file meanwhile sees the old one or the new one, never a half.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = beside(path);
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    })
}

async fn fetch(
    place: &mut Place,
    run: &str,
    format: Format,
) -> Result<(Vec<File>, RunExport), Error> {
    let drawn = get(place, run, CHART_POINTS).await?;
    // By id from here on: `last` may be another run in a moment.
    let run = drawn.report.run.clone();
    let needs_all = matches!(format, Format::All | Format::Csv | Format::Locust);
    let full = if needs_all { Some(get(place, &run, 0).await?) } else { None };
    Ok((files(format, &drawn, full.as_ref().unwrap_or(&drawn)), drawn))
}

async fn get(place: &mut Place, run: &str, points: u64) -> Result<RunExport, Error> {
    let answer = place.client.export_run(ExportRunRequest { run: run.to_owned(), points }).await;
    let bytes = answer.map_err(|status| place.refused(&status))?.into_inner().json;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::BadDocument { run: run.to_owned(), why: error.to_string() })
}
