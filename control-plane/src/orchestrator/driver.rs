//! One run: observe, decide, store, act. Every step starts from what is true now, so a step that
//! failed (the database was away) is simply done again.
//!
//! What agents hold is decided by [`Roster::step`], how the run moves by [`apply`]; this file asks
//! both and makes the answers true. Only an end of the load is told before it is stored when the
//! store does not answer: nobody may have to wait for a database to stop a load.

mod judging;
mod keeping;
mod reading;
mod seeing;
mod telling;
mod watched;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_domain::ids::{AgentId, GrantId};
use shoal_domain::lease::GRACE_US;
use shoal_domain::plan::Plan;
use shoal_domain::roster::{Changes, Move, Outage, Reader, Roster, Why};
use shoal_domain::run::{Limits, RunCommand, RunEvent, RunState, apply};
use shoal_domain::schedule::Timetable;
use shoal_service_kit::Clock;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::reading::{Reading, deal_reads};
use self::watched::Watched;
use super::compaction::decode;
use super::{Runs, Status, Wish, scale};
use crate::clock::ControlClock;
use crate::fleet;
use crate::live::LiveRun;
use crate::query::region_in;
use crate::record::{Record, Scaled, grant_of, shard_of};
use crate::refusal::Refusal;
use crate::store::{NewEvent, RunRow};
use crate::trackers::Trackers;

const TICK: Duration = Duration::from_millis(100);
/// An owned run whose owner was silent for so long is stopped.
const OWNER_SILENCE_US: u64 = 60_000_000;
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
    watched: Watched,
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
            probes: plan.probes(),
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
            watched: Watched::default(),
            false_since_us,
            told_end_us: None,
            is_confirmed: false,
            is_store_away: false,
            is_disowned: false,
        };
        driver.read_regions().await?;
        driver.read_grants().await?;
        // With the blocks, which reports are judged by.
        let status = Status { record: driver.record.clone(), exit_code: None };
        driver.publish.send_replace(status);
        driver.read_live().await?;
        driver.find_begins().await?;
        driver.assign_all(now_us);
        Ok(driver)
    }

    /// Where the agents of the run are; of those that are here it is known better in a moment.
    async fn read_regions(&mut self) -> Result<(), Refusal> {
        for agent in self.runs.store.run_agents(self.row.run_id).await? {
            if let Ok(id) = agent.agent_id.parse::<AgentId>() {
                self.regions.insert(id, region_in(&agent.labels_json));
            }
        }
        Ok(())
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
        let mut live = LiveRun::of(&self.plan, trackers);
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
        // A sum is no second; those that were folded stand in the windows.
        live.take_seconds();
        if Watched::is_needed(&self.plan) {
            self.watched.restore(store, &self.plan, self.row.run_id).await?;
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
                        self.owner_heard_us = ControlClock.unix_us();
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
        let now_us = ControlClock.unix_us();
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
            // Before the deaths themselves: they may be those of all agents.
            if let Some((first, second)) = roster.poisoned() {
                let (first, second) = (first.clone(), second.clone());
                events.push(RunEvent::Poisoned { first, second });
            }
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
        let moves = move_events(&self.record.roster, &record.roster);
        for (kind, text) in &moves {
            keep(kind, text.clone());
        }
        self.persist(record, judged, changes, &kept, &commands, now_us).await?;
        for (phase, cause) in &phases {
            tracing::info!(run = %self.row.run_id, phase = phase.word(), cause, "run");
        }
        for (kind, text) in &moves {
            tracing::warn!(run = %self.row.run_id, kind, "{text}");
        }
        for command in commands {
            self.act(&command);
        }
        self.assign_all(now_us);
        Ok(())
    }

    /// Changes the running load: checked, stored, then told.
    async fn scale(&mut self, wanted: &scale::Wanted) -> Result<Scaled, Refusal> {
        let now_us = ControlClock.unix_us();
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
}

/// What a person may read later of what a step did to the fleet. Agents that are lost while most are silent
/// are one incident, which was told.
fn move_events(before: &Roster, after: &Roster) -> Vec<(&'static str, String)> {
    let is_new = |known: &&Move| {
        let same = |old: &&Move| old.giver == known.giver && old.why == known.why;
        before.moves.iter().find(same) != Some(known)
    };
    let event = |known: &Move| {
        let kind = match (known.why, known.until_us) {
            (Why::HandedOver, _) => "devices_handed_over",
            (Why::Quarantined, None) => "agent_quarantined",
            (_, None) => "agent_lost",
            (_, Some(_)) => "devices_moved",
        };
        (kind, known.sentence())
    };
    let ended = |outage: &Outage| outage.until_us.is_some();
    let is_outage = after.outage.as_ref().is_some_and(|outage| !ended(outage));
    let is_told = |(kind, _): &(&str, String)| is_outage && *kind == "agent_lost";
    let incident = after.outage.as_ref().filter(|_| before.outage != after.outage);
    let incident = incident.map(|outage| {
        let kind = if ended(outage) { "outage_over" } else { "outage" };
        (kind, outage.sentence())
    });
    let moves = after.moves.iter().filter(is_new).map(event);
    incident.into_iter().chain(moves.filter(|event| !is_told(event))).collect()
}
