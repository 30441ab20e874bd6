//! `shoal scale`: a change of the running load, stored before this returns.

use shoal_proto::v1::ScaleRunRequest;

use super::DONE;
use crate::args::{Global, Output};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::{self, clean, json, numbers};

#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) run: String,
    pub(super) group: Option<String>,
    pub(super) devices: u64,
    pub(super) rate: Option<f64>,
}

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    wanted: Wanted,
) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let request = ScaleRunRequest {
        run: wanted.run,
        group: wanted.group.unwrap_or_default(),
        devices: wanted.devices,
        rate_per_s: wanted.rate.unwrap_or(0.0),
    };
    let answer = place.client.scale_run(request).await;
    let scaled = answer.map_err(|status| place.refused(&status))?.into_inner();
    let text = match global.output {
        Output::Table => format!(
            "{} {}: from {} to {} devices, {} to {} of run time\n",
            clean(&scaled.name),
            clean(&scaled.group),
            numbers::count(scaled.from_devices),
            numbers::count(scaled.devices),
            numbers::seconds(scaled.at_s),
            numbers::seconds(scaled.reached_s),
        ),
        output => json::document(
            &serde_json::json!({
                "run": scaled.run_id,
                "name": scaled.name,
                "group": scaled.group,
                "from_devices": scaled.from_devices,
                "devices": scaled.devices,
                "rate_per_s": scaled.rate_per_s,
                "at_s": scaled.at_s,
                "reached_s": scaled.reached_s,
            }),
            output,
        ),
    };
    render::data(&text)?;
    place.close().await;
    Ok(DONE)
}
