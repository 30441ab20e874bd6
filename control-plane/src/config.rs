//! What the control plane is told at start: flags, then environment, then defaults.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use shoal_service_kit::{age, traces};

use crate::app::Config;
use crate::metrics::outputs::Output;

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
    /// Where runs are also written by Prometheus remote write, like http://prometheus:9090/api/v1/write.
    #[arg(long, env = "SHOAL_REMOTE_WRITE_URL", value_name = "URL")]
    pub remote_write_url: Option<String>,
    /// The bearer token of that remote write.
    #[arg(long, env = "SHOAL_REMOTE_WRITE_TOKEN", hide_env_values = true)]
    pub remote_write_token: Option<String>,
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
        let token_of = |token: &Option<String>| token.clone().filter(|token| !token.is_empty());
        let mut outputs = outputs_of_environment()?;
        if let Some(url) = &args.influx_url {
            let token = token_of(&args.influx_token);
            let named = |why| format!("--influx-url: {why}");
            outputs.push(Output::influx(url, token.as_deref()).map_err(named)?);
        }
        if let Some(url) = &args.remote_write_url {
            let token = token_of(&args.remote_write_token);
            let named = |why| format!("--remote-write-url: {why}");
            outputs.push(Output::remote_write(url, token.as_deref()).map_err(named)?);
        }
        Ok(Self {
            listen,
            database,
            token: token.filter(|token| !token.is_empty()),
            metrics_listen,
            keep_seconds: Some(keep_seconds),
            outputs,
            local: false,
        })
    }
}

/// The collector that takes the traces takes the metrics, too.
pub fn outputs_of_environment() -> Result<Vec<Output>, String> {
    let url = std::env::var(traces::ENDPOINT_VARIABLE).unwrap_or_default();
    let named = |why| format!("{}: {why}", traces::ENDPOINT_VARIABLE);
    match url.is_empty() {
        true => Ok(Vec::new()),
        false => Ok(vec![Output::otlp(&url).map_err(named)?]),
    }
}
