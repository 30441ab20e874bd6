//! Logging of a Shoal process: to stderr, as text for people or JSON for collectors, and into the books
//! of its parts ([`crate::logs`]); and its traces.
//!
//! stdout belongs to data, so nothing here ever writes to it. `SHOAL_LOG` takes the usual filter
//! directives (`info,shoal_agent=debug`); a directive that cannot be read is refused, not ignored.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::logs;
use crate::traces::Delivery;

/// The environment variable with the filter directives.
pub const FILTER_VARIABLE: &str = "SHOAL_LOG";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(Error::Format { found: other.to_owned() }),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("log format '{found}' is not known: use text or json")]
    Format { found: String },
    #[error(
        "cannot read the log filter in SHOAL_LOG='{found}': write it like info,shoal_agent=debug"
    )]
    Filter {
        found: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("traces cannot be delivered as OTEL_EXPORTER_OTLP_ENDPOINT says: {why}")]
    Collector { why: String },
    #[error("logging was already set up in this process: call telemetry::init once, in main")]
    Twice,
}

/// Keep it until the process ends: then the last spans are delivered.
#[derive(Debug)]
#[must_use = "dropped, it ends the delivery of traces"]
pub struct Telemetry {
    _traces: Option<Delivery>,
}

/// Call once, first thing in `main`. `default_level` holds where `SHOAL_LOG` says nothing; `service`
/// is what a collector of traces knows this process by.
pub fn init(
    format: LogFormat,
    default_level: tracing::Level,
    service: &'static str,
) -> Result<Telemetry, Error> {
    let directives = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let filter = filter(&directives, default_level)?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Saying that a line could not be written would panic where stderr is a file on a full disk.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let printed = match format {
        LogFormat::Text => layer.with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let traces = Delivery::start(service).map_err(|why| Error::Collector { why })?;
    // Ours only: a library's spans would be many, and the exporter would trace itself. Static, as
    // a filter that is asked each time loses events behind a library's `enabled!`.
    let is_ours = Targets::new().with_target("shoal", LevelFilter::INFO);
    let spans = traces.as_ref().map(|delivery| {
        tracing_opentelemetry::layer()
            .with_tracer(delivery.tracer())
            .with_location(false)
            .with_threads(false)
            .with_filter(is_ours)
    });
    tracing_subscriber::registry()
        .with(printed)
        .with(logs::layer())
        .with(spans)
        .try_init()
        .map_err(|_| Error::Twice)?;
    Ok(Telemetry { _traces: traces })
}

fn filter(directives: &str, default_level: tracing::Level) -> Result<EnvFilter, Error> {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::from_level(default_level).into())
        .parse(directives)
        .and_then(|filter| Ok(filter.add_directive(format!("{}=off", logs::SPAN).parse()?)))
        .map_err(|source| Error::Filter { found: directives.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_filter_is_refused_with_its_text() {
        let error = filter("shoal=loud", tracing::Level::INFO).unwrap_err();
        assert!(error.to_string().contains("SHOAL_LOG='shoal=loud'"), "{error}");
    }

    #[test]
    fn an_empty_filter_means_the_default_level() {
        assert_eq!(filter("", tracing::Level::WARN).unwrap().to_string(), "book_of=off,warn");
    }

    #[test]
    fn formats_are_read_by_name() {
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("'xml'"));
    }
}
