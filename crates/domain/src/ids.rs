//! Identities that cannot be mixed up. They carry no source of randomness: the shell gives the bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A run: `run_` and a ULID, so ids sort by the time the run was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(ulid::Ulid);

impl RunId {
    pub fn from_parts(unix_ms: u64, random: u128) -> Self {
        Self(ulid::Ulid::from_parts(unix_ms, random))
    }

    /// When it was made, in control-plane time: microseconds since 1970, to the millisecond.
    pub fn made_at_us(self) -> u64 {
        self.0.timestamp_ms().saturating_mul(1_000)
    }

    /// All 128 bits of it.
    pub fn number(self) -> u128 {
        self.0.0
    }

    /// The eight hexadecimal digits that mark this run's messages in `${stamp}` and `${run}`.
    pub fn mark(self) -> String {
        format!("{:08x}", (self.0.random() & 0xffff_ffff) as u32)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run_{}", self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no run id, which looks like run_01J9ZK3V5T8Q2W4E6R8T0Y2M4N")]
pub struct NotARunId(String);

impl FromStr for RunId {
    type Err = NotARunId;

    fn from_str(text: &str) -> Result<Self, NotARunId> {
        text.strip_prefix("run_")
            .and_then(|ulid| ulid::Ulid::from_string(ulid).ok())
            .map(Self)
            .ok_or_else(|| NotARunId(text.to_owned()))
    }
}

impl TryFrom<String> for RunId {
    type Error = NotARunId;

    fn try_from(text: String) -> Result<Self, NotARunId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.to_string()
    }
}

/// An agent, as its owner named it (`--id`); 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentId(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no agent id: 1 to 64 letters, digits, `.`, `_` or `-` are expected")]
pub struct NotAnAgentId(String);

impl AgentId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentId {
    type Err = NotAnAgentId;

    fn from_str(text: &str) -> Result<Self, NotAnAgentId> {
        let fits = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if fits { Ok(Self(text.to_owned())) } else { Err(NotAnAgentId(text.to_owned())) }
    }
}

impl TryFrom<String> for AgentId {
    type Error = NotAnAgentId;

    fn try_from(text: String) -> Result<Self, NotAnAgentId> {
        text.parse()
    }
}

impl From<AgentId> for String {
    fn from(id: AgentId) -> Self {
        id.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one agent holds of a run: epochs count the grants of a run, and those dealt at its start
/// have the first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GrantId {
    pub agent: AgentId,
    pub epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no grant, which looks like agent-1@1")]
pub struct NotAGrantId(String);

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.agent, self.epoch)
    }
}

impl FromStr for GrantId {
    type Err = NotAGrantId;

    fn from_str(text: &str) -> Result<Self, NotAGrantId> {
        let parse = || {
            let (agent, epoch) = text.rsplit_once('@')?;
            Some(Self { agent: agent.parse().ok()?, epoch: epoch.parse().ok()? })
        };
        parse().ok_or_else(|| NotAGrantId(text.to_owned()))
    }
}

impl TryFrom<String> for GrantId {
    type Error = NotAGrantId;

    fn try_from(text: String) -> Result<Self, NotAGrantId> {
        text.parse()
    }
}

impl From<GrantId> for String {
    fn from(id: GrantId) -> Self {
        id.to_string()
    }
}

/// Index of a series in [`crate::plan::Plan::series`]; the same on every machine of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SeriesId(pub u32);

impl SeriesId {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Index of a stage in [`crate::plan::Plan::stages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StageId(pub u32);

impl StageId {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Index of an observer in [`crate::plan::Plan::observers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObserverId(pub u32);

impl ObserverId {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
