//! The part of the command line that is about results: what a run is called, and past runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use shoal_service_kit::age;

/// What is said about a run when it starts.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct AboutArgs {
    /// Find the run by this later; repeatable
    #[arg(long = "label", value_name = "NAME=VALUE", help_heading = "About the run")]
    pub(crate) label: Vec<String>,
    /// Why it was run, for those who read its result
    #[arg(long, value_name = "TEXT", help_heading = "About the run")]
    pub(crate) note: Option<String>,
    /// Who started it (default: SHOAL_STARTED_BY, else the CI's user, else USER)
    #[arg(long, value_name = "NAME", help_heading = "About the run")]
    pub(crate) started_by: Option<String>,
    /// Of what is tested, like a git commit (default: SHOAL_REVISION, else the CI's commit)
    #[arg(long, value_name = "REVISION", help_heading = "About the run")]
    pub(crate) revision: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerdictArg {
    Passed,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ValidityArg {
    Valid,
    Degraded,
    Invalid,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ListArgs {
    /// At most this many
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) limit: u32,
    /// Only runs older than this run id: the next page begins before the last id of this one
    #[arg(long, value_name = "RUN")]
    pub(crate) before: Option<String>,
    /// Only runs of this scenario
    #[arg(long, value_name = "NAME")]
    pub(crate) scenario: Option<String>,
    /// Only runs with this label; repeatable: with all of them
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Only runs with this verdict
    #[arg(long, value_enum)]
    pub(crate) verdict: Option<VerdictArg>,
    /// Only runs with this validity
    #[arg(long, value_enum)]
    pub(crate) validity: Option<ValidityArg>,
    /// Only runs accepted since then: an age like 7d, or a time like 2026-03-01 or 2026-03-01T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Only runs accepted before then
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelArg {
    Error,
    Warn,
    Info,
}

impl LevelArg {
    /// As asked of the control plane.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
        }
    }
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LogsArgs {
    /// Which run
    #[arg(default_value = "last")]
    pub(crate) run: String,
    /// Only what this agent said
    #[arg(long, value_name = "AGENT")]
    pub(crate) agent: Option<String>,
    /// Only lines as severe as this, or more
    #[arg(long, value_enum, default_value_t = LevelArg::Info)]
    pub(crate) level: LevelArg,
    /// Go on with what is said, until the run is over
    #[arg(long, short)]
    pub(crate) follow: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PruneArgs {
    /// Delete these runs; without any: what --keep and --older-than let go
    pub(crate) runs: Vec<String>,
    /// The newest so many stay, whatever their age
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) keep: u64,
    /// Runs that ended less than this ago stay
    #[arg(long, value_name = "AGE", default_value = "90d", value_parser = age)]
    pub(crate) older_than: Duration,
    /// Really delete; without it the runs are only listed
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LabelArgs {
    /// Which run
    pub(crate) run: String,
    /// NAME=VALUE to set, NAME- to remove; without any the labels are only shown
    #[arg(value_name = "NAME=VALUE|NAME-")]
    pub(crate) changes: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BaselineCommand {
    /// Make a run what later runs of its scenario are compared with
    #[command(after_help = "\
Further runs are repeats of the first: their spread tells `compare` which differences are noise.

Examples:
  shoal baseline set calm-otter brave-heron keen-wren
  shoal baseline set last --label env=staging      for runs with this label only")]
    Set {
        /// The run, then its repeats
        #[arg(required = true)]
        runs: Vec<String>,
        /// For runs with this label; repeatable
        #[arg(long = "label", value_name = "NAME=VALUE")]
        label: Vec<String>,
    },
    /// The baselines of a scenario, or all
    Show {
        /// Name of the scenario
        scenario: Option<String>,
    },
    /// Forget a baseline; its runs stay
    Clear {
        /// Name of the scenario
        scenario: String,
        /// The one for runs with this label; repeatable
        #[arg(long = "label", value_name = "NAME=VALUE")]
        label: Vec<String>,
    },
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CompareArgs {
    /// The baseline, then the runs to compare with it; with --baseline only those (default: last)
    pub(crate) runs: Vec<String>,
    /// Against the stored baseline of the run's scenario
    #[arg(long, conflicts_with = "repeat")]
    pub(crate) baseline: bool,
    /// A further run of what the baseline tested; repeatable: their spread tells noise
    #[arg(long, value_name = "RUN")]
    pub(crate) repeat: Vec<String>,
    /// What must hold, like 'sensors.telemetry.response_time.p95 <= +10% (floor 5ms)'; repeatable
    #[arg(long, value_name = "GATE")]
    pub(crate) gate: Vec<String>,
    /// Compare this stage instead of the steady ones; repeatable
    #[arg(long, value_name = "STAGE", conflicts_with = "all_stages")]
    pub(crate) stage: Vec<String>,
    /// Compare all stages, ramps too
    #[arg(long)]
    pub(crate) all_stages: bool,
    /// Also INVALID runs, and runs that were not asked alike
    #[arg(long)]
    pub(crate) force: bool,
    /// With --baseline: the one set for this label; repeatable
    #[arg(long = "label", value_name = "NAME=VALUE", requires = "baseline")]
    pub(crate) label: Vec<String>,
    /// Every number, not only the usual ones
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TrendArgs {
    /// Like sensors.telemetry.response_time.p95 or all.publish.errors
    pub(crate) metric: String,
    /// Runs of this scenario (default: that of the last run)
    #[arg(long, value_name = "NAME")]
    pub(crate) scenario: Option<String>,
    /// Only runs with this label; repeatable
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// The last so many runs
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) limit: u32,
    /// Of all stages, ramps too
    #[arg(long)]
    pub(crate) all_stages: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Everything below, down to locust
    All,
    /// One file for people: charts, tables, configuration; opens offline
    Html,
    /// The document with the course over time
    Json,
    /// JUnit XML: every threshold is a test case
    Junit,
    /// A summary for a pull request
    Markdown,
    /// Series, course, failures, thresholds
    Csv,
    /// CSV files with Locust's columns
    Locust,
    /// The single requests that were logged (`--sample`), as CSV; not part of `all`
    Requests,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ExportArgs {
    /// Which run
    #[arg(default_value = "last")]
    pub(crate) run: String,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::All)]
    pub(crate) format: Format,
    /// Directory, or a file for a format that is one; {run}, {scenario} and {time} are replaced.
    /// Without it a format of one file goes to stdout
    #[arg(long, value_name = "PATH")]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ApplyArgs {
    /// The object, a YAML file: version, run, scenario, set, agents, labels, note
    pub(crate) file: PathBuf,
    /// Until its run is over
    #[arg(long)]
    pub(crate) wait: bool,
    /// A new run also where the last one was made of the same and is over
    #[arg(long)]
    pub(crate) again: bool,
}

/// Where reports go.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ReportArgs {
    /// Write report.html, junit.xml, summary.md, run.json and CSV files there when the run is over;
    /// {run}, {scenario} and {time} are replaced
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Write single requests there when the run is over, as CSV: the share that --sample says; {run},
    /// {scenario} and {time} are replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) request_log: Option<PathBuf>,
}
