//! The agent as a daemon: settings, logging, signals, exit code.
//!
//! SIGTERM ends load early and in order, then the process exits 0; a second one drops everything.
//! Whoever has protocols of their own calls [`main`] with them, and has an agent that speaks them.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use shoal_service_kit::lifecycle::Stopped;
use shoal_service_kit::{Lifecycle, telemetry};

use crate::app::{self, StartError};
use crate::config::{self, ConfigError, Flags};
use crate::protocol::Protocols;

/// For open acks, the closing handshakes and the last deltas; below the 90 s that systemd grants.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The program of an agent, from its flags to its exit code.
pub fn main(protocols: Protocols) -> ExitCode {
    let flags = Flags::parse();
    match run(&flags, protocols) {
        Ok(code) => code,
        Err(error) => {
            // Logging may not be set up yet, so this goes straight to stderr.
            use std::io::Write;
            let code = error.downcast_ref::<StartError>().map(StartError::code);
            let code = code.or_else(|| error.downcast_ref::<ConfigError>().map(ConfigError::code));
            let code = code.map_or_else(String::new, |code| format!("[{code}]"));
            let _ = writeln!(std::io::stderr(), "error{code}: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(flags: &Flags, protocols: Protocols) -> anyhow::Result<ExitCode> {
    let env = |name: &str| std::env::var(name).ok();
    let file = config::read_file(flags, &env)?;
    let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let (config, format) =
        config::resolve(flags, &env, file.as_deref(), &hostname.unwrap_or_default())?;
    let config = app::Config { protocols, ..config };
    let _telemetry = telemetry::init(format, tracing::Level::INFO, "shoal-agent")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(async {
        let lifecycle = Lifecycle::new();
        lifecycle.listen_for_signals().context("signals cannot be listened for")?;
        app::start(config, &lifecycle).await?;
        Ok(match lifecycle.wait(STOP_LIMIT).await {
            Stopped::Clean => ExitCode::SUCCESS,
            Stopped::Dropped(_) => ExitCode::FAILURE,
        })
    })
}
