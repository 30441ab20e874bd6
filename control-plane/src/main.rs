//! `shoal-control-plane`: configuration, start, signals, exit code.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use shoal_control_plane::app::{self, Config};
use shoal_control_plane::config::Args;
use shoal_service_kit::{Lifecycle, telemetry};

/// From the first signal to dropping what is still open.
const DRAIN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args = Args::parse();
    let format = args.log_format.into();
    let _telemetry = match telemetry::init(format, tracing::Level::INFO, "shoal-control-plane") {
        Ok(telemetry) => telemetry,
        Err(error) => {
            let help = "check SHOAL_LOG and OTEL_EXPORTER_OTLP_ENDPOINT";
            return fail("SH0602", &error.to_string(), help);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail("SH0304", &format!("no runtime: {error}"), "check the limits"),
    };
    runtime.block_on(async {
        let lifecycle = Lifecycle::new();
        if let Err(error) = lifecycle.listen_for_signals() {
            return fail("SH0304", &format!("no signals: {error}"), "check the limits");
        }
        let config = match Config::try_from(args) {
            Ok(config) => config,
            Err(why) => return fail("SH0602", &why, "check the place that it names"),
        };
        match app::start(config, &lifecycle).await {
            Ok(Some(_)) => {}
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "start");
                return fail(error.code(), &error.to_string(), error.help());
            }
        }
        lifecycle.soft().cancelled().await;
        lifecycle.wait(DRAIN).await;
        ExitCode::SUCCESS
    })
}

#[expect(clippy::print_stderr, reason = "the last words of a process that cannot start")]
fn fail(code: &str, message: &str, help: &str) -> ExitCode {
    eprintln!("error[{code}]: {message}\n  help: {help}\n  explain: shoal explain {code}");
    ExitCode::from(2)
}
