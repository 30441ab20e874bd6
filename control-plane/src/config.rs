//! What the control plane is told at start: flags, then environment, then defaults.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use shoal_service_kit::age;

use crate::app::Config;
use crate::metrics::influx::Endpoint;

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
    /// Where runs are also written for InfluxDB, like http://db:8086/api/v2/write?org=o&bucket=b.
    #[arg(long, env = "SHOAL_INFLUX_URL", value_name = "URL")]
    pub influx_url: Option<String>,
    /// What that InfluxDB asks for.
    #[arg(long, env = "SHOAL_INFLUX_TOKEN", hide_env_values = true)]
    pub influx_token: Option<String>,
    /// How long a run keeps its windows of one second, like 30d or 12h; then they are joined to 10
    /// seconds, and after four times as long to 60. Totals, percentiles and comparisons stay exact.
    #[arg(long, env = "SHOAL_KEEP_SECONDS", value_name = "AGE", default_value = "30d", value_parser = age)]
    pub keep_seconds: Duration,
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

impl TryFrom<Args> for Config {
    type Error = String;

    fn try_from(args: Args) -> Result<Self, String> {
        let Args { listen, database, token, metrics_listen, keep_seconds, .. } = args;
        let influx_token = args.influx_token.filter(|token| !token.is_empty());
        let influx = args.influx_url.map(|url| Endpoint::new(&url, influx_token)).transpose()?;
        Ok(Self {
            listen,
            database,
            token: token.filter(|token| !token.is_empty()),
            metrics_listen,
            keep_seconds: Some(keep_seconds),
            influx,
            local: false,
        })
    }
}
