//! What is the case: who is there, what each says of what it holds, and what follows from that.
//! Repeating any of it changes nothing.

use std::collections::BTreeMap;

use shoal_domain::ids::{GrantId, ObserverId};
use shoal_domain::lease::{BEAT_US, Presence};
use shoal_domain::plan::OnAgentLoss;
use shoal_domain::roster::{
    AgentSeen, Changes, Ended, Grant, GrantSeen, Policy, Reader, Roster, Why,
};
use shoal_domain::run::{Phase, RunEvent, RunState};
use shoal_proto::v1;

use super::Driver;
use crate::fleet;
use crate::orchestrator::placement::{Placed, barred, place};

impl Driver {
    pub(super) fn policy(&self) -> Policy {
        let last_us = self.plan.max_duration_us.unwrap_or(u64::MAX);
        Policy {
            on_loss: self.plan.fleet.on_agent_loss,
            rebalance: self.plan.fleet.rebalance,
            spawn_rate: self.plan.spawn_rate(),
            load_end_us: self.record.load_end_us.min(last_us),
            is_running: matches!(self.record.state, RunState::Running { .. })
                && self.wished_stop.is_none()
                && self.told_end_us.is_none(),
            is_reading: self.record.state.may_be_read() && self.wished_stop != Some(true),
        }
    }

    /// Lets the roster decide on what agents are and say now.
    pub(super) fn step_roster(&mut self, roster: &mut Roster, now_us: u64) -> Changes {
        // What they say is read before who is there: a process that proves its predecessor's death
        // must be seen as one that can take up its devices.
        let seen: BTreeMap<GrantId, GrantSeen> =
            roster.ids().map(|id| (id.clone(), self.seen(&id))).collect();
        let seen = |id: &GrantId| seen.get(id).copied().unwrap_or_default();
        let Some(t0_us) = self.record.state.t0_us() else {
            // Before the start nobody holds anything that could move.
            let policy =
                Policy { is_running: true, on_loss: OnAgentLoss::Continue, ..self.policy() };
            return roster.step(&policy, &self.agents(0, now_us), seen, 0);
        };
        let run_us = now_us.saturating_sub(t0_us);
        let agents = self.agents(t0_us, now_us);
        roster.step(&self.policy(), &agents, seen, run_us)
    }

    pub(super) fn agents(&mut self, t0_us: u64, now_us: u64) -> Vec<AgentSeen> {
        let lease_us = self.plan.fleet.lease_us;
        let members = self.runs.fleet.members();
        for member in &members {
            let region = member.labels.get("region").cloned().unwrap_or_default();
            self.regions.insert(member.id.clone(), region);
        }
        members
            .into_iter()
            .map(|member| AgentSeen {
                weight: if member.capacity.weight > 0.0 { member.capacity.weight } else { 1.0 },
                free: member.capacity.max_devices.saturating_sub(member.n_devices),
                is_connected: member.is_connected,
                is_alive: member.liveness.presence(now_us, 3 * BEAT_US) == Presence::Alive,
                is_lost: member.liveness.presence(now_us, lease_us) == Presence::Lost,
                is_quarantined: member.quarantine.is_some(),
                is_leaving: member.is_leaving,
                heard_us: member.liveness.last_heard_us().saturating_sub(t0_us),
                barred: barred(&self.plan, &member.labels),
                id: member.id,
            })
            .collect()
    }

    pub(super) fn seen(&self, id: &GrantId) -> GrantSeen {
        use v1::AssignmentPhase as P;
        let roster = &self.record.roster;
        let reader = roster.reader(id);
        let key = reader.map_or_else(|| self.grant_key(id), |reader| self.reader_key(reader));
        let is_live = roster.grant(id).map(Grant::is_live).or_else(|| reader.map(Reader::is_live))
            == Some(true);
        // After the end nobody is to hold anything, so that nobody does says nothing.
        let phase = self.record.state.phase();
        let is_assigned = phase >= Phase::Preparing && !phase.is_over() && is_live;
        let read_through_us = self.runs.live.read(self.row.run_id, |live| {
            live.parts.get(&key).filter(|_| reader.is_some()).map(|part| part.through_us)
        });
        let mut seen = GrantSeen {
            // Only what was assigned can be missing.
            is_held: self.runs.fleet.holds(&id.agent, &key).filter(|_| is_assigned),
            read_through_us: read_through_us.flatten().unwrap_or(0),
            ..GrantSeen::default()
        };
        let Some(observed) = self.runs.fleet.observed(&id.agent, &key) else { return seen };
        (seen.handover, seen.handover_late) = (observed.handover, observed.handover_late);
        match observed.phase() {
            P::Prepared => seen.is_prepared = observed.plan_hash == self.plan.hash(),
            P::Refused => seen.is_refused = true,
            P::Closed => seen.closed_at_us = Some(observed.closed_at_us),
            P::Fenced => {
                (seen.closed_at_us, seen.is_fenced) = (Some(observed.closed_at_us), true);
            }
            P::Unspecified | P::Preparing | P::Running => {}
        }
        seen
    }

    /// What is the case for one grant, as events; repeating one changes nothing.
    pub(super) fn observe_held(
        &self,
        id: &GrantId,
        key: &fleet::Grant,
        ended: Option<&Ended>,
    ) -> Vec<RunEvent> {
        use v1::AssignmentPhase as P;
        let (id, mut events) = (id.clone(), Vec::new());
        let is_delivered = self.runs.live.read(self.row.run_id, |live| {
            live.parts.get(key).is_some_and(|part| part.is_delivered)
        });
        if is_delivered == Some(true) {
            events.push(RunEvent::Closed { grant: id.clone() });
            events.push(RunEvent::Delivered { grant: id });
            return events;
        }
        match ended.map(|ended| ended.why) {
            Some(why) if why.is_silent() => {
                let is_loss = matches!(why, Why::Lost | Why::Restarted | Why::Quarantined);
                let abort = is_loss && self.plan.fleet.on_agent_loss == OnAgentLoss::Abort;
                events.push(RunEvent::Lost { grant: id, abort });
                return events;
            }
            Some(_) => {
                let abort = self.plan.fleet.on_agent_loss == OnAgentLoss::Abort;
                if abort && matches!(self.record.state, RunState::Running { .. }) {
                    events.push(RunEvent::Lost { grant: id.clone(), abort });
                }
                events.push(RunEvent::Closed { grant: id });
                return events;
            }
            None => {}
        }
        if let Some(observed) = self.runs.fleet.observed(&id.agent, key) {
            match observed.phase() {
                P::Prepared if observed.plan_hash == self.plan.hash() => {
                    events.push(RunEvent::Prepared { grant: id });
                    events.extend(observed.probed.into_iter().map(probed));
                }
                P::Prepared => events.push(RunEvent::Refused {
                    grant: id,
                    code: "SH0209".into(),
                    why: "its plan differs: it runs another build".into(),
                }),
                P::Refused => events.push(RunEvent::Refused {
                    grant: id,
                    code: observed.error_code,
                    why: observed.error,
                }),
                P::Closed | P::Fenced => events.push(RunEvent::Closed { grant: id }),
                P::Unspecified | P::Preparing | P::Running => {}
            }
        }
        events
    }

    pub(super) fn try_placement(
        &mut self,
        deadline_us: u64,
        now_us: u64,
    ) -> Option<Result<Placed, RunEvent>> {
        let members = self.runs.fleet.members();
        match place(&self.plan, &members, self.record.agents_wanted, now_us) {
            Ok(dealt) => Some(Ok(dealt)),
            Err(unplaceable) if now_us >= deadline_us => Some(Err(RunEvent::Unplaceable {
                code: unplaceable.code.to_owned(),
                why: unplaceable.why,
            })),
            Err(_) => None,
        }
    }
}

fn probed(said: v1::Probed) -> RunEvent {
    let observer = ObserverId(said.observer);
    match said.sent {
        sent if sent.is_empty() => RunEvent::ProbeSeen { observer },
        what => RunEvent::ProbeSent { observer, what },
    }
}
