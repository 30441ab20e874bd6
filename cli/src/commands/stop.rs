//! `shoal stop`: a wish, stored before this returns; the run ends when its agents have closed.

use shoal_proto::v1::{ListRunsRequest, StopRunRequest};

use super::DONE;
use crate::args::{Global, Output};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::{self, clean, json, runs};

#[derive(Debug)]
pub(super) enum Which {
    One(String),
    All,
}

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    which: Which,
    abort: bool,
) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let wanted = match which {
        Which::One(run) => vec![run],
        Which::All => going(&mut place).await?,
    };
    let mut stopped = Vec::new();
    for run in wanted {
        let answer = place.client.stop_run(StopRunRequest { run, abort }).await;
        stopped.push(answer.map_err(|status| place.refused(&status))?.into_inner());
    }
    let text = match global.output {
        Output::Table => stopped
            .iter()
            .map(|run| {
                format!("{} {} {}\n", clean(&run.run_id), clean(&run.name), clean(&run.phase))
            })
            .collect(),
        output => {
            let documents = stopped.iter().map(|run| {
                serde_json::json!({ "run": run.run_id, "name": run.name, "phase": run.phase })
            });
            json::documents(documents.collect(), output)
        }
    };
    render::data(&text)?;
    if stopped.is_empty() && !global.quiet {
        render::remark("no run is going on\n");
    }
    place.close().await;
    Ok(DONE)
}

/// The ids of all runs that are not over, page by page.
async fn going(place: &mut Place) -> Result<Vec<String>, Error> {
    const PAGE: u32 = 100;
    let mut ids = Vec::new();
    let mut before = String::new();
    loop {
        let answer = place
            .client
            .list_runs(ListRunsRequest { before, limit: PAGE, ..ListRunsRequest::default() })
            .await;
        let rows = answer.map_err(|status| place.refused(&status))?.into_inner().runs;
        ids.extend(
            rows.iter().filter(|row| !runs::is_over(&row.phase)).map(|row| row.run_id.clone()),
        );
        match rows.last() {
            // The server may cap a page below our wish, so only an empty one is the end.
            Some(last) => before = last.run_id.clone(),
            None => return Ok(ids),
        }
    }
}
