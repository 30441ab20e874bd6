//! `shoal baseline`: which runs the others are compared with.

use shoal_proto::v1::{Baseline, ClearBaselineRequest, ListBaselinesRequest, SetBaselineRequest};

use super::DONE;
use super::past::to_wire;
use crate::about;
use crate::args::results::BaselineCommand;
use crate::args::{Global, Output};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::columns::Columns;
use crate::render::numbers::instant;
use crate::render::{self, clean, json};

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    command: BaselineCommand,
) -> Result<u8, Error> {
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let baselines = match command {
        BaselineCommand::Set { runs, label } => {
            let labels = to_wire(&about::labels(&label)?);
            let answer = place.client.set_baseline(SetBaselineRequest { runs, labels }).await;
            vec![answer.map_err(|status| place.refused(&status))?.into_inner()]
        }
        BaselineCommand::Show { scenario } => {
            let request = ListBaselinesRequest { scenario: scenario.unwrap_or_default() };
            let answer = place.client.list_baselines(request).await;
            answer.map_err(|status| place.refused(&status))?.into_inner().baselines
        }
        BaselineCommand::Clear { scenario, label } => {
            let labels = to_wire(&about::labels(&label)?);
            let request = ClearBaselineRequest { scenario: scenario.clone(), labels };
            let answer = place.client.clear_baseline(request).await;
            let was_set = answer.map_err(|status| place.refused(&status))?.into_inner().was_set;
            if !global.quiet {
                let word = if was_set { "cleared" } else { "there was none" };
                render::remark(&format!("baseline of {}: {word}\n", clean(&scenario)));
            }
            place.close().await;
            return Ok(DONE);
        }
    };
    let text = match global.output {
        Output::Table => table(&baselines),
        output => json::documents(baselines.iter().map(document).collect(), output),
    };
    render::data(&text)?;
    place.close().await;
    Ok(DONE)
}

fn labels_of(baseline: &Baseline) -> std::collections::BTreeMap<&String, &String> {
    baseline.labels.iter().collect()
}

fn table(baselines: &[Baseline]) -> String {
    if baselines.is_empty() {
        return "no baseline\n".into();
    }
    let mut columns = Columns::new(&["scenario", "labels", "baseline", "repeats", "set (UTC)"]);
    for baseline in baselines {
        let labels: Vec<String> = labels_of(baseline)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let names: Vec<&str> = baseline.runs.iter().map(|run| run.name.as_str()).collect();
        let (first, repeats) = names.split_first().unwrap_or((&"-", &[]));
        columns.row(vec![
            baseline.scenario.clone(),
            if labels.is_empty() { "-".into() } else { labels.join(" ") },
            (*first).to_owned(),
            if repeats.is_empty() { "-".into() } else { repeats.join(" ") },
            instant(baseline.set_at_us),
        ]);
    }
    columns.render()
}

fn document(baseline: &Baseline) -> serde_json::Value {
    let run = |run: &shoal_proto::v1::RunReference| serde_json::json!({ "run": run.run_id, "name": run.name });
    serde_json::json!({
        "scenario": baseline.scenario,
        "labels": labels_of(baseline),
        "runs": baseline.runs.iter().map(run).collect::<Vec<_>>(),
        "set_at_us": baseline.set_at_us,
    })
}
