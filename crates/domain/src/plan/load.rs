//! The load over time: stages of a profile.

use std::ops::Range;

/// A profile of load: the file's own, or that of a group which has its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Indices into [`Plan::groups`](super::Plan::groups), ascending; they start interleaved.
    pub groups: Vec<usize>,
    /// Into [`Plan::stages`](super::Plan::stages): contiguous and half-open in time, from 0; never empty.
    pub stages: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub name: String,
    pub kind: StageKind,
    pub start_us: u64,
    pub end_us: u64,
}

/// Device counts are of the load's groups together, in start order (see [`crate::schedule`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageKind {
    /// Devices `from..to` start evenly over the stage; downwards, those last started stop first.
    Ramp {
        from: u64,
        to: u64,
    },
    Hold,
    Storm(Storm),
    /// Beside the devices that run, `arrivals` come evenly over the stage and each stays a while.
    Arrive {
        arrivals: u64,
        stay_us: u64,
    },
}

/// A part of a group leaves at once and comes back spread over a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// Index into [`Plan::groups`](super::Plan::groups).
    pub group: usize,
    /// How many leave, of how many: those of the lowest indices, which run at that time.
    pub devices: u64,
    pub of: u64,
    /// Without common divisor with `of`: device i is number `i · stride mod of` to return.
    pub stride: u64,
    pub leave: Leave,
    pub away_us: u64,
    pub back_within_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The socket closes without a word.
    Cut,
    /// DISCONNECT, after the open acknowledgements have come.
    Disconnect,
}

impl StageKind {
    /// As results tell stages apart: `drain` is a ramp downwards.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ramp { from, to } if to < from => "drain",
            Self::Ramp { .. } => "ramp",
            Self::Hold => "hold",
            Self::Storm(_) => "storm",
            Self::Arrive { .. } => "arrive",
        }
    }
}
