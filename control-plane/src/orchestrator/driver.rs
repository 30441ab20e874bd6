//! One run: observe, `apply`, store, act. Every step starts from what is true now, so a step that
//! failed (the database was away) is simply done again.

mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_domain::account::{Holding, Until, account, applied};
use shoal_domain::ids::{AgentId, RunId};
use shoal_domain::lease::{GRACE_US, Liveness, Presence};
use shoal_domain::plan::{OnAgentLoss, Plan};
use shoal_domain::report::ThresholdResult;
use shoal_domain::run::{Limits, Phase, RunCommand, RunEvent, RunState, apply};
use shoal_domain::schedule::Timetable;
use shoal_domain::shard::Shard;
use shoal_domain::verdict;
use shoal_proto::{assignment, v1};
use shoal_service_kit::{Clock, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::watching::{Watch, Watches};
use super::compaction::{compact, decode};
use super::placement::place;
use super::{Runs, Status, Wish, scale};
use crate::live::{LivePart, LiveRun};
use crate::query;
use crate::record::{Record, Scaled, observe_of, overrides_of, shard_of, shard_to_blob};
use crate::refusal::Refusal;
use crate::store::{NewAssignment, NewEvent, RunChange, RunRow};
use crate::trackers::Trackers;

const TICK: Duration = Duration::from_millis(100);
const COMPACT_EVERY_US: u64 = 30_000_000;
/// Deltas younger than this may still get company in their window.
const COMPACT_AGE_US: i64 = 10_000_000;
/// How often thresholds are judged while the load goes on.
const JUDGE_EVERY_US: u64 = 1_000_000;
/// An owned run whose owner was silent for so long is stopped.
const OWNER_SILENCE_US: u64 = 60_000_000;

/// The first and, in this release, only epoch of an assignment.
const EPOCH: u64 = 1;

struct Part {
    shard: Shard,
    wire: v1::Assignment,
    region: String,
}

pub(super) struct Driver {
    runs: Runs,
    row: RunRow,
    plan: Arc<Plan>,
    timetable: Timetable,
    record: Record,
    limits: Limits,
    parts: BTreeMap<AgentId, Part>,
    watches: Watches,
    publish: watch::Sender<Status>,
    owner_heard_us: u64,
    wished_stop: Option<bool>,
    compacted_us: u64,
    judged_us: u64,
    /// As in the record, which takes it over at the next event.
    false_since_us: BTreeMap<usize, u64>,
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
            lost_after_us: plan.fleet.lease_us + GRACE_US,
            drain_us: plan.drain_us(),
        };
        let mut driver = Self {
            timetable: Timetable::new(Arc::clone(&plan), row.seed, &record.revisions()),
            runs,
            row,
            plan,
            record,
            limits,
            parts: BTreeMap::new(),
            watches: Watches::default(),
            publish,
            owner_heard_us: now_us,
            wished_stop: None,
            compacted_us: now_us,
            judged_us: now_us,
            false_since_us,
        };
        driver.read_parts(now_us).await?;
        Ok(driver)
    }

    /// The assignments that the store knows, and what was stored of them, back into memory.
    async fn read_parts(&mut self, now_us: u64) -> Result<(), Refusal> {
        let store = &self.runs.store;
        let trackers = Trackers::restored(&self.plan, &store.trackers(self.row.run_id).await?)?;
        let mut live = LiveRun::with(trackers);
        for row in store.assignments(self.row.run_id).await? {
            let Ok(agent) = row.grant.agent_id.parse::<AgentId>() else { continue };
            if let Some(share) = observe_of(&self.plan, &row)? {
                let wire = self.watch_wire(&agent, share)?;
                let id = wire.assignment_id.clone();
                self.watches.parts.insert(id, Watch { agent, wire });
            } else {
                let shard = shard_of(&self.plan, &row)?;
                let wire = self.wire(&agent, &shard)?;
                self.parts.insert(agent, Part { shard, wire, region: String::new() });
            }
            if row.closing.is_some() {
                let id = &row.grant.assignment_id;
                live.add(&self.plan, id, &Default::default(), true);
            }
        }
        for row in store.summaries(self.row.run_id).await? {
            let delta = decode("summaries", &row.assignment_id, &row.body)?;
            live.add(&self.plan, &row.assignment_id, &delta, false);
        }
        for row in store.unfolded(self.row.run_id, None).await? {
            let delta = decode("deltas", &row.assignment_id, &row.body)?;
            live.add(&self.plan, &row.assignment_id, &delta, false);
        }
        self.runs.live.open(self.row.run_id, live);
        if let Some(t0_us) = self.record.state.t0_us() {
            for part in self.parts.values_mut() {
                part.wire.t0_us = t0_us;
                part.wire.end_us = self.record.load_end_us;
            }
        }
        self.assign_all(now_us);
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
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            if self.record.state.phase().is_over() {
                return;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Refusal> {
        let now_us = SystemClock.unix_us();
        for event in self.observe(now_us).await? {
            self.take(event, now_us).await?;
        }
        self.drain(now_us);
        if now_us >= self.compacted_us + COMPACT_EVERY_US {
            self.compacted_us = now_us;
            self.compact(Some(now_us as i64 - COMPACT_AGE_US)).await?;
        }
        Ok(())
    }

    /// Everything that is the case now, as events; repeating one changes nothing.
    async fn observe(&mut self, now_us: u64) -> Result<Vec<RunEvent>, Refusal> {
        let mut events = Vec::new();
        if let Some(abort) = self.wished_stop {
            events.push(RunEvent::Stop { abort });
        }
        if let RunState::Pending { deadline_us } = self.record.state {
            events.extend(self.try_placement(deadline_us, now_us).await?);
        }
        let agents: Vec<AgentId> = self.parts.keys().cloned().collect();
        for agent in agents {
            events.extend(self.observe_agent(&agent, now_us));
        }
        if self.record.is_owned && now_us >= self.owner_heard_us + OWNER_SILENCE_US {
            events.push(RunEvent::OwnerSilent);
        }
        if self.is_breached(now_us) {
            events.push(RunEvent::Threshold);
        }
        events.push(RunEvent::Tick);
        Ok(events)
    }

    fn observe_agent(&self, agent: &AgentId, now_us: u64) -> Vec<RunEvent> {
        use v1::AssignmentPhase as P;
        let mut events = Vec::new();
        let run = self.row.run_id;
        let fleet = self.runs.fleet.clone();
        let Some(part) = self.parts.get(agent) else { return events };
        let id = part.wire.assignment_id.clone();
        let is_delivered = self
            .runs
            .live
            .read(run, |live| live.parts.get(&id).is_some_and(|part| part.is_delivered))
            .unwrap_or(false);
        let watched = self.observe_watches(agent);
        events.extend(watched.refused);
        if let Some(observed) = fleet.observed(agent, &(id.clone(), EPOCH)) {
            match observed.phase() {
                P::Prepared if watched.is_preparing => {}
                P::Prepared if observed.plan_hash == part.wire.plan_hash => {
                    events.push(RunEvent::Prepared { agent: agent.clone() });
                }
                P::Prepared => events.push(RunEvent::Refused {
                    agent: agent.clone(),
                    code: "SH0209".into(),
                    why: "its plan differs: it runs another build".into(),
                }),
                P::Refused => events.push(RunEvent::Refused {
                    agent: agent.clone(),
                    code: observed.error_code,
                    why: observed.error,
                }),
                P::Closed | P::Fenced => events.push(RunEvent::Closed { agent: agent.clone() }),
                P::Unspecified | P::Preparing | P::Running => {}
            }
        }
        if is_delivered {
            events.push(RunEvent::Closed { agent: agent.clone() });
            if !watched.is_reading {
                events.push(RunEvent::Delivered { agent: agent.clone() });
                return events;
            }
        }
        // A process that took the id and does not hold the assignment proves the holder's death.
        let is_assigned = self.record.state.phase() >= Phase::Preparing;
        let is_replaced = is_assigned && fleet.holds(agent, &(id.clone(), EPOCH)) == Some(false);
        let liveness = fleet.member(agent).map(|member| member.liveness);
        let liveness = liveness.unwrap_or(Liveness::heard_at(now_us));
        let presence = liveness.presence(now_us, self.plan.fleet.lease_us);
        if is_replaced || presence == Presence::Lost {
            let abort = self.plan.fleet.on_agent_loss == OnAgentLoss::Abort;
            events.push(RunEvent::Lost { agent: agent.clone(), abort });
        }
        events
    }

    async fn try_placement(
        &mut self,
        deadline_us: u64,
        now_us: u64,
    ) -> Result<Option<RunEvent>, Refusal> {
        let members = self.runs.fleet.members();
        let dealt = match place(&self.plan, &members, self.record.agents_wanted, now_us) {
            Ok(dealt) => dealt,
            Err(unplaceable) if now_us >= deadline_us => {
                let code = unplaceable.code.to_owned();
                return Ok(Some(RunEvent::Unplaceable { code, why: unplaceable.why }));
            }
            Err(_) => return Ok(None),
        };
        let mut rows = Vec::new();
        let mut parts = BTreeMap::new();
        for (agent, shard) in dealt {
            let wire = self.wire(&agent, &shard)?;
            rows.push(NewAssignment {
                assignment_id: wire.assignment_id.clone(),
                epoch: EPOCH as i64,
                run_id: self.row.run_id,
                agent_id: agent.to_string(),
                blocks: shard_to_blob(&shard),
                n_devices: shard.devices() as i64,
                incarnation: 0,
            });
            let member = members.iter().find(|member| member.id == agent);
            let region =
                member.and_then(|member| member.labels.get("region").cloned()).unwrap_or_default();
            parts.insert(agent, Part { shard, wire, region });
        }
        let agents: Vec<AgentId> = parts.keys().cloned().collect();
        let (watches, watch_rows) = self.deal_watches(&agents)?;
        rows.extend(watch_rows);
        // A retry after a failed step deals anew; the rows of the first try are replaced.
        self.runs.store.insert_assignments(&rows).await?;
        self.parts = parts;
        self.watches = watches;
        let agents: BTreeSet<AgentId> = self.parts.keys().cloned().collect();
        Ok(Some(RunEvent::Assigned { agents }))
    }

    fn wire(&self, agent: &AgentId, shard: &Shard) -> Result<v1::Assignment, Refusal> {
        let share = shard.devices() as f64 / self.plan.devices().max(1) as f64;
        let overrides = overrides_of(&self.row)?
            .into_iter()
            .map(|(name, value)| v1::Override { name, value })
            .collect();
        Ok(v1::Assignment {
            assignment_id: format!("{}.{agent}", self.row.run_id),
            epoch: EPOCH,
            run_id: self.row.run_id.to_string(),
            scenario: self.row.scenario_text.clone(),
            overrides,
            plan_hash: self.plan.hash().to_vec(),
            seed: self.row.seed,
            blocks: assignment::blocks_to_wire(shard),
            from_us: 0,
            handover: 0,
            lease_us: self.plan.fleet.lease_us,
            t0_us: 0,
            end_us: self.plan.end_us(),
            abort: false,
            spawn_rate: scale::spawn_rate(&self.plan, &self.record) * share,
            revisions: assignment::revisions_to_wire(&self.record.revisions()),
            builtin: self.record.builtin.clone(),
            has_files: !self.plan.files.is_empty(),
            observe: None,
            not_after_us: self.plan.max_duration_us.unwrap_or(u64::MAX).min(self.plan.end_us()),
        })
    }

    /// Applies one event: compute, store, then act.
    async fn take(&mut self, event: RunEvent, now_us: u64) -> Result<(), Refusal> {
        let before = self.record.clone();
        let lost = match &event {
            RunEvent::Lost { agent, .. } => Some(agent.clone()),
            _ => None,
        };
        let (state, commands) = match apply(self.record.state.clone(), event, now_us, &self.limits)
        {
            Ok(next) => next,
            Err(illegal) => {
                tracing::warn!(run = %self.row.run_id, %illegal, "ignored");
                return Ok(());
            }
        };
        let false_since_us = self.false_since_us.clone();
        let mut record = Record { state, false_since_us, ..self.record.clone() };
        if let (Some(agent), Some(t0_us)) = (lost, record.state.t0_us())
            && !record.state.phase().is_over()
        {
            record.lost.entry(agent).or_insert(now_us.saturating_sub(t0_us));
        }
        for command in &commands {
            if let (RunCommand::End { at_us, .. }, Some(t0_us)) = (command, record.state.t0_us()) {
                record.load_end_us = record.load_end_us.min(at_us.saturating_sub(t0_us));
            }
        }
        if record == before {
            return Ok(());
        }
        let judged = if commands.contains(&RunCommand::Judge) {
            Some(self.judge(&record).await?)
        } else {
            None
        };
        self.persist(&before, record, judged, now_us).await?;
        for command in commands {
            self.act(command, now_us);
        }
        Ok(())
    }

    /// Folds the rest and makes the document whose verdict is stored with the last phase.
    async fn judge(&mut self, record: &Record) -> Result<query::Judged, Refusal> {
        // From here on late deltas hear that the run is over; what was acked is folded and judged.
        self.runs.store.stop_intake(self.row.run_id).await?;
        self.compact(None).await?;
        query::judge_and_keep(&self.runs.store, &self.row, &self.plan, record).await
    }

    async fn persist(
        &mut self,
        before: &Record,
        record: Record,
        judged: Option<query::Judged>,
        now_us: u64,
    ) -> Result<(), Refusal> {
        let phase = record.state.phase();
        let cause = record.state.cause().map(|cause| cause.sentence());
        let change = RunChange {
            run_id: self.row.run_id,
            version: self.row.version,
            owner_epoch: self.row.owner_epoch,
            phase,
            state_json: record.to_json(),
            validity: judged.and_then(|judged| judged.validity),
            verdict: judged.and_then(|judged| judged.verdict),
            exit_code: judged.map(|judged| i64::from(judged.exit_code)),
            cause: cause.clone(),
            t0_us: record.state.t0_us().map(|us| us as i64),
            ended_at_us: phase.is_over().then_some(now_us as i64),
        };
        let mut events = Vec::new();
        let event = |kind: &str, text: String| NewEvent {
            at_us: now_us as i64,
            kind: kind.to_owned(),
            text,
        };
        if phase != before.state.phase() {
            events.push(event("phase", format!("{} {}", phase.word(), cause.unwrap_or_default())));
        }
        for agent in record.lost.keys().filter(|agent| !before.lost.contains_key(agent)) {
            events.push(event("agent_lost", agent.to_string()));
            if let Some(part) = self.parts.get(agent) {
                self.runs.fleet.withdraw(agent, &(part.wire.assignment_id.clone(), EPOCH));
            }
            for (id, watch) in self.watches.parts.iter().filter(|(_, w)| w.agent == *agent) {
                self.runs.fleet.withdraw(&watch.agent, &(id.clone(), EPOCH));
            }
        }
        for scaled in &record.scaled[before.scaled.len()..] {
            events.push(event("scaled", scaled.sentence(&self.plan)));
        }
        self.row.version = self.runs.store.change_run(&change, &events).await?;
        if phase != before.state.phase() {
            tracing::info!(run = %self.row.run_id, phase = phase.word(), "run");
        }
        self.record = record.clone();
        let exit_code = judged.map(|judged| judged.exit_code);
        self.publish.send_replace(Status { record, exit_code });
        if phase == Phase::Preparing && before.state.phase() == Phase::Pending {
            self.assign_all(now_us);
        }
        Ok(())
    }

    fn act(&mut self, command: RunCommand, now_us: u64) {
        match command {
            RunCommand::Arm { t0_us } => {
                for part in self.parts.values_mut() {
                    part.wire.t0_us = t0_us;
                }
                for watch in self.watches.parts.values_mut() {
                    watch.wire.t0_us = t0_us;
                }
                self.assign_all(now_us);
            }
            RunCommand::End { abort, .. } => {
                for part in self.parts.values_mut() {
                    part.wire.end_us = self.record.load_end_us;
                    part.wire.abort |= abort;
                }
                self.end_watches(abort);
                self.wished_stop = self.wished_stop.filter(|wished_abort| *wished_abort && !abort);
                self.assign_all(now_us);
            }
            RunCommand::Disarm | RunCommand::Judge => {
                for (agent, part) in &self.parts {
                    self.runs.fleet.withdraw(agent, &(part.wire.assignment_id.clone(), EPOCH));
                }
                for (id, watch) in &self.watches.parts {
                    self.runs.fleet.withdraw(&watch.agent, &(id.clone(), EPOCH));
                }
            }
        }
    }

    fn assign_all(&self, now_us: u64) {
        if matches!(self.record.state.phase(), Phase::Pending)
            || self.record.state.phase().is_over()
        {
            return;
        }
        for (agent, part) in &self.parts {
            if !self.record.lost.contains_key(agent) {
                self.runs.fleet.assign(agent, part.wire.clone(), now_us);
            }
        }
        for watch in self.watches.parts.values() {
            if !self.record.lost.contains_key(&watch.agent) {
                self.runs.fleet.assign(&watch.agent, watch.wire.clone(), now_us);
            }
        }
    }

    /// Changes the running load: checked, stored, then told.
    async fn scale(&mut self, wanted: &scale::Wanted) -> Result<Scaled, Refusal> {
        let now_us = SystemClock.unix_us();
        let before = self.record.clone();
        let scaled = scale::decide(wanted, &self.timetable, &before, now_us)?;
        let mut record = before.clone();
        record.scaled.push(scaled.clone());
        self.persist(&before, record, None, now_us).await?;
        let revisions = self.record.revisions();
        self.timetable = Timetable::new(Arc::clone(&self.plan), self.row.seed, &revisions);
        let rate = scale::spawn_rate(&self.plan, &self.record);
        for part in self.parts.values_mut() {
            let share = part.shard.devices() as f64 / self.plan.devices().max(1) as f64;
            part.wire.spawn_rate = rate * share;
            part.wire.revisions = assignment::revisions_to_wire(&revisions);
        }
        self.assign_all(now_us);
        Ok(scaled)
    }

    async fn compact(&self, received_before_us: Option<i64>) -> Result<(), Refusal> {
        let regions = self
            .parts
            .values()
            .map(|part| (part.wire.assignment_id.clone(), part.region.clone()))
            .collect();
        let (run, epoch) = (self.row.run_id, self.row.owner_epoch);
        let store = &self.runs.store;
        compact(store, run, epoch, received_before_us, &regions, &self.plan).await
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
    fn timetables(&self, live: &LiveRun) -> BTreeMap<String, Timetable> {
        let revisions = self.record.revisions();
        if revisions.is_empty() {
            return BTreeMap::new();
        }
        let timetable = |(id, part): (&String, &LivePart)| {
            let applied = applied(&revisions, &part.revised_us, &part.progress);
            (id.clone(), Timetable::new(Arc::clone(&self.plan), self.row.seed, &applied))
        };
        live.parts.iter().map(timetable).collect()
    }

    fn live_facts(&self, run: RunId) -> Option<verdict::Facts> {
        self.runs.live.read(run, |live| {
            let timetables = self.timetables(live);
            let holdings: Vec<Holding<'_>> = self
                .parts
                .values()
                .map(|part| Holding {
                    shard: &part.shard,
                    timetable: timetables.get(&part.wire.assignment_id).unwrap_or(&self.timetable),
                    progress: live
                        .parts
                        .get(&part.wire.assignment_id)
                        .map_or(&[], |live| live.progress.as_slice()),
                    closed_at_us: None,
                })
                .collect();
            let mut facts = account(&self.plan, live.cells.clone(), &holdings, Until::Now);
            let through = live.parts.values().flat_map(|part| &part.progress);
            facts.ended_us = through.map(|progress| progress.through_us).max().unwrap_or(0);
            query::observe_live(&mut facts, &self.plan, live);
            query::add_gauges(&mut facts, live.parts.values().flat_map(|part| &part.devices));
            facts
        })
    }
}
