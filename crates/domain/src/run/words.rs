//! The words of a run's three axes, and why its load ended.

use serde::{Deserialize, Serialize};

use crate::ids::AgentId;

/// The phase's name, as stored and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Phase {
    Pending,
    Preparing,
    Armed,
    Running,
    Stopping,
    Collecting,
    Finished,
    FailedToStart,
    Aborted,
    Interrupted,
}

impl Phase {
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Preparing,
        Self::Armed,
        Self::Running,
        Self::Stopping,
        Self::Collecting,
        Self::Finished,
        Self::FailedToStart,
        Self::Aborted,
        Self::Interrupted,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Preparing => "PREPARING",
            Self::Armed => "ARMED",
            Self::Running => "RUNNING",
            Self::Stopping => "STOPPING",
            Self::Collecting => "COLLECTING",
            Self::Finished => "FINISHED",
            Self::FailedToStart => "FAILED_TO_START",
            Self::Aborted => "ABORTED",
            Self::Interrupted => "INTERRUPTED",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.word() == word)
    }

    pub const fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::FailedToStart | Self::Aborted | Self::Interrupted)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Validity {
    Valid,
    Degraded,
    Invalid,
}

impl Validity {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::Degraded => "DEGRADED",
            Self::Invalid => "INVALID",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Valid, Self::Degraded, Self::Invalid].into_iter().find(|known| known.word() == word)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    Passed,
    Failed,
}

impl Verdict {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Passed => "PASSED",
            Self::Failed => "FAILED",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Passed, Self::Failed].into_iter().find(|known| known.word() == word)
    }
}

/// Why the load ended before or at its plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Cause {
    /// The last stage was over.
    Completed,
    /// A person or script asked for a graceful stop; the run is judged.
    StoppedEarly,
    /// A threshold with `abort_after` was false for too long; the run is judged.
    Threshold,
    /// A second signal or `stop --abort`.
    Aborted,
    /// The owner of the run was silent for 60 s.
    OwnerLost,
    /// An agent was lost and the file says `on_agent_loss: abort`.
    AgentLost { agent: AgentId },
    /// What one agent began killed it, and killed the one that took it over.
    Poisoned { first: AgentId, second: AgentId },
    /// Every agent was lost.
    AllAgentsLost,
    /// Refused while preparing.
    FailedToStart { code: String, why: String },
}

impl Cause {
    pub fn sentence(&self) -> String {
        match self {
            Self::Completed => "completed".into(),
            Self::StoppedEarly => "stopped_early".into(),
            Self::Threshold => "threshold".into(),
            Self::Aborted => "aborted".into(),
            Self::OwnerLost => "owner_lost".into(),
            Self::AgentLost { agent } => format!("agent_lost: {agent}"),
            Self::Poisoned { first, second } if first == second => format!(
                "SH0210: agent {first} died twice right after it began: nobody else gets its devices"
            ),
            Self::Poisoned { first, second } => format!(
                "SH0210: agent {first} died right after it began, and so did {second}, which took its devices over: nobody else gets them"
            ),
            Self::AllAgentsLost => "all_agents_lost".into(),
            Self::FailedToStart { code, why } => format!("{code}: {why}"),
        }
    }

    /// The phase in which a run that was running ends for this cause.
    pub(super) fn end(&self) -> Phase {
        match self {
            Self::Completed | Self::StoppedEarly | Self::Threshold => Phase::Finished,
            Self::Aborted | Self::OwnerLost | Self::AgentLost { .. } | Self::Poisoned { .. } => {
                Phase::Aborted
            }
            Self::AllAgentsLost => Phase::Interrupted,
            Self::FailedToStart { .. } => Phase::FailedToStart,
        }
    }
}
