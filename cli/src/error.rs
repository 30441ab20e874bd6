//! Everything that can keep a command from being done, one variant per failed operation.
//!
//! A person sees one line (what, on which thing, why), then `help:`. The code leads to a page
//! (`shoal explain`), the exit code is 2 except where a run may still go on somewhere (4).

use std::fmt::Write as _;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The text is complete: one block per mistake.
    #[error("{rendered}")]
    ScenarioMistakes { rendered: String },
    #[error("cannot read scenario {}: {why}", path.display())]
    ScenarioUnreadable { path: PathBuf, why: String },
    #[error("--set {text}: NAME=VALUE is expected")]
    BadOverride { text: String },
    #[error(
        "target `{target}` has `url: builtin`, the demo broker of a run in this process, but this run goes to {server}"
    )]
    BuiltinOnServer { target: String, server: String },
    #[error("{what}: not in this release")]
    NotInRelease { what: String, help: String },
    #[error("cannot reach the control plane at {server}: {why}")]
    Unreachable { server: String, why: String },
    #[error("{server} does not answer like a control plane of this release: {why}")]
    NotShoal { server: String, why: String },
    #[error("lost sight of run {run} at {server}: nothing heard for 45 s; it may still go on")]
    LostSight { run: String, server: String },
    #[error("watching run {run} was ended here; it goes on")]
    Detached { run: String },
    /// What the control plane said, with its own code.
    #[error("{message}")]
    Refused { code: Option<String>, message: String, help: Option<String> },
    #[error("cannot read the document of run {run}: {why}")]
    BadDocument { run: String, why: String },
    #[error("config file {}, line {line}: {why}", path.display())]
    ConfigFile { path: PathBuf, line: usize, why: String },
    #[error("{why}")]
    Usage { why: String, help: String },
    #[error("cannot use the data directory {}: {why}", path.display())]
    DataDir { path: PathBuf, why: String },
    /// A part of the cluster in this process did not start.
    #[error("cannot start {what} in this process: {why}")]
    Here { what: &'static str, why: String, code: Option<String> },
    #[error("cannot write the report {}: {why}", path.display())]
    Report { path: PathBuf, why: String },
    #[error("cannot write {}: {why}", path.display())]
    Write { path: PathBuf, why: String },
    #[error("object {object} has run {run}, which goes on and was made of something else")]
    ObjectRuns { object: String, run: String },
    /// Any of the others, but after a run was accepted: it may still go on.
    #[error("{0}")]
    AfterStart(Box<Error>),
    #[error("stdout: {0}")]
    Stdout(#[source] std::io::Error),
}

impl Error {
    pub(crate) fn code(&self) -> Option<&str> {
        Some(match self {
            Self::ScenarioMistakes { .. } => "SH0101",
            Self::ScenarioUnreadable { .. } => "SH0102",
            Self::ObjectRuns { .. } => "SH0708",
            Self::BadOverride { .. } => "SH0103",
            Self::BuiltinOnServer { .. } => "SH0104",
            Self::NotInRelease { .. } => "SH0105",
            Self::Unreachable { .. } => "SH0401",
            Self::LostSight { .. } => "SH0405",
            Self::NotShoal { .. } | Self::BadDocument { .. } => "SH0410",
            Self::DataDir { .. } => "SH0503",
            Self::ConfigFile { .. } => "SH0601",
            Self::Usage { .. } | Self::Write { .. } => "SH0602",
            Self::Report { .. } => "SH0707",
            Self::Refused { code, .. } | Self::Here { code, .. } => return code.as_deref(),
            Self::AfterStart(error) => return error.code(),
            Self::Detached { .. } | Self::Stdout(_) => return None,
        })
    }

    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::ScenarioUnreadable { .. } => {
                "name a scenario file; `shoal scenario init` writes one to start from".into()
            }
            Self::ObjectRuns { run, .. } => {
                format!("wait for it (`shoal watch {run}`) or end it (`shoal stop {run}`)")
            }
            Self::BadOverride { .. } => "write it like --set devices=500".into(),
            Self::BuiltinOnServer { .. } => {
                "name a broker, for example --set broker=mqtt://10.0.0.7:1883, or run without --server".into()
            }
            Self::NotInRelease { help, .. } | Self::Usage { help, .. } => help.clone(),
            Self::Unreachable { server, .. } => format!(
                "start one with `shoal-control-plane --listen`, check the address {server}, or run without --server"
            ),
            Self::NotShoal { .. } => {
                "check the port, and use CLI, control plane and agents of one release".into()
            }
            Self::LostSight { run, .. } => format!(
                "look again with `shoal watch {run}`; without its owner the control plane stops it after 60 s"
            ),
            Self::Detached { run } => {
                format!("look again with `shoal watch {run}`, end it with `shoal stop {run}`")
            }
            Self::Refused { help, .. } => return help.clone(),
            Self::AfterStart(error) => return error.help(),
            Self::BadDocument { .. } => "use a CLI of the control plane's release".into(),
            Self::ConfigFile { .. } => {
                "lines are `server = URL`, `token = TOKEN` and `data_dir = DIR`".into()
            }
            Self::DataDir { .. } => "name another directory with --data-dir or SHOAL_DATA_DIR".into(),
            Self::Here { code: None, .. } => "run again with SHOAL_LOG=info to see more".into(),
            Self::Report { .. } => "name a directory that can be written; the run is stored, `shoal export` writes its files again".into(),
            Self::Write { .. } => "name another file, or remove that one first".into(),
            Self::ScenarioMistakes { .. } | Self::Here { .. } | Self::Stdout(_) => return None,
        })
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::LostSight { .. } | Self::Detached { .. } | Self::AfterStart(_) => 4,
            // There are numbers, but none to trust.
            Self::Refused { code: Some(code), .. } if code == "SH0705" => 3,
            _ => 2,
        }
    }

    /// As printed on stderr, with the final line break.
    pub(crate) fn render(&self) -> String {
        if let Self::ScenarioMistakes { rendered } = self {
            return rendered.clone();
        }
        let mut text = match self.code() {
            Some(code) => format!("error[{code}]: {self}\n"),
            None => format!("error: {self}\n"),
        };
        if let Some(help) = self.help() {
            let _ = writeln!(text, "  help: {help}");
        }
        if let Some(code) = self.code() {
            let _ = writeln!(text, "  explain: shoal explain {code}");
        }
        text
    }
}

/// An error with its causes on one line, for texts of other libraries.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Many libraries repeat their cause in their own text.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_why_and_what_to_do() {
        let error = Error::Unreachable {
            server: "http://127.0.0.1:1".into(),
            why: "connection refused".into(),
        };
        assert_eq!(
            error.render(),
            "error[SH0401]: cannot reach the control plane at http://127.0.0.1:1: connection refused\n  \
             help: start one with `shoal-control-plane --listen`, check the address http://127.0.0.1:1, or run without --server\n  \
             explain: shoal explain SH0401\n"
        );
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn losing_sight_of_a_run_has_its_own_exit_code() {
        let error = Error::LostSight { run: "calm-otter".into(), server: "here".into() };
        assert_eq!(error.exit_code(), 4);
    }

    #[test]
    fn what_goes_wrong_after_the_start_is_never_taken_for_a_refusal() {
        let denied =
            Error::Refused { code: Some("SH0402".into()), message: "no".into(), help: None };
        let error = Error::AfterStart(Box::new(denied));
        assert_eq!(error.render(), "error[SH0402]: no\n  explain: shoal explain SH0402\n");
        assert_eq!(error.exit_code(), 4);
    }
}
