//! One file per command: fetch, then render. No command knows how the other end computes.

mod agent;
mod apply;
mod baseline;
mod compare;
mod explain;
mod export;
mod logs;
mod manual;
mod past;
mod requests;
mod run;
mod scale;
mod scenario;
mod serve;
mod show;
mod start;
mod stop;
mod try_http;
mod try_observe;
mod try_out;
mod try_reach;
mod watch;
mod watching;

use std::process::ExitCode;

use crate::args::{AgentCommand, Args, Command, Global, ScenarioCommand};
use crate::builtin;
use crate::config::Settings;
use crate::error::Error;

/// Exit codes of commands that are about no run.
const DONE: u8 = 0;

pub(crate) async fn perform(args: Args) -> Result<ExitCode, Error> {
    let global = &args.global;
    let code = match args.command {
        Command::Run { start, rows, report } => {
            run::perform(global, &settings(global)?, start, rows, report).await
        }
        Command::Start { start } => start::perform(global, &settings(global)?, start).await,
        Command::Apply(args) => apply::perform(global, &settings(global)?, args).await,
        Command::List(args) => past::list(global, &settings(global)?, args).await,
        Command::Label(args) => past::label(global, &settings(global)?, args).await,
        Command::Annotate { run, text } => {
            past::annotate(global, &settings(global)?, run, text).await
        }
        Command::Logs(args) => logs::perform(global, &settings(global)?, args).await,
        Command::Prune(args) => past::prune(global, &settings(global)?, args).await,
        Command::Compare(args) => compare::compare(global, &settings(global)?, args).await,
        Command::Trend(args) => compare::trend(global, &settings(global)?, args).await,
        Command::Export(args) => export::perform(global, &settings(global)?, args).await,
        Command::Baseline(command) => baseline::perform(global, &settings(global)?, command).await,
        Command::Show { run, rows } => show::perform(global, &settings(global)?, run, rows).await,
        Command::Scale { run, group, devices, rate } => {
            let wanted = scale::Wanted { run, group, devices, rate };
            scale::perform(global, &settings(global)?, wanted).await
        }
        Command::Watch { run } => watch::perform(global, &settings(global)?, run).await,
        Command::Stop { run, abort, all } => {
            let which = if all { stop::Which::All } else { stop::Which::One(run) };
            stop::perform(global, &settings(global)?, which, abort).await
        }
        Command::Scenario(command) => match command {
            ScenarioCommand::Init { file } => scenario::init(global, &file),
            ScenarioCommand::Schema => scenario::schema(),
            ScenarioCommand::Check { file, changes } => scenario::check(global, &file, &changes),
            ScenarioCommand::Plan { file, changes, per_agent, device, group } => {
                scenario::plan(global, &file, &changes, per_agent, device, group.as_deref())
            }
            ScenarioCommand::Try { file, changes, secrets_dir } => {
                try_out::perform(global, &file, &changes, secrets_dir.as_deref()).await
            }
        },
        Command::Agent(AgentCommand::List) => agent::list(global, &settings(global)?).await,
        Command::Agent(AgentCommand::Drain { agent, undo }) => {
            agent::drain(global, &settings(global)?, agent, undo).await
        }
        Command::Serve { agents, listen, metrics_listen } => {
            serve::perform(global, &settings(global)?, agents, listen, metrics_listen).await
        }
        Command::Explain { code } => explain::perform(&code),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { to } => manual::pages(global, to.as_deref()),
        Command::DemoBroker { listen } => builtin::serve(listen).await.map(|()| DONE),
    };
    code.map(ExitCode::from)
}

fn settings(global: &Global) -> Result<Settings, Error> {
    Settings::resolve(global, &|name| std::env::var(name).ok())
}
