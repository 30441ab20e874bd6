//! `shoal logs`: what was said about a run, also by agents that are gone.

use shoal_proto::v1::{ReadLogsRequest, RunLogLine};

use super::DONE;
use crate::args::results::LogsArgs;
use crate::args::{Global, Output};
use crate::config::Settings;
use crate::error::Error;
use crate::here::Wish;
use crate::place::Place;
use crate::render::{self, Paint, json, logs};

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    args: LogsArgs,
) -> Result<u8, Error> {
    if args.follow && global.output == Output::Csv {
        return Err(Error::Usage {
            why: "a table has an end, and --follow has none".into(),
            help: "leave out --follow, or take --output ndjson".into(),
        });
    }
    let request = ReadLogsRequest {
        run: args.run,
        agent_id: args.agent.unwrap_or_default(),
        level: args.level.word().to_owned(),
        follow: args.follow,
    };
    let mut place = Place::open(settings, Wish::private(0), global.quiet).await?;
    let answer = place.client.read_logs(request).await;
    let mut lines = answer.map_err(|status| place.refused(&status))?.into_inner();
    // Whoever follows wants each line at once; a document is whole.
    let output =
        if args.follow && global.output == Output::Json { Output::Ndjson } else { global.output };
    let paint = Paint::for_stdout();
    let mut whole: Vec<RunLogLine> = Vec::new();
    while let Some(line) = lines.message().await.map_err(|status| place.refused(&status))? {
        match output {
            Output::Table => render::data(&logs::text(&line, paint))?,
            Output::Ndjson => render::data(&json::document(&logs::document(&line), output))?,
            Output::Json | Output::Csv => whole.push(line),
        }
    }
    if matches!(output, Output::Json | Output::Csv) {
        render::data(&json::documents(whole.iter().map(logs::document).collect(), output))?;
    }
    drop(lines);
    place.close().await;
    Ok(DONE)
}
