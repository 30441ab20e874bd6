//! `shoal`: starts, watches, stops and shows runs, and explains scenarios.
//!
//! The exit code is the answer to "may I rely on it?": for runs it is the run's own, for everything
//! that could not be done it is 2, for a run lost from sight 4.

mod about;
mod args;
mod builtin;
mod client;
mod commands;
mod config;
mod error;
mod here;
mod mqtt_client;
mod place;
mod render;
mod scenario;

use std::process::ExitCode;

use clap::Parser;
use shoal_service_kit::telemetry::{self, LogFormat};

use crate::args::{Args, Command};
use crate::error::Error;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    // A cluster in this process must not talk over the progress, which says what matters to the
    // person; a server is its log.
    let level = match args.command {
        Command::Serve { .. } => tracing::Level::INFO,
        _ => tracing::Level::ERROR,
    };
    let outcome = telemetry::init(LogFormat::Text, level, "shoal")
        .map_err(|error| Error::Usage {
            why: error::chain(&error),
            help: "SHOAL_LOG takes filters like info,shoal_agent=debug".into(),
        })
        // Until the end of the command: then the last spans are delivered.
        .and_then(|_telemetry| runtime()?.block_on(commands::perform(args)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            render::remark(&error.render());
            ExitCode::from(error.exit_code())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| Error::Here {
        what: "the runtime",
        why: error.to_string(),
        code: None,
    })
}

/// clap's own words, under our code. Help and version are answers, not errors.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let shown = render::data(&error.render().to_string());
        return if shown.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) };
    }
    let text = error.render().to_string();
    let text = match text.strip_prefix("error:") {
        Some(rest) => format!("error[SH0602]:{rest}"),
        // No command at all: clap answers with the help.
        None => text,
    };
    render::remark(&text);
    ExitCode::from(2)
}
