//! The command line, as people type it. Doc comments are the help, so they are written for readers.
//!
//! Nothing here reads the environment or a file: [`crate::config`] decides what wins, and is tested.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use shoal_domain::requests::Sampling;

pub(crate) mod results;

use results::{
    AboutArgs, ApplyArgs, BaselineCommand, CompareArgs, ExportArgs, LabelArgs, ListArgs, LogsArgs,
    PruneArgs, ReportArgs, TrendArgs,
};

#[derive(Debug, Parser)]
#[command(
    name = "shoal",
    version,
    about = "Load-tests IoT platforms: many simulated devices, honest numbers",
    after_help = "\
Examples:
  shoal scenario init && shoal run scenario.yaml     a first run, everything in this process
  shoal run scenarios/telemetry.yaml --set devices=500 --set broker=mqtt://10.0.0.7:1883
  shoal --server http://10.0.0.5:7100 run scenarios/telemetry.yaml --agents 2
  shoal show last --output json                      the run's document, for machines

Where it runs: --server, else SHOAL_SERVER, else the config file (./shoal.toml or
$XDG_CONFIG_HOME/shoal/config.toml), else a cluster of one in this process.

Exit codes: 0 passed, 1 a threshold failed, 2 refused before anything ran,
3 no trustworthy verdict, 4 lost sight of a run that may still go on."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Global {
    /// Control plane to talk to, like http://10.0.0.5:7100; several with commas between them (or SHOAL_SERVER)
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// What the control plane asks for (better: SHOAL_TOKEN, which other users cannot see)
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Where runs in this process are stored (or SHOAL_DATA_DIR; default: the XDG data directory)
    #[arg(long, global = true, help_heading = "Everywhere", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// What stdout gets
    #[arg(long, global = true, help_heading = "Everywhere", value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// No progress and no remarks on stderr, only errors
    #[arg(long, short, global = true, help_heading = "Everywhere")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// The document, indented
    Json,
    /// One document per line
    Ndjson,
    /// A table for spreadsheets: units in the names, nothing rounded
    Csv,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a run, watch it, print its result; its exit code is the run's
    #[command(after_help = "\
The first Ctrl-C (or SIGTERM) stops the load gracefully and the run is judged; the second aborts it.
The run ends by itself 60 s after this process is gone.

Examples:
  shoal run scenarios/quickstart.yaml
  shoal run scenarios/telemetry.yaml --set devices=500 --set qos=0
  shoal --output json run scenarios/quickstart.yaml > result.json")]
    Run {
        #[command(flatten)]
        start: StartArgs,
        #[command(flatten)]
        rows: RowArgs,
        #[command(flatten)]
        report: ReportArgs,
    },
    /// Start a run, print its id and return; the run goes on without an owner
    #[command(after_help = "\
Needs a control plane that outlives this command (--server).

Example:
  run=$(shoal start scenarios/telemetry.yaml) && shoal watch \"$run\"")]
    Start {
        #[command(flatten)]
        start: StartArgs,
    },
    /// Make a run as a file says, unless it is there already: a run as an object
    #[command(after_help = "\
An object is its latest run. Applying it again changes nothing; a changed one starts a new run once the
last is over, and is refused while that goes on. Phases: Pending, Running, Succeeded, Failed. Exit code: that
of the run once it is over, else 0; 2 refused.

Example:
  shoal apply nightly.yaml --wait")]
    Apply(ApplyArgs),
    /// The runs in the store, newest first
    #[command(after_help = "\
Examples:
  shoal list --scenario telemetry --label env=staging --since 7d
  shoal list --verdict failed --output ndjson")]
    List(ListArgs),
    /// Set, remove or show the labels of a run
    #[command(after_help = RUN_HELP)]
    Label(LabelArgs),
    /// Note something in a run's history, with the time of now
    #[command(after_help = RUN_HELP)]
    Annotate {
        /// Which run
        run: String,
        /// What happened
        text: String,
    },
    /// Delete runs: the named ones, or the old ones; never one that goes on or is a baseline
    #[command(after_help = "\
Examples:
  shoal prune --keep 100 --older-than 90d          what would go
  shoal prune --keep 100 --older-than 90d --yes")]
    Prune(PruneArgs),
    /// Runs against a baseline: differences, what they mean, gates for pipelines
    #[command(after_help = "\
Exit code: 0 every gate holds, 1 one does not (or has no data), 3 a run is INVALID, 2 it could not be done.

Examples:
  shoal compare calm-otter brave-heron
  shoal compare --baseline last --gate 'sensors.telemetry.response_time.p95 <= +10% (floor 5ms)'
  shoal compare A B --repeat A2 --repeat A3          judged by the spread of A, A2 and A3")]
    Compare(CompareArgs),
    /// One number over the last runs of a scenario
    #[command(after_help = "\
Example:
  shoal trend sensors.telemetry.response_time.p95 --scenario telemetry --limit 30")]
    Trend(TrendArgs),
    /// A run as files: HTML report, JSON, JUnit, Markdown, CSV, Locust's CSV
    #[command(after_help = "\
Examples:
  shoal export last --to 'reports/{scenario}-{time}'
  shoal export calm-otter --format html --to report.html
  shoal export --format markdown >> \"$GITHUB_STEP_SUMMARY\"")]
    Export(ExportArgs),
    /// The runs that later ones are compared with
    #[command(subcommand)]
    Baseline(BaselineCommand),
    /// One run's result, finished or not
    #[command(after_help = RUN_HELP)]
    Show {
        /// Which run
        #[arg(default_value = "last")]
        run: String,
        #[command(flatten)]
        rows: RowArgs,
    },
    /// Watch a run without owning it; exits with the run's exit code
    #[command(after_help = RUN_HELP)]
    Watch {
        /// Which run
        #[arg(default_value = "last")]
        run: String,
    },
    /// What the agents and the control plane said about a run, in order of time
    #[command(after_help = "\
Lines are kept with the run as they are said, so those of an agent that was killed are there too.

Examples:
  shoal logs last --follow
  shoal logs calm-otter --agent a1 --level warn --output ndjson

RUN is an id, its unique beginning, a name, `last` or `last~1` (the one before).")]
    Logs(LogsArgs),
    /// Change the load of a running run: more or fewer devices of a group, at a rate
    #[command(after_help = "\
The group goes from what runs now to N devices at R devices per second and stays there until the load
ends; the others, and the devices that go on, notice nothing. A group never has more devices than the
scenario gives it.

Example:
  shoal scale last --group sensors --devices 200 --rate 10/s

RUN is an id, its unique beginning, a name, `last` or `last~1` (the one before).")]
    Scale {
        /// Which run
        #[arg(default_value = "last")]
        run: String,
        /// Which group (default: the only one)
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// How many of its devices run then
        #[arg(long, value_name = "N")]
        devices: u64,
        /// Devices per time, like 10/s or 600/min (default: the steepest of the scenario)
        #[arg(long, value_name = "RATE", value_parser = rate)]
        rate: Option<f64>,
    },
    /// Ask a run to end: gracefully, so that it is judged, or at once
    #[command(after_help = RUN_HELP)]
    Stop {
        /// Which run
        #[arg(default_value = "last", conflicts_with = "all")]
        run: String,
        /// At once: sockets are closed, the run ends ABORTED
        #[arg(long)]
        abort: bool,
        /// Every run that is not over
        #[arg(long)]
        all: bool,
    },
    /// Write, check and understand scenario files
    #[command(subcommand)]
    Scenario(ScenarioCommand),
    /// The agents of the control plane
    #[command(subcommand)]
    Agent(AgentCommand),
    /// A control plane and agents in this process, until Ctrl-C
    #[command(after_help = "\
Example:
  shoal serve --agents 2 --listen 127.0.0.1:7100
  shoal --server http://127.0.0.1:7100 run scenarios/telemetry.yaml")]
    Serve {
        /// Agents to start
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
        agents: u32,
        /// Where to listen; beyond loopback a token is required
        #[arg(long, default_value = "127.0.0.1:7100", value_name = "ADDR")]
        listen: SocketAddr,
        /// Where to answer `GET /metrics` for Prometheus, like 127.0.0.1:7101; without a token
        #[arg(long, value_name = "ADDR")]
        metrics_listen: Option<SocketAddr>,
    },
    /// What an error code means and what to do
    Explain {
        /// Like SH0101
        code: String,
    },
    /// Completions for a shell, on stdout
    #[command(after_help = "\
Examples:
  shoal completions bash > /etc/bash_completion.d/shoal
  shoal completions zsh  > \"${fpath[1]}/_shoal\"
  shoal completions fish > ~/.config/fish/completions/shoal.fish")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// The manual: a page on stdout, or a page for every command into a directory
    #[command(after_help = "\
Examples:
  shoal man | man -l -
  shoal man --to /usr/local/share/man/man1")]
    Man {
        /// Where the pages go
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// The demo broker, as a child of `run`
    #[command(hide = true)]
    DemoBroker {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
}

/// Which rows of a result are printed; the document always has all.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct RowArgs {
    /// One row per stage as well
    #[arg(long)]
    pub(crate) stages: bool,
    /// The holds alone: no ramp, storm or arrival in the numbers
    #[arg(long, conflicts_with = "stages")]
    pub(crate) exclude_ramp: bool,
    /// Also what every agent, or every region, did by itself
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) by: Option<By>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Agent,
    Region,
}

impl By {
    /// As asked of the control plane.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Region => "region",
        }
    }
}

const RUN_HELP: &str = "\
RUN is an id, its unique beginning, a name, `last` or `last~1` (the one before).";

/// What is different from the file as it is.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Changes {
    /// Give a variable of the scenario (`vars:`) another value; repeatable
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// Only tasks and sends that have one of these tags, like a,b
    #[arg(long, value_name = "TAGS")]
    pub(crate) tags: Vec<String>,
    /// No tasks and sends that have one of these tags
    #[arg(long, value_name = "TAGS")]
    pub(crate) exclude_tags: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    /// The scenario, a YAML file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) changes: Changes,
    /// Wait for this many agents (default: `fleet.min_agents` of the file); in this process: start
    /// as many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) agents: Option<u32>,
    /// How long to wait for agents
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) agents_timeout: Duration,
    /// Files whose names are the scenario's `${secret.NAME}`; only in this process
    #[arg(long, value_name = "DIR")]
    pub(crate) secrets_dir: Option<PathBuf>,
    /// Allow load only on this host, host:port or CIDR; repeatable; only in this process
    #[arg(long, value_name = "TARGET")]
    pub(crate) allow_target: Vec<String>,
    /// Keep this share of the single requests with the run, like 1% (with --request-log: the default);
    /// `export --format requests` writes them
    #[arg(long, value_name = "SHARE", value_parser = sampling)]
    pub(crate) sample: Option<Sampling>,
    #[command(flatten)]
    pub(crate) about: AboutArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScenarioCommand {
    /// Write a small commented scenario to start from
    Init {
        /// Where to; an existing file is never overwritten
        #[arg(default_value = "scenario.yaml")]
        file: PathBuf,
    },
    /// Print the JSON Schema of the scenario file, with which editors complete it
    Schema,
    /// Report every mistake in a scenario, or what it amounts to
    Check {
        /// The scenario, a YAML file
        file: PathBuf,
        #[command(flatten)]
        changes: Changes,
    },
    /// What would happen: stages, planned slots, or one device's messages
    #[command(after_help = "\
Example:
  shoal scenario plan scenarios/quickstart.yaml --device 17")]
    Plan {
        /// The scenario, a YAML file
        file: PathBuf,
        #[command(flatten)]
        changes: Changes,
        /// Count the agents that hold at most so many devices each (default: like this machine)
        #[arg(long, value_name = "DEVICES", value_parser = clap::value_parser!(u64).range(1..))]
        per_agent: Option<u64>,
        /// Show this device (its index in its group): id, start, first messages
        #[arg(long, value_name = "INDEX")]
        device: Option<u64>,
        /// The device's group (default: the first)
        #[arg(long, value_name = "GROUP", requires = "device")]
        group: Option<String>,
    },
    /// Drive one device per group for one message per series and show every step
    #[command(after_help = "\
It connects as the first device of each group, from this machine and without a control plane; a broker
disconnects another client of the same id. Observers are connected before: each shows the event that it
saw, what it found in it and how late it came. Exit code 1: a device did not get through, or an observer
saw nothing.")]
    Try {
        /// The scenario, a YAML file
        file: PathBuf,
        #[command(flatten)]
        changes: Changes,
        /// Files whose names are the scenario's `${secret.NAME}`
        #[arg(long, value_name = "DIR")]
        secrets_dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Every agent the control plane knows
    List,
    /// Hands an agent's devices over to the others and gives it no more, before its machine is
    /// worked on
    ///
    /// A run that goes on notices half a second per batch of devices; its result says so. The agent
    /// stays connected as `drained`, also over restarts, until `--undo`.
    Drain {
        /// As `shoal agent list` shows it
        agent: String,
        /// It takes devices again
        #[arg(long)]
        undo: bool,
    },
}

/// `1%`, `0.05%`, `100%`.
fn sampling(text: &str) -> Result<Sampling, String> {
    let wrong = || format!("`{text}` found, a share of more than 0% and at most 100% expected");
    Sampling::parse(text).ok_or_else(wrong)
}

/// `10/s`, `600/min`, `2.5/h`, as in the scenario file; per second.
fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` found, a rate with its unit, like 10/s, expected");
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(wrong()),
    };
    let digits = |b: u8| b.is_ascii_digit() || b == b'.';
    let number: f64 = Some(number)
        .filter(|number| number.bytes().all(digits))
        .and_then(|number| number.parse().ok())
        .ok_or_else(wrong)?;
    let rate = number / seconds;
    if rate > 0.0 { Ok(rate) } else { Err(wrong()) }
}

/// `500ms`, `30s`, `2m`, `1h`, as in the scenario file: a bare number is refused.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` found, a duration with its unit, like 30s, expected");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_duration_carries_its_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["30", "s", "1.5s", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rate_carries_its_unit() {
        assert_eq!((rate("10/s"), rate("600/min"), rate("2.5/s")), (Ok(10.0), Ok(10.0), Ok(2.5)));
        for wrong in ["10", "/s", "0/s", "-1/s", "10/sec", "1e3/s", "NaN/s"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_run_is_named_or_it_is_the_last_one() {
        let args = Args::try_parse_from(["shoal", "show"]).unwrap();
        assert!(matches!(args.command, Command::Show { run, .. } if run == "last"));
        assert!(Args::try_parse_from(["shoal", "stop", "last", "--all"]).is_err());
        assert!(Args::try_parse_from(["shoal", "stop", "--all"]).is_ok());
    }
}
