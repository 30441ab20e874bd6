//! `shoal agent list` and `drain`: who could drive devices, and who is not to.

use shoal_proto::v1::{DrainAgentRequest, ListAgentsRequest};

use super::DONE;
use crate::args::{Global, Output};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::{self, json, runs};

pub(super) async fn drain(
    global: &Global,
    settings: &Settings,
    agent_id: String,
    undo: bool,
) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let answer = place.client.drain_agent(DrainAgentRequest { agent_id, undo }).await;
    let row = answer.map_err(|status| place.refused(&status))?.into_inner();
    let text = match global.output {
        Output::Table => format!("{} {}\n", row.agent_id, row.state),
        output => json::documents(vec![runs::agent_document(&row)], output),
    };
    render::data(&text)?;
    place.close().await;
    Ok(DONE)
}

pub(super) async fn list(global: &Global, settings: &Settings) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let answer = place.client.list_agents(ListAgentsRequest {}).await;
    let rows = answer.map_err(|status| place.refused(&status))?.into_inner().agents;
    let text = match global.output {
        Output::Table => runs::agents(&rows),
        output => json::documents(rows.iter().map(runs::agent_document).collect(), output),
    };
    render::data(&text)?;
    place.close().await;
    Ok(DONE)
}
