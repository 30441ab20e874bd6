//! Who is connected, what each agent should hold, and what it says it holds.
//!
//! Level-triggered: the orchestrator writes desired assignments here, sessions push the whole
//! desired state whenever it changes, observations overwrite each other. Nothing here is an event
//! that could be lost. The one lock is held for map operations only, never across an await.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_domain::ids::{AgentId, GrantId, RunId};
use shoal_domain::lease::{BEAT_US, Liveness, Presence};
use shoal_proto::v1;
use tokio::sync::{mpsc, watch};

use crate::refusal::{Kind, Refusal};

pub use self::quarantine::Quarantine;
use self::quarantine::sane;

mod quarantine;

/// Messages to one agent that may wait in its session. Desired state is sent as a whole, so a full
/// queue ends the session: the agent reconnects and gets the newest.
const SESSION_QUEUE: usize = 64;

pub type SessionSender = mpsc::Sender<Result<v1::ControlMessage, tonic::Status>>;
pub type SessionReceiver = mpsc::Receiver<Result<v1::ControlMessage, tonic::Status>>;

/// An assignment id and an epoch: what an agent holds.
pub type Grant = (String, u64);

/// Under which assignment an agent holds devices of a run.
pub fn grant_key(run: RunId, id: &GrantId) -> Grant {
    (format!("{run}.{}", id.agent), id.epoch)
}

#[derive(Debug, Clone)]
pub struct Fleet {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    agents: BTreeMap<AgentId, Agent>,
    sessions: u64,
    /// This process may renew leases.
    renews: bool,
    /// When somebody last looked at the time here: a gap is an absence of our own.
    looked_us: u64,
    /// Agents that were never heard here count as heard then: another control plane may have been
    /// renewing their leases.
    heard_floor_us: u64,
    /// Agents that an operator wants to take no devices.
    drained: BTreeSet<AgentId>,
    /// Agents that are not believed any more.
    quarantined: BTreeMap<AgentId, Quarantine>,
}

/// Assignments that an agent may say something of; more than one ever holds.
const MOST_OBSERVED: usize = 1_024;

/// A process that did not run for so long has heard nobody: that is no silence of the agents.
const OWN_ABSENCE_US: u64 = 3_000_000;

/// An agent that said hello at least once to this process, or should be holding something.
#[derive(Debug)]
struct Agent {
    incarnation: String,
    predecessor: String,
    build: String,
    labels: HashMap<String, String>,
    capacity: v1::Capacity,
    liveness: Liveness,
    session: Option<(u64, SessionSender)>,
    /// It was asked to go, and wants to hand over.
    is_leaving: bool,
    /// By assignment and epoch.
    desired: BTreeMap<Grant, v1::Assignment>,
    /// What died with an earlier process of this agent: nobody may begin it in the middle.
    died: BTreeSet<Grant>,
    observed: BTreeMap<Grant, v1::Observed>,
}

/// A copy of what others may know of an agent.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: AgentId,
    pub incarnation: String,
    pub predecessor: String,
    pub build: String,
    pub labels: HashMap<String, String>,
    pub capacity: v1::Capacity,
    pub liveness: Liveness,
    pub is_connected: bool,
    /// It was asked to go, or is drained: it hands over and takes nothing.
    pub is_leaving: bool,
    /// By an operator, until that is undone.
    pub is_drained: bool,
    /// It is not believed any more.
    pub quarantine: Option<Quarantine>,
    /// Devices in all desired assignments.
    pub n_devices: u64,
    /// Run ids of the desired assignments.
    pub runs: Vec<String>,
}

impl Default for Fleet {
    fn default() -> Self {
        let state = State {
            agents: BTreeMap::new(),
            sessions: 0,
            renews: true,
            looked_us: u64::MAX,
            heard_floor_us: 0,
            drained: BTreeSet::new(),
            quarantined: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), changes: watch::Sender::new(0) }
    }
}

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves plain maps behind: they are still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whenever an agent came, left or said something new.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// To be called several times a second. After a time in which this process itself did not run
    /// (stopped, swapped out, a step of its clock) every agent counts as heard now: silence is only
    /// what we were there to listen to. Returns the length of such an absence.
    pub fn look(&self, now_us: u64) -> Option<u64> {
        let mut state = self.lock();
        let since_us = std::mem::replace(&mut state.looked_us, now_us);
        let absent_us = now_us.abs_diff(since_us);
        if since_us == u64::MAX || (now_us >= since_us && absent_us < OWN_ABSENCE_US) {
            return None;
        }
        for agent in state.agents.values_mut() {
            agent.liveness = Liveness::heard_at(now_us);
        }
        Some(absent_us)
    }

    /// Whether an agent is to take no devices any more and to hand over those that it has.
    pub fn drain(&self, id: &AgentId, is_drained: bool) {
        let mut state = self.lock();
        if is_drained {
            state.drained.insert(id.clone());
        } else {
            state.drained.remove(id);
        }
        drop(state);
        self.changed();
    }

    /// Nobody counts as silent before `until_us`: another control plane may still be renewing leases.
    pub fn respect(&self, until_us: u64) {
        self.lock().heard_floor_us = until_us;
    }

    /// Whether leases are renewed: not once this process can no longer know that it is in charge.
    pub fn renew_leases(&self, renews: bool) {
        self.lock().renews = renews;
    }

    /// Takes an agent in, answers its session number and what to send it.
    pub fn join(
        &self,
        id: &AgentId,
        hello: v1::Hello,
        now_us: u64,
    ) -> Result<(u64, SessionReceiver), Refusal> {
        let (sender, receiver) = mpsc::channel(SESSION_QUEUE);
        let hello = sane(hello);
        let mut state = self.lock();
        if let Some(quarantine) = state.quarantined.get(id) {
            return Err(quarantine.refusal(id));
        }
        if let Some(known) = state.agents.get(id) {
            let is_live = known.session.as_ref().is_some_and(|(_, sender)| !sender.is_closed())
                && known.liveness.presence(now_us, 3 * BEAT_US) == Presence::Alive;
            let is_other = known.incarnation != hello.incarnation;
            if is_live && is_other && hello.predecessor != known.incarnation {
                let message = format!("another agent with the id `{id}` is connected");
                return Err(Refusal::new(Kind::Conflict, "SH0406", message)
                    .help("give each agent its own --id and --data-dir"));
            }
        }
        state.sessions += 1;
        let session = state.sessions;
        let observed: BTreeMap<Grant, v1::Observed> = hello
            .inventory
            .into_iter()
            .map(|observed| ((observed.assignment_id.clone(), observed.epoch), observed))
            .collect();
        let (desired, died) = match state.agents.remove(id) {
            Some(known) if known.incarnation == hello.incarnation => (known.desired, known.died),
            // Another process: what it does not hold died with its predecessor. It must not begin
            // an assignment in the middle, with numbers that were given before.
            Some(known) => {
                let (held, lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    known.desired.into_iter().partition(|(grant, _)| observed.contains_key(grant));
                let mut died = known.died;
                died.extend(lost.into_keys());
                (held, died)
            }
            None => Default::default(),
        };
        let agent = Agent {
            incarnation: hello.incarnation,
            predecessor: hello.predecessor,
            build: hello.build,
            labels: hello.labels,
            capacity: hello.capacity.unwrap_or_default(),
            liveness: Liveness::heard_at(now_us),
            session: Some((session, sender)),
            is_leaving: false,
            desired,
            died,
            observed,
        };
        agent.push_desired();
        state.agents.insert(id.clone(), agent);
        drop(state);
        self.changed();
        Ok((session, receiver))
    }

    /// A session ended; an older one changes nothing.
    pub fn leave(&self, id: &AgentId, session: u64) {
        if let Some(agent) = self.lock().agents.get_mut(id)
            && agent.session.as_ref().is_some_and(|(current, _)| *current == session)
        {
            agent.session = None;
        }
        self.changed();
    }

    /// Takes a beat; answers what it renews. `None`: the session was replaced.
    pub fn beat(
        &self,
        id: &AgentId,
        session: u64,
        is_leaving: bool,
        now_us: u64,
    ) -> Option<Vec<v1::Held>> {
        let mut state = self.lock();
        let agent = state.agents.get_mut(id)?;
        if agent.session.as_ref().is_none_or(|(current, _)| *current != session) {
            return None;
        }
        agent.liveness.hear(now_us);
        let is_news = agent.is_leaving != is_leaving;
        agent.is_leaving = is_leaving;
        if is_news {
            self.changed();
        }
        if !state.renews {
            return Some(Vec::new());
        }
        let agent = state.agents.get(id)?;
        let held = |assignment: &v1::Assignment| v1::Held {
            assignment_id: assignment.assignment_id.clone(),
            epoch: assignment.epoch,
        };
        Some(agent.desired.values().map(held).collect())
    }

    pub fn observe(&self, id: &AgentId, observed: v1::Observed, now_us: u64) {
        if let Some(agent) = self.lock().agents.get_mut(id) {
            agent.liveness.hear(now_us);
            let key = (observed.assignment_id.clone(), observed.epoch);
            // Nobody says more of what it was not given than fits an inventory.
            if agent.desired.contains_key(&key) || agent.observed.len() < MOST_OBSERVED {
                agent.observed.insert(key, quarantine::sane_observed(observed));
            }
        }
        self.changed();
    }

    /// What an agent last said of an assignment.
    pub fn observed(&self, id: &AgentId, grant: &Grant) -> Option<v1::Observed> {
        self.lock().agents.get(id)?.observed.get(grant).cloned()
    }

    /// Makes an assignment desired, or changes it. An agent that is not known yet (the control
    /// plane was restarted) is awaited from `now_us` on.
    pub fn assign(&self, id: &AgentId, assignment: v1::Assignment, now_us: u64) {
        let mut state = self.lock();
        let from_us = now_us.max(state.heard_floor_us);
        let agent = state.agents.entry(id.clone()).or_insert_with(|| Agent::awaited(from_us));
        let key = (assignment.assignment_id.clone(), assignment.epoch);
        if agent.died.contains(&key) {
            return;
        }
        if agent.desired.get(&key) != Some(&assignment) {
            agent.desired.insert(key, assignment);
            agent.push_desired();
        }
    }

    /// An assignment that somebody should hold.
    pub fn wanted(&self, assignment: &str, epoch: u64) -> Option<v1::Assignment> {
        let grant = (assignment.to_owned(), epoch);
        let state = self.lock();
        state.agents.values().find_map(|agent| agent.desired.get(&grant)).cloned()
    }

    /// Whether a connected agent is the one that holds an assignment; `None` while it is away.
    pub fn holds(&self, id: &AgentId, grant: &Grant) -> Option<bool> {
        let state = self.lock();
        let agent = state.agents.get(id).filter(|agent| agent.session.is_some())?;
        Some(agent.desired.contains_key(grant))
    }

    /// Takes an assignment back.
    pub fn withdraw(&self, id: &AgentId, grant: &Grant) {
        if let Some(agent) = self.lock().agents.get_mut(id) {
            agent.died.remove(grant);
            if agent.desired.remove(grant).is_some() {
                agent.observed.remove(grant);
                agent.push_desired();
            }
        }
        self.changed();
    }

    pub fn members(&self) -> Vec<Member> {
        let state = self.lock();
        state.agents.iter().map(|(id, agent)| state.member(id, agent)).collect()
    }

    pub fn member(&self, id: &AgentId) -> Option<Member> {
        let state = self.lock();
        state.agents.get(id).map(|agent| state.member(id, agent))
    }
}

impl State {
    fn member(&self, id: &AgentId, agent: &Agent) -> Member {
        let quarantine = self.quarantined.get(id).cloned();
        Member { quarantine, ..agent.member(id, self.drained.contains(id)) }
    }
}

impl Agent {
    fn awaited(now_us: u64) -> Self {
        Self {
            incarnation: String::new(),
            predecessor: String::new(),
            build: String::new(),
            labels: HashMap::new(),
            capacity: v1::Capacity::default(),
            liveness: Liveness::heard_at(now_us),
            session: None,
            is_leaving: false,
            desired: BTreeMap::new(),
            died: BTreeSet::new(),
            observed: BTreeMap::new(),
        }
    }

    fn push_desired(&self) {
        let Some((_, sender)) = &self.session else { return };
        let assignments = self.desired.values().cloned().collect();
        let desired = v1::control_message::Message::Desired(v1::DesiredState { assignments });
        // A full queue means that nobody reads: the session ends on its next beat.
        if sender.try_send(Ok(v1::ControlMessage { message: Some(desired) })).is_err() {
            tracing::warn!("a session does not take its desired state");
        }
    }

    fn member(&self, id: &AgentId, is_drained: bool) -> Member {
        let devices = |assignment: &v1::Assignment| {
            assignment.blocks.iter().map(|block| block.end - block.first).sum::<u64>()
        };
        Member {
            id: id.clone(),
            incarnation: self.incarnation.clone(),
            predecessor: self.predecessor.clone(),
            build: self.build.clone(),
            labels: self.labels.clone(),
            capacity: self.capacity,
            liveness: self.liveness,
            is_connected: self.session.as_ref().is_some_and(|(_, sender)| !sender.is_closed()),
            is_leaving: self.is_leaving || is_drained,
            is_drained,
            quarantine: None,
            n_devices: self.desired.values().map(devices).sum(),
            runs: self.desired.values().map(|a| a.run_id.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
