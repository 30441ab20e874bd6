//! `shoal list`: the runs in the store.

use shoal_proto::v1::ListRunsRequest;

use super::DONE;
use crate::args::{Global, Output};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::{self, json, runs};

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    limit: u32,
    before: Option<String>,
) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let request = ListRunsRequest { before: before.unwrap_or_default(), limit };
    let answer = place.client.list_runs(request).await;
    let rows = answer.map_err(|status| place.refused(&status))?.into_inner().runs;
    let text = match global.output {
        Output::Table => runs::runs(&rows),
        output => json::documents(rows.iter().map(runs::run_document).collect(), output),
    };
    render::data(&text)?;
    place.close().await;
    Ok(DONE)
}
