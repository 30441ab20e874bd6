//! Settings of the daemon: flags, then environment, then the config file, then defaults.
//!
//! Resolution is a function of its three sources, so that precedence can be tested without touching
//! the process. The file is lines of `key = value` with the long flags' names as keys. Invariant: a
//! value that cannot be used names its source.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use shoal_service_kit::telemetry::LogFormat;

use crate::app::Config;
use crate::protocol::Protocols;

/// Drives simulated devices for a Shoal control plane.
#[derive(Debug, Default, Parser)]
#[command(name = "shoal-agent", version)]
pub struct Flags {
    /// Address of the control plane, http://host:port; of one with standbys all of them, with commas
    /// between them [env: SHOAL_SERVER]
    #[arg(long)]
    pub server: Option<String>,
    /// Token of the control plane; better given in the environment or the file [env: SHOAL_TOKEN]
    #[arg(long)]
    pub token: Option<String>,
    /// Name of this agent, the host's by default [env: SHOAL_AGENT_ID]
    #[arg(long)]
    pub id: Option<String>,
    /// Directory that this agent alone uses [env: SHOAL_DATA_DIR]
    #[arg(long)]
    pub data_dir: Option<String>,
    /// A label key=value; repeat for more [env: SHOAL_LABELS, separated by commas]
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Weight when devices are dealt, by default its cores [env: SHOAL_CAPACITY]
    #[arg(long)]
    pub capacity: Option<String>,
    /// What may be loaded: host, host:port or network; repeat for more; none: everything
    /// [env: SHOAL_ALLOW_TARGET, separated by commas]
    #[arg(long, value_name = "TARGET")]
    pub allow_target: Vec<String>,
    /// A local address that devices connect from; several are taken in turn; none: the kernel's
    /// choice [env: SHOAL_SOURCE, separated by commas]
    #[arg(long, value_name = "ADDRESS")]
    pub source: Vec<String>,
    /// Directory with one file per secret [env: SHOAL_SECRETS_DIR]
    #[arg(long)]
    pub secrets_dir: Option<String>,
    /// Where /healthz and /metrics are served, by default nowhere [env: SHOAL_HEALTH_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    pub health_listen: Option<String>,
    /// text or json [env: SHOAL_LOG_FORMAT]
    #[arg(long)]
    pub log_format: Option<String>,
    /// File with lines `key = value` [env: SHOAL_CONFIG]
    #[arg(long)]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("config file {} cannot be read: {why}; give the right one in --config", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("config file line {line}: {why}")]
    Line { line: usize, why: String },
    #[error("{source_name}: `{value}` cannot be used: {why}")]
    Value { source_name: String, value: String, why: String },
    #[error("no control plane is given: use --server, SHOAL_SERVER or `server` in the config file")]
    NoServer,
    #[error("no data directory: HOME is not set, so give --data-dir or SHOAL_DATA_DIR")]
    NoDataDir,
}

impl ConfigError {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::Line { .. } => "SH0601",
            Self::Value { .. } | Self::NoServer | Self::NoDataDir => "SH0602",
        }
    }
}

/// Keys of the file, with the variable that stands above each.
const KEYS: [(&str, &str); 11] = [
    ("server", "SHOAL_SERVER"),
    ("token", "SHOAL_TOKEN"),
    ("id", "SHOAL_AGENT_ID"),
    ("data-dir", "SHOAL_DATA_DIR"),
    ("label", "SHOAL_LABELS"),
    ("capacity", "SHOAL_CAPACITY"),
    ("allow-target", "SHOAL_ALLOW_TARGET"),
    ("source", "SHOAL_SOURCE"),
    ("secrets-dir", "SHOAL_SECRETS_DIR"),
    ("health-listen", "SHOAL_HEALTH_LISTEN"),
    ("log-format", "SHOAL_LOG_FORMAT"),
];

/// A value and where it came from. Lists are those of one source, never joined over sources.
#[derive(Debug, Clone)]
struct Found {
    source: String,
    values: Vec<String>,
}

struct Sources<'a> {
    flags: BTreeMap<&'static str, Vec<String>>,
    env: &'a dyn Fn(&str) -> Option<String>,
    file: BTreeMap<String, Vec<String>>,
}

/// The text of the file that flags or environment name; `None` where they name none.
pub fn read_file(
    flags: &Flags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, ConfigError> {
    let named = flags.config.clone().or_else(|| env("SHOAL_CONFIG").map(PathBuf::from));
    let Some(path) = named.filter(|path| !path.as_os_str().is_empty()) else { return Ok(None) };
    let text = std::fs::read_to_string(&path);
    text.map(Some).map_err(|error| ConfigError::Unreadable { path, why: error.to_string() })
}

/// `hostname` is the default id.
pub fn resolve(
    flags: &Flags,
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<&str>,
    hostname: &str,
) -> Result<(Config, LogFormat), ConfigError> {
    let file = file.map(parse_file).transpose()?.unwrap_or_default();
    let sources = Sources { flags: by_key(flags), env, file };
    let server = sources.text("server").ok_or(ConfigError::NoServer)?;
    let data_dir = match sources.text("data-dir") {
        Some(found) => PathBuf::from(found.values[0].clone()),
        None => default_data_dir(env).ok_or(ConfigError::NoDataDir)?,
    };
    let id = match sources.parsed("id")? {
        Some(id) => id,
        None => parse("the host's name, as --id is not given", hostname)?,
    };
    let config = Config {
        server: server.values[0].clone(),
        token: sources.text("token").map(|found| found.values[0].clone()),
        id,
        data_dir,
        labels: sources.labels()?,
        capacity: sources.capacity()?,
        allow_target: sources.list("allow-target").map(|found| found.values).unwrap_or_default(),
        secrets_dir: sources.text("secrets-dir").map(|found| found.values[0].clone().into()),
        sources: sources.addresses()?,
        health_listen: sources.parsed::<SocketAddr>("health-listen")?,
        protocols: Protocols::default(),
    };
    Ok((config, sources.parsed::<LogFormat>("log-format")?.unwrap_or_default()))
}

impl Sources<'_> {
    fn list(&self, key: &'static str) -> Option<Found> {
        if let Some(values) = self.flags.get(key).filter(|values| !values.is_empty()) {
            return Some(Found { source: format!("--{key}"), values: values.clone() });
        }
        let variable = KEYS.iter().find(|(name, _)| *name == key).map_or("", |(_, env)| env);
        if let Some(text) = (self.env)(variable).filter(|text| !text.is_empty()) {
            let values = match key {
                "label" | "allow-target" | "source" => {
                    text.split(',').map(|v| v.trim().to_owned()).collect()
                }
                _ => vec![text],
            };
            return Some(Found { source: variable.to_owned(), values });
        }
        let values = self.file.get(key)?.clone();
        Some(Found { source: format!("`{key}` in the config file"), values })
    }

    /// The last one given, as usual on command lines.
    fn text(&self, key: &'static str) -> Option<Found> {
        let mut found = self.list(key)?;
        found.values.drain(..found.values.len() - 1);
        Some(found)
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, ConfigError> {
        self.text(key).map(|found| parse(&found.source, &found.values[0])).transpose()
    }

    fn capacity(&self) -> Result<Option<f64>, ConfigError> {
        let Some(capacity) = self.parsed::<f64>("capacity")? else { return Ok(None) };
        if capacity.is_finite() && capacity > 0.0 {
            return Ok(Some(capacity));
        }
        let found = self.text("capacity").map(|found| found.source).unwrap_or_default();
        Err(bad(&found, &capacity.to_string(), "a number above 0 is expected"))
    }

    fn addresses(&self) -> Result<Vec<IpAddr>, ConfigError> {
        let Some(found) = self.list("source") else { return Ok(Vec::new()) };
        found.values.iter().map(|text| parse(&found.source, text)).collect()
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, ConfigError> {
        let Some(found) = self.list("label") else { return Ok(BTreeMap::new()) };
        let pair = |text: &String| match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(bad(&found.source, text, "key=value is expected")),
        };
        found.values.iter().map(pair).collect()
    }
}

fn bad(source: &str, value: &str, why: impl fmt::Display) -> ConfigError {
    let (source_name, why) = (source.to_owned(), why.to_string());
    ConfigError::Value { source_name, value: value.to_owned(), why }
}

fn parse<T: FromStr<Err: fmt::Display>>(source: &str, text: &str) -> Result<T, ConfigError> {
    text.trim().parse().map_err(|error| bad(source, text, error))
}

fn by_key(flags: &Flags) -> BTreeMap<&'static str, Vec<String>> {
    let one = |value: &Option<String>| value.iter().cloned().collect::<Vec<_>>();
    BTreeMap::from([
        ("server", one(&flags.server)),
        ("token", one(&flags.token)),
        ("id", one(&flags.id)),
        ("data-dir", one(&flags.data_dir)),
        ("label", flags.label.clone()),
        ("capacity", one(&flags.capacity)),
        ("allow-target", flags.allow_target.clone()),
        ("source", flags.source.clone()),
        ("secrets-dir", one(&flags.secrets_dir)),
        ("health-listen", one(&flags.health_listen)),
        ("log-format", one(&flags.log_format)),
    ])
}

fn parse_file(text: &str) -> Result<BTreeMap<String, Vec<String>>, ConfigError> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refuse = |why: String| ConfigError::Line { line: at + 1, why };
        let (key, value) =
            line.split_once('=').ok_or_else(|| refuse("`key = value` is expected".to_owned()))?;
        let key = key.trim().replace('_', "-");
        if !KEYS.iter().any(|(name, _)| *name == key) {
            let known: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
            return Err(refuse(format!("`{key}` is not known: use one of {}", known.join(", "))));
        }
        let value = value.trim();
        let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        found.entry(key).or_default().push(unquoted.unwrap_or(value).to_owned());
    }
    Ok(found)
}

fn default_data_dir(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")))?;
    Some(base.join("shoal").join("agent"))
}

#[cfg(test)]
mod tests;
