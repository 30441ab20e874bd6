//! One run: observe, decide, store, act. Every step starts from what is true now, so a step that
//! failed (the database was away) is simply done again.
//!
//! What agents hold is decided by [`Roster::step`], how the run moves by [`apply`]; this file asks
//! both and makes the answers true. Only an end of the load is told before it is stored when the
//! store does not answer: nobody may have to wait for a database to stop a load.

mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_domain::account::{Holding, Until, account, applied};
use shoal_domain::ids::{AgentId, GrantId, RunId};
use shoal_domain::lease::{BEAT_US, GRACE_US, Presence};
use shoal_domain::plan::{OnAgentLoss, Plan};
use shoal_domain::report::ThresholdResult;
use shoal_domain::roster::{
    AgentSeen, Changes, Ended, Grant, GrantSeen, Move, Policy, Reader, Roster, Why,
};
use shoal_domain::run::{Limits, Phase, RunCommand, RunEvent, RunState, apply};
use shoal_domain::schedule::Timetable;
use shoal_domain::shard::Shard;
use shoal_domain::verdict;
use shoal_proto::{assignment, v1};
use shoal_service_kit::{Clock, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::reading::{Reading, deal_reads};
use super::compaction::{compact, decode, repair};
use super::placement::{Placed, barred, place};
use super::{Runs, Status, Wish, scale};
use crate::fleet;
use crate::live::{LivePart, LiveRun};
use crate::query;
use crate::record::{Record, Scaled, grant_of, overrides_of, shard_of, shard_to_blob};
use crate::refusal::{Kind, Refusal};
use crate::store::{GrantChanges, NewAssignment, NewEvent, RunChange, RunRow, StoreError};
use crate::trackers::Trackers;

const TICK: Duration = Duration::from_millis(100);
const COMPACT_EVERY_US: u64 = 30_000_000;
/// Deltas younger than this may still get company in their window.
const COMPACT_AGE_US: i64 = 10_000_000;
/// How often thresholds are judged while the load goes on.
const JUDGE_EVERY_US: u64 = 1_000_000;
/// An owned run whose owner was silent for so long is stopped.
const OWNER_SILENCE_US: u64 = 60_000_000;
/// An end of the load is told to the agents after this, stored or not.
const STORE_PATIENCE: Duration = Duration::from_millis(500);
/// The store must have answered this shortly before t0, or nobody begins.
const LAST_LOOK_US: u64 = 700_000;
const LAST_LOOK: Duration = Duration::from_millis(400);

pub(super) struct Driver {
    runs: Runs,
    row: RunRow,
    plan: Arc<Plan>,
    timetable: Timetable,
    record: Record,
    limits: Limits,
    regions: BTreeMap<AgentId, String>,
    reading: Reading,
    publish: watch::Sender<Status>,
    owner_heard_us: u64,
    wished_stop: Option<bool>,
    compacted_us: u64,
    /// Ends with the compaction that goes on.
    compacting: Option<tokio::sync::oneshot::Receiver<()>>,
    judged_us: u64,
    /// As in the record, which takes it over at the next event.
    false_since_us: BTreeMap<usize, u64>,
    /// An end that agents were told before it could be stored: run time.
    told_end_us: Option<u64>,
    /// The store answered after the run was armed.
    is_confirmed: bool,
    /// The store did not answer while nobody had sent yet.
    is_store_away: bool,
    /// Another process drives this run.
    is_disowned: bool,
}

impl Driver {
    /// Takes a run up, new or left behind by an earlier process.
    pub(super) async fn new(
        runs: Runs,
        row: RunRow,
        plan: Arc<Plan>,
        publish: watch::Sender<Status>,
        now_us: u64,
    ) -> Result<Self, Refusal> {
        let record = publish.borrow().record.clone();
        let false_since_us = record.false_since_us.clone();
        let limits = Limits {
            duration_us: plan.end_us(),
            stop_timeout_us: plan.stop_timeout_us,
            drain_us: plan.drain_us(),
            lost_after_us: plan.fleet.lease_us + GRACE_US,
        };
        let mut driver = Self {
            timetable: Timetable::new(Arc::clone(&plan), row.seed, &record.revisions()),
            runs,
            row,
            plan,
            record,
            limits,
            regions: BTreeMap::new(),
            reading: Reading::default(),
            publish,
            owner_heard_us: now_us,
            wished_stop: None,
            compacted_us: now_us,
            compacting: None,
            judged_us: now_us,
            false_since_us,
            told_end_us: None,
            is_confirmed: false,
            is_store_away: false,
            is_disowned: false,
        };
        driver.read_grants().await?;
        driver.read_live().await?;
        driver.find_begins().await?;
        driver.assign_all(now_us);
        Ok(driver)
    }

    /// The blocks of all grants, which the record does not hold.
    async fn read_grants(&mut self) -> Result<(), Refusal> {
        for row in self.runs.store.assignments(self.row.run_id).await? {
            let shard = shard_of(&self.plan, &row)?;
            let at = grant_of(&self.record.roster, &row).map(|grant| grant.id.clone());
            let grants = &mut self.record.roster.grants;
            if let Some(grant) = grants.iter_mut().find(|grant| Some(&grant.id) == at.as_ref()) {
                grant.blocks = shard.blocks;
            }
        }
        Ok(())
    }

    /// What was stored of the run so far, back into memory.
    async fn read_live(&mut self) -> Result<(), Refusal> {
        let store = &self.runs.store;
        let trackers = Trackers::restored(&self.plan, &store.trackers(self.row.run_id).await?)?;
        let mut live = LiveRun::with(trackers);
        for row in store.assignments(self.row.run_id).await? {
            if row.closing.is_some() {
                let grant = (row.grant.assignment_id, row.grant.epoch as u64);
                live.add(&self.plan, &grant, &Default::default(), true);
            }
        }
        for row in store.summaries(self.row.run_id).await? {
            let delta = decode("summaries", &row.assignment_id, &row.body)?;
            live.add(&self.plan, &(row.assignment_id, row.epoch as u64), &delta, false);
        }
        for row in store.unfolded(self.row.run_id, None).await? {
            let delta = decode("deltas", &row.assignment_id, &row.body)?;
            live.add(&self.plan, &(row.assignment_id, row.epoch as u64), &delta, false);
        }
        self.runs.live.open(self.row.run_id, live);
        Ok(())
    }

    pub(super) async fn run(mut self, mut wishes: mpsc::Receiver<Wish>, soft: CancellationToken) {
        let mut changes = self.runs.fleet.changes();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = changes.changed() => {}
                Some(wish) = wishes.recv() => match wish {
                    Wish::Stop { abort } => {
                        self.wished_stop = Some(abort || self.wished_stop == Some(true));
                    }
                    Wish::Scale(wanted, answer) => {
                        // Whoever asked may be gone; what was stored is in force all the same.
                        let _ = answer.send(self.scale(&wanted).await);
                        continue;
                    }
                    Wish::OwnerBeat => {
                        self.owner_heard_us = SystemClock.unix_us();
                        continue;
                    }
                },
                // The run goes on without us: the next process reads it from the store.
                () = soft.cancelled() => return,
            }
            if let Err(error) = self.step().await {
                tracing::warn!(run = %self.row.run_id, %error, "step is repeated");
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(500)) => {}
                    () = soft.cancelled() => return,
                }
            }
            if self.record.state.phase().is_over() || self.is_disowned {
                return;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Refusal> {
        let now_us = SystemClock.unix_us();
        if let Some(absent_us) = self.runs.fleet.look(now_us) {
            tracing::warn!(
                absent_us,
                "this process did not run for a while: agents are not blamed"
            );
        }
        self.look_at_the_store(now_us).await;
        let mut events = Vec::new();
        if let Some(abort) = self.wished_stop {
            events.push(RunEvent::Stop { abort });
        }
        let mut roster = self.record.roster.clone();
        let mut changes = Changes::default();
        if let RunState::Pending { deadline_us } = self.record.state {
            match self.try_placement(deadline_us, now_us) {
                Some(Ok(dealt)) => {
                    let agents: Vec<AgentId> =
                        dealt.iter().map(|(agent, _)| agent.clone()).collect();
                    roster = Roster::dealt(dealt).reading(deal_reads(&self.plan, &agents));
                    changes.granted = (0..roster.grants.len()).collect();
                    changes.read = (0..roster.readers.len()).collect();
                    events.push(RunEvent::Assigned { agents: roster.ids().collect() });
                }
                Some(Err(event)) => events.push(event),
                None => {}
            }
        } else if !self.record.state.phase().is_over() {
            changes = self.step_roster(&mut roster, now_us);
            let taken = changes.granted.iter().map(|at| roster.grants[*at].id.clone());
            let read = changes.read.iter().map(|at| roster.readers[*at].id.clone());
            events.extend(taken.chain(read).map(|grant| RunEvent::Taken { grant }));
            for grant in &roster.grants {
                let key = self.grant_key(&grant.id);
                events.extend(self.observe_held(&grant.id, &key, grant.ended.as_ref()));
            }
            for reader in &roster.readers {
                let (id, key) = (reader.id.clone(), self.reader_key(reader));
                events.extend(self.observe_held(&id, &key, reader.ended.as_ref()));
                // It puts no load on anything, so the end of the load need not wait for it.
                events.push(RunEvent::Closed { grant: id });
            }
        }
        if self.record.is_owned && now_us >= self.owner_heard_us + OWNER_SILENCE_US {
            events.push(RunEvent::OwnerSilent);
        }
        if self.is_breached(now_us) {
            events.push(RunEvent::Threshold);
        }
        if self.is_store_away {
            events.push(RunEvent::StoreAway);
        }
        events.push(RunEvent::Tick);
        self.advance(events, roster, &changes, now_us).await?;
        if self.find_begins().await? {
            self.assign_all(now_us);
        }
        self.drain(now_us);
        self.compact_now_and_then(now_us);
        Ok(())
    }

    /// Right before t0, when nobody has sent yet: a run that could not be stored must not begin.
    async fn look_at_the_store(&mut self, now_us: u64) {
        let RunState::Armed { t0_us, .. } = self.record.state else { return };
        if self.is_confirmed || self.is_store_away || now_us + LAST_LOOK_US < t0_us {
            return;
        }
        match tokio::time::timeout(LAST_LOOK, self.runs.store.ping()).await {
            Ok(Ok(())) => self.is_confirmed = true,
            Ok(Err(_)) | Err(_) => self.is_store_away = true,
        }
    }

    fn grant_key(&self, id: &GrantId) -> fleet::Grant {
        fleet::grant_key(self.row.run_id, id)
    }

    fn reader_key(&self, reader: &Reader) -> fleet::Grant {
        let (devices, epoch) = self.grant_key(&reader.id);
        // An agent id has no colon.
        (format!("{devices}:{}", self.plan.observers[reader.of.observer.index()].name), epoch)
    }

    fn policy(&self) -> Policy {
        let last_us = self.plan.max_duration_us.unwrap_or(u64::MAX);
        Policy {
            on_loss: self.plan.fleet.on_agent_loss,
            rebalance: self.plan.fleet.rebalance,
            spawn_rate: self.plan.spawn_rate(),
            load_end_us: self.record.load_end_us.min(last_us),
            is_running: matches!(self.record.state, RunState::Running { .. })
                && self.wished_stop.is_none()
                && self.told_end_us.is_none(),
        }
    }

    /// Lets the roster decide on what agents are and say now.
    fn step_roster(&mut self, roster: &mut Roster, now_us: u64) -> Changes {
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

    fn agents(&mut self, t0_us: u64, now_us: u64) -> Vec<AgentSeen> {
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
                is_leaving: member.is_leaving,
                heard_us: member.liveness.last_heard_us().saturating_sub(t0_us),
                barred: barred(&self.plan, &member.labels),
                id: member.id,
            })
            .collect()
    }

    fn seen(&self, id: &GrantId) -> GrantSeen {
        use v1::AssignmentPhase as P;
        let roster = &self.record.roster;
        let reader = roster.reader(id);
        let key = reader.map_or_else(|| self.grant_key(id), |reader| self.reader_key(reader));
        let is_live = roster.grant(id).map(Grant::is_live).or_else(|| reader.map(Reader::is_live))
            == Some(true);
        let is_assigned = self.record.state.phase() >= Phase::Preparing && is_live;
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
    fn observe_held(
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
                let is_loss = matches!(why, Why::Lost | Why::Restarted);
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

    fn try_placement(&mut self, deadline_us: u64, now_us: u64) -> Option<Result<Placed, RunEvent>> {
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

    /// A grant as its agent is to hold it now.
    fn wire(&self, grant: &Grant) -> Result<v1::Assignment, Refusal> {
        let share = grant.devices() as f64 / self.plan.devices().max(1) as f64;
        let overrides = overrides_of(&self.row)?
            .into_iter()
            .map(|(name, value)| v1::Override { name, value })
            .collect();
        let (assignment_id, epoch) = self.grant_key(&grant.id);
        let t0_us = self.record.state.t0_us().filter(|_| grant.from_us.is_some());
        let shard = Shard { blocks: grant.blocks.clone() };
        let load_end_us = self.record.load_end_us.min(self.told_end_us.unwrap_or(u64::MAX));
        Ok(v1::Assignment {
            assignment_id,
            epoch,
            run_id: self.row.run_id.to_string(),
            scenario: self.row.scenario_text.clone(),
            overrides,
            plan_hash: self.plan.hash().to_vec(),
            seed: self.row.seed,
            blocks: assignment::blocks_to_wire(&shard),
            from_us: grant.from_us.unwrap_or(0),
            handover: grant.handover,
            lease_us: self.plan.fleet.lease_us,
            t0_us: t0_us.unwrap_or(0),
            end_us: load_end_us,
            abort: self.record.state.is_abort(),
            // A batch must not wait for the one before it.
            spawn_rate: (scale::spawn_rate(&self.plan, &self.record) * share).max(1.0),
            revisions: assignment::revisions_to_wire(&self.record.revisions()),
            builtin: self.record.builtin.clone(),
            not_after_us: self.plan.max_duration_us.unwrap_or(u64::MAX).min(self.plan.end_us()),
            has_files: !self.plan.files.is_empty(),
            observe: None,
        })
    }

    /// Applies what happened: compute, store, then act.
    async fn advance(
        &mut self,
        events: Vec<RunEvent>,
        roster: Roster,
        changes: &Changes,
        now_us: u64,
    ) -> Result<(), Refusal> {
        let (mut state, mut commands, mut phases) =
            (self.record.state.clone(), Vec::new(), Vec::new());
        for event in events {
            match apply(state.clone(), event, now_us, &self.limits) {
                Ok((next, more)) => {
                    if next.phase() != state.phase() {
                        phases.push((next.phase(), next.cause().map(|cause| cause.sentence())));
                    }
                    state = next;
                    commands.extend(more);
                }
                Err(illegal) => tracing::warn!(run = %self.row.run_id, %illegal, "ignored"),
            }
        }
        let false_since_us = self.false_since_us.clone();
        let mut record = Record { state, false_since_us, roster, ..self.record.clone() };
        if commands.iter().any(|command| matches!(command, RunCommand::Arm { .. })) {
            record.keep_starts(&self.told_starts());
        }
        for command in &commands {
            if let (RunCommand::End { at_us, .. }, Some(t0_us)) = (command, record.state.t0_us()) {
                let end_us = at_us.saturating_sub(t0_us).min(self.told_end_us.unwrap_or(u64::MAX));
                record.load_end_us = record.load_end_us.min(end_us);
            }
        }
        if record == self.record {
            return Ok(());
        }
        let judged = if commands.contains(&RunCommand::Judge) {
            self.tell_early(&record, &commands, now_us);
            Some(self.judge(&record).await?)
        } else {
            None
        };
        let mut kept: Vec<NewEvent> = Vec::new();
        let mut keep = |kind: &str, text: String| {
            kept.push(NewEvent { at_us: now_us as i64, kind: kind.to_owned(), text });
        };
        for (phase, cause) in &phases {
            let text = format!("{} {}", phase.word(), cause.clone().unwrap_or_default());
            keep("phase", text.trim_end().to_owned());
        }
        for (kind, text) in move_events(&self.record.roster, &record.roster) {
            keep(kind, text);
        }
        self.persist(record, judged, changes, &kept, &commands, now_us).await?;
        for (phase, _) in &phases {
            tracing::info!(run = %self.row.run_id, phase = phase.word(), "run");
        }
        for command in commands {
            self.act(&command);
        }
        self.assign_all(now_us);
        Ok(())
    }

    /// Repairs, folds the rest and makes the document whose verdict is stored with the last phase.
    async fn judge(&mut self, record: &Record) -> Result<query::Judged, Refusal> {
        if let Some(compacting) = self.compacting.take() {
            // Gone without a word is gone as well.
            let _ = compacting.await;
        }
        // From here on late deltas hear that the run is over; what was acked is folded and judged.
        let (store, run, epoch) = (&self.runs.store, self.row.run_id, self.row.owner_epoch);
        store.stop_intake(run).await?;
        compact(store, run, epoch, None, &self.region_of(), &self.plan).await?;
        repair(store, run, epoch).await?;
        query::judge_and_keep(store, &self.row, &self.plan, record).await
    }

    async fn persist(
        &mut self,
        record: Record,
        judged: Option<query::Judged>,
        changes: &Changes,
        events: &[NewEvent],
        commands: &[RunCommand],
        now_us: u64,
    ) -> Result<(), Refusal> {
        let phase = record.state.phase();
        let change = RunChange {
            run_id: self.row.run_id,
            version: self.row.version,
            owner_epoch: self.row.owner_epoch,
            phase,
            state_json: record.to_json(),
            validity: judged.and_then(|judged| judged.validity),
            verdict: judged.and_then(|judged| judged.verdict),
            exit_code: judged.map(|judged| i64::from(judged.exit_code)),
            cause: record.state.cause().map(|cause| cause.sentence()),
            t0_us: record.state.t0_us().map(|us| us as i64),
            ended_at_us: phase.is_over().then_some(now_us as i64),
        };
        let grants = self.grant_changes(&record.roster, changes);
        let store = self.runs.store.clone();
        let mut stored = Box::pin(store.change_run_and_grants(&change, events, &grants));
        let stored = match tokio::time::timeout(STORE_PATIENCE, &mut stored).await {
            Ok(stored) => stored,
            Err(_) => {
                self.tell_early(&record, commands, now_us);
                stored.await
            }
        };
        match stored {
            Ok(version) => self.row.version = version,
            Err(error) => {
                self.tell_early(&record, commands, now_us);
                return Err(self.not_stored(error).await);
            }
        }
        self.record = record.clone();
        let exit_code = judged.map(|judged| judged.exit_code);
        self.publish.send_replace(Status { record, exit_code });
        Ok(())
    }

    fn grant_changes(&self, roster: &Roster, changes: &Changes) -> GrantChanges {
        let rows = |which: &BTreeSet<usize>| -> Vec<NewAssignment> {
            which.iter().map(|at| self.assignment_row(&roster.grants[*at])).collect()
        };
        let read = || changes.read.iter().map(|at| &roster.readers[*at]);
        let mut granted = rows(&changes.granted);
        granted.extend(read().map(|reader| self.reader_row(reader)));
        let superseded = read()
            .filter_map(|reader| roster.predecessor(reader))
            .map(|before| self.reader_key(before))
            .map(|(assignment_id, epoch)| (assignment_id, epoch as i64))
            .collect();
        GrantChanges { granted, cut: rows(&changes.cut), superseded }
    }

    fn assignment_row(&self, grant: &Grant) -> NewAssignment {
        let (assignment_id, epoch) = self.grant_key(&grant.id);
        let incarnation = grant.blocks.iter().map(|block| block.incarnation).max().unwrap_or(0);
        NewAssignment {
            assignment_id,
            epoch: epoch as i64,
            run_id: self.row.run_id,
            agent_id: grant.id.agent.to_string(),
            n_devices: grant.devices() as i64,
            blocks: shard_to_blob(&Shard { blocks: grant.blocks.clone() }),
            incarnation: i64::from(incarnation),
        }
    }

    /// An end that cannot be stored yet is told all the same: it only ever makes the load less.
    fn tell_early(&mut self, record: &Record, commands: &[RunCommand], now_us: u64) {
        let ends = |command: &RunCommand| matches!(command, RunCommand::End { .. });
        if commands.iter().any(ends) && self.told_end_us.is_none() {
            self.told_end_us = Some(record.load_end_us);
            let before = std::mem::replace(&mut self.record.state, record.state.clone());
            self.assign_all(now_us);
            self.record.state = before;
        }
        if commands.contains(&RunCommand::Disarm) {
            self.act(&RunCommand::Disarm);
        }
    }

    /// After a change that was not confirmed: what does the store say now?
    async fn not_stored(&mut self, error: StoreError) -> Refusal {
        if !matches!(error, StoreError::Conflict { .. }) {
            let is_before_the_start =
                matches!(self.record.state.phase(), Phase::Preparing | Phase::Armed);
            self.is_store_away |= is_before_the_start;
            return error.into();
        }
        // Ours after all, and only the confirmation was lost; or somebody else's.
        match self.runs.store.run(self.row.run_id).await {
            Ok(Some(row)) if row.owner_epoch == self.row.owner_epoch => {
                if let Ok(record) = Record::of(&row) {
                    self.record = record;
                    self.row = row;
                    if let Err(refusal) = self.read_grants().await {
                        return refusal;
                    }
                }
            }
            Ok(_) => self.is_disowned = true,
            Err(error) => return error.into(),
        }
        Refusal::new(Kind::Conflict, "SH0504", error.to_string())
    }

    fn act(&mut self, command: &RunCommand) {
        match command {
            RunCommand::Arm { .. } => {}
            RunCommand::End { abort, .. } => {
                self.wished_stop = self.wished_stop.filter(|wished_abort| *wished_abort && !abort);
            }
            RunCommand::Disarm | RunCommand::Judge => {
                for grant in &self.record.roster.grants {
                    self.runs.fleet.withdraw(&grant.id.agent, &self.grant_key(&grant.id));
                }
                for reader in &self.record.roster.readers {
                    self.runs.fleet.withdraw(&reader.id.agent, &self.reader_key(reader));
                }
            }
        }
    }

    /// Brings what agents should hold up to what is stored.
    fn assign_all(&self, now_us: u64) {
        let phase = self.record.state.phase();
        if phase == Phase::Pending || phase.is_over() || self.is_store_away {
            return;
        }
        for grant in &self.record.roster.grants {
            // Who closed by itself is still to say what it measured; it needs no lease for that.
            match &grant.ended {
                Some(_) => self.runs.fleet.withdraw(&grant.id.agent, &self.grant_key(&grant.id)),
                None => self.assign(&grant.id.agent, self.wire(grant), now_us),
            }
        }
        for reader in &self.record.roster.readers {
            match &reader.ended {
                Some(_) => self.runs.fleet.withdraw(&reader.id.agent, &self.reader_key(reader)),
                None if self.is_waiting(reader) => {}
                None => self.assign(&reader.id.agent, self.reader_wire(reader), now_us),
            }
        }
    }

    fn assign(&self, agent: &AgentId, wire: Result<v1::Assignment, Refusal>, now_us: u64) {
        match wire {
            Ok(wire) => self.runs.fleet.assign(agent, wire, now_us),
            Err(refusal) => tracing::error!(%refusal, "an assignment cannot be written"),
        }
    }

    /// Changes the running load: checked, stored, then told.
    async fn scale(&mut self, wanted: &scale::Wanted) -> Result<Scaled, Refusal> {
        let now_us = SystemClock.unix_us();
        let scaled = scale::decide(wanted, &self.timetable, &self.record, now_us)?;
        let mut record = self.record.clone();
        record.scaled.push(scaled.clone());
        let event = NewEvent {
            at_us: now_us as i64,
            kind: "scaled".into(),
            text: scaled.sentence(&self.plan),
        };
        self.persist(record, None, &Changes::default(), &[event], &[], now_us).await?;
        let revisions = self.record.revisions();
        self.timetable = Timetable::new(Arc::clone(&self.plan), self.row.seed, &revisions);
        self.assign_all(now_us);
        Ok(scaled)
    }

    fn region_of(&self) -> BTreeMap<String, String> {
        let region = |grant: &Grant| {
            let region = self.regions.get(&grant.id.agent).cloned().unwrap_or_default();
            (self.grant_key(&grant.id).0, region)
        };
        self.record.roster.grants.iter().map(region).collect()
    }

    /// In a task of its own: a slow store must not keep the run from being stopped.
    fn compact_now_and_then(&mut self, now_us: u64) {
        use tokio::sync::oneshot::error::TryRecvError;
        if let Some(mut done) = self.compacting.take()
            && done.try_recv() == Err(TryRecvError::Empty)
        {
            self.compacting = Some(done);
            return;
        }
        if now_us < self.compacted_us + COMPACT_EVERY_US {
            return;
        }
        self.compacted_us = now_us;
        let (over, done) = tokio::sync::oneshot::channel::<()>();
        self.compacting = Some(done);
        let (store, regions, plan) =
            (self.runs.store.clone(), self.region_of(), Arc::clone(&self.plan));
        let (run, epoch) = (self.row.run_id, self.row.owner_epoch);
        self.runs.lifecycle.spawn("compaction", async move {
            let _over = over;
            let before_us = now_us as i64 - COMPACT_AGE_US;
            if let Err(error) = compact(&store, run, epoch, Some(before_us), &regions, &plan).await
            {
                tracing::warn!(%run, %error, "compaction is done later");
            }
        });
    }

    /// Keeps since when each threshold has been false; whether one has been so for its
    /// `abort_after`.
    fn is_breached(&mut self, now_us: u64) -> bool {
        let is_due = now_us >= self.judged_us + JUDGE_EVERY_US;
        let (Phase::Running, true, Some(t0_us)) =
            (self.record.state.phase(), is_due, self.record.state.t0_us())
        else {
            return false;
        };
        self.judged_us = now_us;
        let Some(facts) = self.live_facts(self.row.run_id) else { return false };
        let run_us = now_us.saturating_sub(t0_us);
        let mut is_breached = false;
        for (n, threshold) in self.plan.thresholds.iter().enumerate() {
            if verdict::judge(&self.plan, threshold, &facts).result == ThresholdResult::Failed {
                let since_us = *self.false_since_us.entry(n).or_insert(run_us);
                let after_us = threshold.abort_after_us;
                is_breached |= after_us.is_some_and(|after_us| run_us >= since_us + after_us);
            } else {
                self.false_since_us.remove(&n);
            }
        }
        is_breached
    }

    /// By assignment id, as the revisions came to apply there; none where nothing was revised.
    fn timetables(&self, live: &LiveRun) -> BTreeMap<fleet::Grant, Timetable> {
        let revisions = self.record.revisions();
        if revisions.is_empty() {
            return BTreeMap::new();
        }
        let timetable = |(id, part): (&fleet::Grant, &LivePart)| {
            let applied = applied(&revisions, &part.revised_us, &part.progress);
            (id.clone(), Timetable::new(Arc::clone(&self.plan), self.row.seed, &applied))
        };
        live.parts.iter().map(timetable).collect()
    }

    fn live_facts(&self, run: RunId) -> Option<verdict::Facts> {
        self.runs.live.read(run, |live| {
            let timetables = self.timetables(live);
            let grants = &self.record.roster.grants;
            let parts: Vec<_> = grants
                .iter()
                .filter_map(|grant| {
                    let key = self.grant_key(&grant.id);
                    let part = live.parts.get(&key);
                    let shard = grant.tenures(part.map_or(0, |part| part.handover))?;
                    let timetable = timetables.get(&key).unwrap_or(&self.timetable);
                    Some((shard, part, grant, timetable))
                })
                .collect();
            let holdings: Vec<Holding<'_>> = parts
                .iter()
                .map(|(shard, part, _, timetable)| Holding {
                    shard,
                    timetable,
                    progress: part.map_or(&[], |live| live.progress.as_slice()),
                    closed_at_us: None,
                })
                .collect();
            let mut facts = account(&self.plan, live.cells.clone(), &holdings, Until::Now);
            let through = live.parts.values().flat_map(|part| &part.progress);
            facts.ended_us = through.map(|progress| progress.through_us).max().unwrap_or(0);
            query::observe_live(&mut facts, &self.plan, live);
            let held = parts.iter().filter(|(_, _, grant, _)| grant.is_live());
            let gauges = held.filter_map(|(_, part, ..)| *part).flat_map(|part| &part.devices);
            query::add_gauges(&mut facts, gauges);
            facts
        })
    }
}

/// What a person may read later of moves that began or ended with a step.
fn move_events(before: &Roster, after: &Roster) -> Vec<(&'static str, String)> {
    let is_new = |known: &&Move| {
        let same = |old: &&Move| old.giver == known.giver && old.why == known.why;
        before.moves.iter().find(same) != Some(known)
    };
    let event = |known: &Move| {
        let kind = match (known.why, known.until_us) {
            (Why::HandedOver, _) => "devices_handed_over",
            (_, None) => "agent_lost",
            (_, Some(_)) => "devices_moved",
        };
        (kind, known.sentence())
    };
    after.moves.iter().filter(is_new).map(event).collect()
}
