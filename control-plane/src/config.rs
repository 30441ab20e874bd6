//! What the control plane is told at start: flags, then environment, then defaults.

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};

use crate::app::Config;

/// The control plane of Shoal: agents and the CLI connect to it, it keeps all runs in a database.
#[derive(Debug, Parser)]
#[command(name = "shoal-control-plane", version, about, after_help = EXAMPLES)]
pub struct Args {
    /// Where to listen. Beyond loopback a token is required.
    #[arg(long, env = "SHOAL_LISTEN", default_value = "127.0.0.1:7100")]
    pub listen: SocketAddr,
    /// `postgres://user:password@host/name` or `sqlite:PATH`.
    #[arg(long, env = "SHOAL_DATABASE", hide_env_values = true)]
    pub database: String,
    /// What agents and the CLI must send.
    #[arg(long, env = "SHOAL_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Where to answer `GET /metrics` for Prometheus, like 127.0.0.1:7101; without a token.
    #[arg(long, env = "SHOAL_METRICS_LISTEN", value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// How to log, on standard error. SHOAL_LOG filters, for example `SHOAL_LOG=debug`.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

const EXAMPLES: &str = "Examples:
  shoal-control-plane --database sqlite:/var/lib/shoal/shoal.sqlite
  SHOAL_TOKEN=… shoal-control-plane --listen 0.0.0.0:7100 --database postgres://shoal@db/shoal";

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl From<LogFormat> for shoal_service_kit::telemetry::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        let Args { listen, database, token, metrics_listen, .. } = args;
        Self {
            listen,
            database,
            token: token.filter(|token| !token.is_empty()),
            metrics_listen,
            local: false,
        }
    }
}
