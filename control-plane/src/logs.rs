//! Keeps what agents and this process say about runs, and answers who asks for it.
//!
//! The least important work here: lines wait in one bounded queue, are written a few times a second,
//! and every agent has at most one message in the queue, so none can crowd out the others or the
//! deltas. A line is acknowledged when it is stored, or when nobody will ever store it. Invariant: an
//! agent's line is kept only for runs that it takes or took part in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use shoal_domain::ids::{AgentId, RunId};
use shoal_domain::logs::{Level, LogLine, MOST_LINES};
use shoal_proto::logs::lines_from_wire;
use shoal_proto::v1;
use shoal_proto::v1::control_message::Message as Down;
use shoal_service_kit::logs::{Book, Line};
use shoal_service_kit::{Backoff, Clock, Lifecycle, random};
use tokio::sync::mpsc;

use crate::clock::ControlClock;
use crate::fleet::{Fleet, SessionSender};
use crate::orchestrator::Runs;
use crate::store::{NewLogLine, Store, StoreError};

pub use self::reading::{Wanted, read};

mod reading;

/// Messages that wait to be written. Full: the agent sends its lines again.
const QUEUE: usize = 256;
/// Messages that are written together.
const BATCH: usize = 32;
/// Between two writes, so that lines never compete with deltas for the database.
const PACE: Duration = Duration::from_millis(150);
/// Parts of agents in runs that are remembered; more are asked for again.
const MOST_PARTS: usize = 4_096;
/// What this process said, as targets of its lines say it.
const OF_CRATE: &str = "shoal_control_plane";

/// Lines of one session, on their way.
struct Sent {
    agent: AgentId,
    process: String,
    lines: v1::LogLines,
    down: SessionSender,
    is_waiting: Arc<AtomicBool>,
}

/// Where sessions put the lines of their agents.
#[derive(Clone)]
pub struct Logs {
    queue: mpsc::Sender<Sent>,
}

/// One session's way in.
pub struct SessionLogs {
    queue: mpsc::Sender<Sent>,
    agent: AgentId,
    process: String,
    is_waiting: Arc<AtomicBool>,
}

impl Logs {
    /// Starts the one task that writes lines.
    pub fn start(store: Store, fleet: Fleet, runs: Runs, lifecycle: &Lifecycle) -> Self {
        let (queue, sent) = mpsc::channel(QUEUE);
        let keeper = Keeper {
            store,
            fleet,
            runs,
            book: Book::open(OF_CRATE),
            process: random::token(),
            parts: BTreeSet::new(),
            lifecycle: lifecycle.clone(),
        };
        lifecycle.spawn("logs", keeper.run(sent));
        Self { queue }
    }

    pub fn of(&self, agent: &AgentId, process: &str) -> SessionLogs {
        let (agent, process) = (agent.clone(), process.to_owned());
        SessionLogs { queue: self.queue.clone(), agent, process, is_waiting: Arc::default() }
    }
}

impl SessionLogs {
    /// Never waits. An agent that sends more before an answer came is not listened to.
    pub fn take(&self, lines: v1::LogLines, down: &SessionSender) {
        if self.is_waiting.swap(true, Relaxed) {
            return;
        }
        let sent = Sent {
            agent: self.agent.clone(),
            process: self.process.clone(),
            lines,
            down: down.clone(),
            is_waiting: Arc::clone(&self.is_waiting),
        };
        if self.queue.try_send(sent).is_err() {
            self.is_waiting.store(false, Relaxed);
        }
    }
}

struct Keeper {
    store: Store,
    fleet: Fleet,
    runs: Runs,
    /// What this process says.
    book: Book,
    process: String,
    /// Runs and agents that were found to belong together.
    parts: BTreeSet<(RunId, AgentId)>,
    lifecycle: Lifecycle,
}

impl Keeper {
    async fn run(mut self, mut queue: mpsc::Receiver<Sent>) {
        let soft = self.lifecycle.soft();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let own = tokio::select! {
                n = queue.recv_many(&mut batch, BATCH) => if n == 0 { return } else { Vec::new() },
                own = self.book.lines(MOST_LINES) => own,
                () = soft.cancelled() => break,
            };
            self.keep(&mut batch, own).await;
            tokio::select! {
                () = tokio::time::sleep(PACE) => {}
                () = soft.cancelled() => break,
            }
        }
        // What is there now was said before the end.
        while let Ok(sent) = queue.try_recv() {
            batch.push(sent);
        }
        let own = self.book.now(MOST_LINES);
        self.keep(&mut batch, own).await;
    }

    /// Until it is stored, or this process is to end.
    async fn keep(&mut self, batch: &mut Vec<Sent>, own: Vec<Line>) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        let mut is_first = true;
        let soft = self.lifecycle.soft();
        while let Err(error) = self.try_to_keep(batch, &own).await {
            if std::mem::take(&mut is_first) {
                tracing::warn!(error = &error as &dyn std::error::Error, "lines of logs wait");
            }
            if soft.is_cancelled() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = soft.cancelled() => {}
            }
        }
        if let Some(last) = own.last() {
            self.book.forget(last.number);
        }
        for sent in batch.drain(..) {
            sent.is_waiting.store(false, Relaxed);
            let Some(through) = sent.lines.lines.last().map(|line| line.number) else { continue };
            let ack = v1::ControlMessage { message: Some(Down::LogAck(v1::LogAck { through })) };
            // An agent that hears nothing sends them again.
            let _ = sent.down.try_send(Ok(ack));
        }
    }

    async fn try_to_keep(&mut self, batch: &[Sent], own: &[Line]) -> Result<(), StoreError> {
        let now_us = ControlClock.unix_us();
        let mut new = Vec::new();
        for sent in batch {
            match lines_from_wire(sent.lines.clone(), now_us) {
                Ok(lines) => self.sort_in(&mut new, sent, lines).await?,
                Err(error) => {
                    tracing::warn!(agent = %sent.agent, %error, "lines of logs are refused");
                }
            }
        }
        let ours = own.iter().map(|line| own_line(line, now_us));
        for line in ours {
            let runs = line.run.map_or_else(|| self.runs.ids(), |run| vec![run]);
            new.extend(runs.into_iter().filter(|run| line.is_about(*run)).map(|run_id| {
                NewLogLine {
                    run_id,
                    agent_id: String::new(),
                    process: self.process.clone(),
                    line: line.clone(),
                }
            }));
        }
        if new.is_empty() { Ok(()) } else { self.store.add_logs(&new).await }
    }

    /// Lines to the runs that they are about.
    async fn sort_in(
        &mut self,
        new: &mut Vec<NewLogLine>,
        sent: &Sent,
        lines: Vec<LogLine>,
    ) -> Result<(), StoreError> {
        let held: Vec<RunId> = self
            .fleet
            .member(&sent.agent)
            .map(|member| member.runs.iter().filter_map(|run| run.parse().ok()).collect())
            .unwrap_or_default();
        let held: BTreeSet<RunId> = held.into_iter().collect();
        for line in lines {
            let runs = match line.run {
                Some(run) if self.is_part(run, &sent.agent).await? => BTreeSet::from([run]),
                Some(_) => continue,
                None => held.clone(),
            };
            let runs = runs.into_iter().filter(|run| line.is_about(*run));
            new.extend(runs.map(|run_id| NewLogLine {
                run_id,
                agent_id: sent.agent.to_string(),
                process: sent.process.clone(),
                line: line.clone(),
            }));
        }
        Ok(())
    }

    async fn is_part(&mut self, run: RunId, agent: &AgentId) -> Result<bool, StoreError> {
        let part = (run, agent.clone());
        if self.parts.contains(&part) {
            return Ok(true);
        }
        let is_part = self.store.has_part(run, agent.as_str()).await?;
        if is_part {
            if self.parts.len() >= MOST_PARTS {
                self.parts.pop_first();
            }
            self.parts.insert(part);
        }
        Ok(is_part)
    }
}

/// What this process said, in its own time.
fn own_line(line: &Line, now_us: u64) -> LogLine {
    let ago_us = ControlClock.boot_us().saturating_sub(line.boot_us);
    LogLine {
        number: line.number,
        at_us: now_us.saturating_sub(ago_us),
        level: Level::from_word(line.level.as_str()).unwrap_or(Level::Info),
        target: line.target.to_owned(),
        run: line.run.as_ref().and_then(|run| run.parse().ok()),
        text: line.text.clone(),
        fields: line.fields.clone(),
        dropped: line.dropped,
    }
    .bounded(now_us)
}
