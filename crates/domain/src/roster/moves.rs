//! What a person reads of devices that changed hands.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Roster, Why};
use crate::ids::{AgentId, GrantId};

/// Devices that went from one agent to others: what a person reads of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Move {
    pub giver: GrantId,
    pub why: Why,
    pub devices: u64,
    /// Run time from which the first of them were without agent: the giver's last sign of life.
    pub from_us: u64,
    /// Run time at which the last of them began elsewhere; `None`: some have not.
    pub until_us: Option<u64>,
    pub takers: BTreeSet<AgentId>,
}

impl Move {
    /// What every face shows of it.
    pub fn sentence(&self) -> String {
        let (agent, devices) = (&self.giver.agent, grouped(self.devices));
        let what = match self.why {
            Why::Lost => format!("agent {agent} was lost"),
            Why::Restarted => format!("agent {agent} was restarted"),
            Why::Quarantined => format!("agent {agent} was quarantined"),
            Why::Fenced => format!("agent {agent} was cut off until its lease ended"),
            Why::Left => format!("agent {agent} left"),
            Why::Refused | Why::Dropped => format!("agent {agent} could not go on"),
            Why::HandedOver => {
                let s = self.seconds().unwrap_or_default();
                return format!("agent {agent} handed over {devices} devices in {s} s");
            }
        };
        match self.seconds() {
            Some(s) => format!("{what}: {devices} devices without agent, moved in {s} s"),
            None => format!("{what}: {devices} devices without agent"),
        }
    }

    fn seconds(&self) -> Option<u64> {
        self.until_us.map(|until_us| until_us.saturating_sub(self.from_us).div_ceil(1_000_000))
    }
}

/// 3000 as 3,000.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Roster {
    /// Follows the devices back to the loss that they are part of.
    pub(super) fn note_begin(&mut self, at: usize, last_us: u64) {
        let taker = &self.grants[at];
        let (agent, devices) = (taker.id.agent.clone(), taker.devices());
        let handed_over = taker.base_us;
        let mut giver = taker.giver.clone();
        while let Some(id) = giver {
            let grant = self.grant(&id);
            let why = grant.and_then(|grant| grant.ended.as_ref()).map(|ended| ended.why);
            let why = if handed_over.is_some() { Some(Why::HandedOver) } else { why };
            let same = |known: &&mut Move| known.giver == id && Some(known.why) == why;
            match (self.moves.iter_mut().find(same), handed_over) {
                (Some(known), _) => {
                    known.takers.insert(agent);
                    known.until_us = known.until_us.max(Some(last_us));
                    known.devices += if handed_over.is_some() { devices } else { 0 };
                    return;
                }
                (None, Some(from_us)) => {
                    self.moves.push(Move {
                        giver: id,
                        why: Why::HandedOver,
                        devices,
                        from_us,
                        until_us: Some(last_us),
                        takers: BTreeSet::from([agent]),
                    });
                    return;
                }
                (None, None) => giver = self.grant(&id).and_then(|grant| grant.giver.clone()),
            }
        }
    }
}
