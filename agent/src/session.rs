//! The session with the control plane: hello and inventory, desired state down, observed state up,
//! beats and what they teach. Dialled again for ever.
//!
//! It runs on a thread of its own ([`thread`]), because a beat that waits behind load would cost the
//! lease. Level-triggered: desired and observed state are watch values, so a slow side sees the
//! newest and nothing piles up. Invariant: whatever the control plane sends, this loop goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_domain::lease::BEAT_US;
use shoal_proto::v1::{self, agent_message, control_message};
use shoal_service_kit::logs::Line;
use shoal_service_kit::{Backoff, Clock};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::beat::{Beats, Stamps};
use crate::connection::{Dialer, answer, code_of, sentence};
use crate::leases::Leases;
use crate::uplink::queue::Key;

use self::lines::Lines;

pub(crate) mod lines;
pub(crate) mod thread;

/// Messages on their way to the socket. Full means that nothing moves: the connection is given up.
const OUTGOING: usize = 256;
/// Lines of logs go out while fewer messages than this wait.
const BUSY: usize = 8;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// After an answer that trying again soon cannot change.
const REFUSED_PAUSE: Duration = Duration::from_secs(15);
/// For the call's answer and for Welcome; also how long acks may fail to come.
const ANSWER: Duration = Duration::from_secs(10);
/// For the other side to end the stream after we did.
const GOODBYE: Duration = Duration::from_secs(2);
/// More assignments at once are not meant for one agent.
const MAX_ASSIGNMENTS: usize = 256;

/// How the agent stands with its control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionState {
    Connected {
        since_boot_us: u64,
    },
    Detached {
        since_boot_us: u64,
        why: String,
    },
    /// The control plane does not want this agent as it is; tried again slowly.
    Refused {
        since_boot_us: u64,
        code: String,
        why: String,
    },
}

/// What the control plane wants this agent to hold, and when that arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Desired {
    pub(crate) assignments: Vec<v1::Assignment>,
    /// False until the first word: nothing may be dropped for its absence before that.
    pub(crate) is_known: bool,
}

/// The session's ends of what it shares with the rest of the agent.
pub(crate) struct Session {
    pub(crate) dialer: Dialer,
    /// Without inventory.
    pub(crate) hello: v1::Hello,
    pub(crate) leases: Leases,
    pub(crate) desired: watch::Sender<Desired>,
    pub(crate) observed: watch::Receiver<Vec<v1::Observed>>,
    pub(crate) offset: watch::Sender<Option<i64>>,
    pub(crate) state: watch::Sender<SessionState>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Nothing is left to say: end the session in order.
    pub(crate) drained: CancellationToken,
    /// This agent was asked to go.
    pub(crate) leaving: CancellationToken,
    pub(crate) beats: Beats,
    pub(crate) lines: Lines,
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    Drained,
    Lost(String),
    Refused { code: String, why: String },
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        let code = code_of(&status);
        match status.code() {
            Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::AlreadyExists
            | Code::InvalidArgument
            | Code::Unimplemented => Self::Refused {
                code: code.unwrap_or_else(|| "SH0401".to_owned()),
                why: answer(&status),
            },
            _ => Self::Lost(answer(&status)),
        }
    }
}

impl Session {
    /// Until drained.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let end = self.connect_and_serve(&mut backoff).await;
            self.beats.disconnected();
            self.lines.disconnected();
            let pause = match end {
                End::Drained => return,
                End::Lost(why) => self.detached(why, backoff.next()),
                End::Refused { code, why } => self.refused(code, why),
            };
            tokio::select! {
                () = self.drained.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn detached(&self, why: String, pause: Duration) -> Duration {
        let since_boot_us = match &*self.state.borrow() {
            // The same outage goes on; another reason is worth a line.
            SessionState::Detached { since_boot_us, why: known } if *known == why => *since_boot_us,
            SessionState::Detached { since_boot_us, .. } => {
                tracing::warn!(why, "no session yet: dialling again");
                *since_boot_us
            }
            _ => {
                tracing::warn!(why, "session lost: dialling again");
                self.clock.boot_us()
            }
        };
        self.state.send_replace(SessionState::Detached { since_boot_us, why });
        pause
    }

    fn refused(&self, code: String, why: String) -> Duration {
        let since_boot_us = match &*self.state.borrow() {
            SessionState::Refused { since_boot_us, code: known, .. } if *known == code => {
                *since_boot_us
            }
            _ => {
                tracing::error!(
                    code,
                    why,
                    "the control plane refuses this agent: trying again slowly"
                );
                self.clock.boot_us()
            }
        };
        self.state.send_replace(SessionState::Refused { since_boot_us, code, why });
        REFUSED_PAUSE
    }

    async fn connect_and_serve(&mut self, backoff: &mut Backoff) -> End {
        let drained = self.drained.clone();
        let connected = tokio::select! {
            // An agent that is drained while it is cut off has nobody to tell.
            () = drained.cancelled() => return End::Drained,
            connected = self.connect() => connected,
        };
        match connected {
            Ok(connection) => {
                backoff.reset();
                let since_boot_us = self.clock.boot_us();
                self.state.send_replace(SessionState::Connected { since_boot_us });
                match self.serve(connection).await {
                    Ok(()) => End::Drained,
                    Err(end) => end,
                }
            }
            Err(end) => end,
        }
    }

    /// Hello with everything this agent holds, answered by Welcome.
    async fn connect(&mut self) -> Result<Connection, End> {
        let dialled = self.dialer.dial().await;
        let mut client = dialled.map_err(|error| End::Lost(sentence(&error)))?;
        let inventory = self.observed.borrow_and_update().clone();
        let (outgoing, receiver) = mpsc::channel(OUTGOING);
        let mut connection = Outgoing { outgoing, told: BTreeMap::new() };
        let hello = v1::Hello { inventory: inventory.clone(), ..self.hello.clone() };
        connection.send(agent_message::Message::Hello(hello))?;
        connection.told = inventory.into_iter().map(|o| (told_of(&o), o)).collect();
        let late = |_| End::Lost("no Welcome within 10 s".to_owned());
        let call = timeout(ANSWER, client.session(ReceiverStream::new(receiver)));
        let mut incoming = call.await.map_err(late)??.into_inner();
        let first = timeout(ANSWER, incoming.message()).await.map_err(late)??;
        match first.and_then(|message| message.message) {
            Some(control_message::Message::Welcome(welcome)) => {
                let (server, build) = (cut(&welcome.server), cut(&welcome.build));
                tracing::info!(server, build, "session open");
                Ok(Connection { outgoing: connection, incoming })
            }
            _ => Err(End::Lost("the control plane did not begin with Welcome".to_owned())),
        }
    }

    /// Every branch is cancel safe; state changes happen in the bodies.
    async fn serve(&mut self, connection: Connection) -> Result<(), End> {
        let Connection { mut outgoing, mut incoming } = connection;
        let mut ticks = interval(Duration::from_micros(BEAT_US));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_ack = Instant::now();
        let (drained, leaving) = (self.drained.clone(), self.leaving.clone());
        let (mut has_writer, mut has_said_so) = (true, false);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    if last_ack.elapsed() > ANSWER {
                        return Err(End::Lost("no beat was acknowledged for 10 s".to_owned()));
                    }
                    self.beat(&outgoing)?;
                    self.lines.tick();
                }
                () = leaving.cancelled(), if !has_said_so => {
                    has_said_so = true;
                    self.beat(&outgoing)?;
                }
                message = incoming.message() => {
                    let Some(message) = message? else {
                        return Err(End::Lost("the control plane ended the session".to_owned()));
                    };
                    if self.handle(message) {
                        last_ack = Instant::now();
                    }
                }
                changed = self.observed.changed(), if has_writer => {
                    has_writer = changed.is_ok();
                    let observed = self.observed.borrow_and_update().clone();
                    outgoing.tell(observed)?;
                }
                () = drained.cancelled() => {
                    outgoing.tell(self.observed.borrow().clone())?;
                    let lines = self.lines.now();
                    self.tell_lines(&outgoing, lines)?;
                    drop(outgoing);
                    let ended = async { while let Ok(Some(_)) = incoming.message().await {} };
                    let _ = timeout(GOODBYE, ended).await;
                    return Ok(());
                }
                lines = self.lines.said(), if self.has_time() && outgoing.is_calm() => {
                    self.tell_lines(&outgoing, lines)?;
                }
            }
        }
    }

    /// Lines have a time once the first beat was acknowledged.
    fn has_time(&self) -> bool {
        self.lines.can_go() && self.beats.offset().is_some()
    }

    fn tell_lines(&mut self, outgoing: &Outgoing, lines: Vec<Line>) -> Result<(), End> {
        let Some(offset) = self.beats.offset().filter(|_| !lines.is_empty()) else { return Ok(()) };
        let lines = self.lines.message(lines, offset.us);
        outgoing.send(agent_message::Message::Logs(lines))
    }

    fn beat(&mut self, outgoing: &Outgoing) -> Result<(), End> {
        let sent_boot_us = self.beats.sent(self.clock.boot_us());
        let leaving = self.leaving.is_cancelled();
        let beat = v1::Heartbeat { sent_boot_us, leaving };
        outgoing.send(agent_message::Message::Heartbeat(beat))
    }

    /// Whether the message was the ack of a beat.
    fn handle(&mut self, message: v1::ControlMessage) -> bool {
        match message.message {
            Some(control_message::Message::HeartbeatAck(ack)) => self.beat_acked(&ack),
            Some(control_message::Message::Desired(desired)) => {
                self.desire(desired.assignments);
                false
            }
            Some(control_message::Message::LogAck(ack)) => {
                self.lines.acked(ack.through);
                false
            }
            // A second Welcome, or a message of a later build: nothing to do.
            Some(control_message::Message::Welcome(_)) | None => false,
        }
    }

    fn beat_acked(&mut self, ack: &v1::HeartbeatAck) -> bool {
        let now_us = self.clock.boot_us();
        let (sent_us, back_us) = (ack.sent_boot_us, now_us);
        let (received_us, replied_us) = (ack.received_us, ack.replied_us);
        if !self.beats.acked(Stamps { sent_us, received_us, replied_us, back_us }) {
            return false;
        }
        for held in &ack.renewed {
            let key = Key { assignment: held.assignment_id.clone(), epoch: held.epoch };
            self.leases.renew(&key, sent_us, now_us);
        }
        if let Some(offset) = self.beats.offset() {
            self.leases.set_clock_offset(offset);
            self.offset.send_if_modified(|known| known.replace(offset.us) != Some(offset.us));
        }
        true
    }

    /// Leases begin here, at the receipt, whatever the rest of the agent is busy with.
    fn desire(&self, mut assignments: Vec<v1::Assignment>) {
        if assignments.len() > MAX_ASSIGNMENTS {
            tracing::warn!(
                n = assignments.len(),
                "more assignments than an agent takes: cut to 256"
            );
            assignments.truncate(MAX_ASSIGNMENTS);
        }
        let now_us = self.clock.boot_us();
        self.leases.keep_only(|key| assignments.iter().any(|wanted| key_of(wanted) == *key));
        for wanted in &assignments {
            self.leases.grant(&key_of(wanted), wanted.lease_us, hard_end_us(wanted), now_us);
        }
        self.desired.send_replace(Desired { assignments, is_known: true });
    }
}

pub(crate) fn key_of(wanted: &v1::Assignment) -> Key {
    Key { assignment: wanted.assignment_id.clone(), epoch: wanted.epoch }
}

fn told_of(observed: &v1::Observed) -> Key {
    Key { assignment: observed.assignment_id.clone(), epoch: observed.epoch }
}

/// The run time after which nothing is sent, as far as the assignment says; 0 says nothing.
pub(crate) fn hard_end_us(wanted: &v1::Assignment) -> u64 {
    let stated = [wanted.end_us, wanted.not_after_us].into_iter().filter(|us| *us > 0);
    stated.min().unwrap_or(u64::MAX)
}

fn cut(text: &str) -> String {
    text.chars().take(100).collect()
}

struct Connection {
    outgoing: Outgoing,
    incoming: Streaming<v1::ControlMessage>,
}

struct Outgoing {
    outgoing: mpsc::Sender<v1::AgentMessage>,
    /// What this connection has been told, by assignment and epoch.
    told: BTreeMap<Key, v1::Observed>,
}

impl Outgoing {
    fn send(&self, message: agent_message::Message) -> Result<(), End> {
        let message = v1::AgentMessage { message: Some(message) };
        let stuck = |_| End::Lost("the connection takes no more messages".to_owned());
        self.outgoing.try_send(message).map_err(stuck)
    }

    fn is_calm(&self) -> bool {
        self.outgoing.capacity() > OUTGOING - BUSY
    }

    /// Sends what differs from what was told before.
    fn tell(&mut self, observed: Vec<v1::Observed>) -> Result<(), End> {
        self.told.retain(|key, _| observed.iter().any(|now| told_of(now) == *key));
        for now in observed {
            if self.told.get(&told_of(&now)) != Some(&now) {
                self.send(agent_message::Message::Observed(now.clone()))?;
                self.told.insert(told_of(&now), now);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
