//! What one session remembers: whether it is up, which messages are open, what came in halves.
//!
//! A message is open from its PUBLISH to its PUBACK or PUBCOMP, a subscription to its SUBACK. One
//! whose time is up stays in the table as *expired*: it no longer counts against the in-flight
//! limit, but its packet id is not given away and its late ack is still recognised. A session that
//! the broker keeps keeps its messages over a lost connection, too. The tables allocate on first
//! use and only grow with what is really open. Answers that the protocol demands are appended to a
//! buffer of the caller.

use shoal_domain::plan::{Protocol, Qos};
use smallvec::SmallVec;

use super::encode;
use super::incoming::{Broken, Incoming, Message, Rules, Step, Welcome, decode};
use super::reason::Refusal;

/// QoS 2 messages that a peer may leave without its PUBREL.
const MAX_TAKEN: usize = 1_000;

/// What waits for its last ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) pid: u16,
    pub(crate) what: What,
    pub(crate) expired: bool,
    /// QoS 2: its PUBREC came, its PUBCOMP has not.
    pub(crate) released: bool,
    pub(crate) intended_us: u64,
    pub(crate) sent_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A slot of one of the group's sends, with what renders it again.
    Slot { send: u16, slot: u64, n: u32, now_us: u64, qos: Qos, n_bytes: u32 },
    /// An answer to a message; place of the listener.
    Reply { listener: u16, n_bytes: u32 },
    /// A SUBSCRIBE; place among the device's filters.
    Subscribe(u16),
}

impl What {
    fn is_message(&self) -> bool {
        !matches!(self, Self::Subscribe(_))
    }

    fn is_exactly_once(&self) -> bool {
        matches!(self, Self::Slot { qos: Qos::ExactlyOnce, .. })
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    Accepted(Welcome),
    Refused(Refusal),
    /// The peer has the message: PUBACK or PUBREC. It may have been expired before.
    Acked(Open),
    /// Nothing of it is open any more: PUBACK, PUBCOMP or SUBACK.
    Done(Open),
    /// The peer said no; nothing of it is open any more.
    Rejected(Open, Refusal),
    /// Each message once, also with QoS 2.
    Message(Message<'a>),
    Pong,
    /// The server ends the connection and says why.
    Ended(Refusal),
}

#[derive(Debug)]
pub(crate) struct Session {
    rules: Rules,
    accepted: bool,
    last_pid: u16,
    n_live: u32,
    welcome: Welcome,
    leftover: Vec<u8>,
    /// Most have one at a time.
    open: SmallVec<[Open; 1]>,
    /// QoS 2 messages of the peer whose PUBREL has not come.
    taken: Vec<u16>,
}

impl Session {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            accepted: false,
            last_pid: 0,
            n_live: 0,
            welcome: Welcome::plain(false),
            leftover: Vec::new(),
            open: SmallVec::new(),
            taken: Vec::new(),
        }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.rules.protocol
    }

    /// What the peer granted with its last CONNACK.
    pub(crate) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Messages that count against the in-flight limit.
    pub(crate) fn n_live(&self) -> u32 {
        self.n_live
    }

    /// Messages that may go out with QoS 1 or 2 now, of at most `max_in_flight`.
    pub(crate) fn room(&self, max_in_flight: u32) -> u32 {
        max_in_flight.min(u32::from(self.welcome.receive_maximum)).saturating_sub(self.n_live)
    }

    /// A packet id that nothing open has; `None` if all are taken.
    pub(crate) fn next_pid(&mut self) -> Option<u16> {
        if self.open.len() >= usize::from(u16::MAX) {
            return None;
        }
        loop {
            self.last_pid = self.last_pid.checked_add(1).unwrap_or(1);
            // Without expired messages the ids go round far behind the open ones.
            let pid = self.last_pid;
            if !self.open.iter().any(|open| open.pid == pid) {
                return Some(pid);
            }
        }
    }

    pub(crate) fn opened(&mut self, open: Open) {
        self.n_live += u32::from(open.what.is_message());
        self.open.push(open);
    }

    /// Marks what `is_over` picks of the live, and hands each to `each`.
    pub(crate) fn expire(&mut self, is_over: impl Fn(&Open) -> bool, mut each: impl FnMut(&Open)) {
        for open in self.open.iter_mut().filter(|open| !open.expired && is_over(open)) {
            open.expired = true;
            self.n_live -= u32::from(open.what.is_message());
            each(open);
        }
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Open> {
        self.open.iter().filter(|open| !open.expired)
    }

    /// Everything that a later connection of this session must bring to its end, in order.
    pub(crate) fn unfinished(&self) -> &[Open] {
        &self.open
    }

    /// The session is over: forgets all and returns what was live.
    pub(crate) fn reset(&mut self) -> Vec<Open> {
        let open = std::mem::take(&mut self.open);
        *self = Self { last_pid: self.last_pid, ..Self::new(self.rules) };
        open.into_iter().filter(|open| !open.expired).collect()
    }

    /// The connection is over, the session goes on: returns what was live and ends with the
    /// connection, which is all but slots.
    pub(crate) fn suspend(&mut self) -> Vec<Open> {
        let (kept, gone): (SmallVec<[Open; 1]>, SmallVec<[Open; 1]>) =
            std::mem::take(&mut self.open)
                .into_iter()
                .partition(|open| matches!(open.what, What::Slot { .. }));
        *self = Self {
            last_pid: self.last_pid,
            open: kept,
            taken: std::mem::take(&mut self.taken),
            ..Self::new(self.rules)
        };
        self.n_live = self.live().count() as u32;
        gone.into_iter().filter(|open| !open.expired).collect()
    }

    /// The peer has forgotten the session: nothing of it can be brought to its end any more.
    pub(crate) fn forgotten(&mut self) -> Vec<Open> {
        self.taken = Vec::new();
        self.n_live = 0;
        let open = std::mem::take(&mut self.open);
        open.into_iter().filter(|open| !open.expired).collect()
    }

    /// Takes what came from the peer, hands on what it means, in order, and appends to `answers`
    /// what the protocol demands.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        answers: &mut Vec<u8>,
        mut each: impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        if self.leftover.is_empty() {
            let used = self.consume(bytes, answers, &mut each)?;
            self.leftover.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.leftover);
        joined.extend_from_slice(bytes);
        let used = self.consume(&joined, answers, &mut each)?;
        joined.drain(..used);
        // An empty vector without room: an idle device holds no buffer.
        self.leftover = if joined.is_empty() { Vec::new() } else { joined };
        Ok(())
    }

    fn consume(
        &mut self,
        bytes: &[u8],
        answers: &mut Vec<u8>,
        each: &mut impl FnMut(Event<'_>),
    ) -> Result<usize, Broken> {
        let mut used = 0;
        while let Some((packet, len)) = decode(self.rules, &bytes[used..])? {
            used += len;
            self.accept(packet, answers, each)?;
        }
        Ok(used)
    }

    fn accept(
        &mut self,
        packet: Incoming<'_>,
        answers: &mut Vec<u8>,
        each: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        match packet {
            Incoming::ConnAck(_) if self.accepted => return Err(Broken::OutOfTurn),
            Incoming::ConnAck(Ok(welcome)) => {
                self.accepted = true;
                self.welcome = welcome;
                each(Event::Accepted(welcome));
            }
            Incoming::ConnAck(Err(refusal)) => each(Event::Refused(refusal)),
            _ if !self.accepted => return Err(Broken::OutOfTurn),
            Incoming::Ack { step, pid, refusal } => self.ack(step, pid, refusal, answers, each),
            Incoming::SubAck { pid, refusal } => {
                if let Some(open) = self.close(pid, |what| !what.is_message()) {
                    each(match refusal {
                        None => Event::Done(open),
                        Some(refusal) => Event::Rejected(open, refusal),
                    });
                }
            }
            Incoming::Publish(message) => self.take(message, answers, each)?,
            Incoming::PingResp => each(Event::Pong),
            Incoming::Disconnect(refusal) => each(Event::Ended(refusal)),
        }
        Ok(())
    }

    /// A second ack of one message, or one of a message that we never sent, closes nothing.
    fn ack(
        &mut self,
        step: Step,
        pid: u16,
        refusal: Option<Refusal>,
        answers: &mut Vec<u8>,
        each: &mut impl FnMut(Event<'_>),
    ) {
        match (step, refusal) {
            (Step::Ack, None) => {
                let at_least_once = |what: &What| what.is_message() && !what.is_exactly_once();
                if let Some(open) = self.close(pid, at_least_once) {
                    each(Event::Acked(open));
                    each(Event::Done(open));
                }
            }
            (Step::Rec, None) => {
                let is_it = |open: &&mut Open| open.pid == pid && open.what.is_exactly_once();
                if let Some(open) = self.open.iter_mut().find(is_it)
                    && !open.released
                {
                    open.released = true;
                    each(Event::Acked(*open));
                }
                // Also for an id that is not known, so that the peer can forget it.
                encode::ack(answers, Step::Rel, pid);
            }
            (Step::Comp, _) => {
                if let Some(open) = self.close(pid, What::is_exactly_once) {
                    each(Event::Done(open));
                }
            }
            (Step::Rel, _) => {
                self.taken.retain(|taken| *taken != pid);
                encode::ack(answers, Step::Comp, pid);
            }
            (Step::Ack | Step::Rec, Some(refusal)) => {
                if let Some(open) = self.close(pid, What::is_message) {
                    each(Event::Rejected(open, refusal));
                }
            }
        }
    }

    fn take(
        &mut self,
        message: Message<'_>,
        answers: &mut Vec<u8>,
        each: &mut impl FnMut(Event<'_>),
    ) -> Result<(), Broken> {
        match message.qos {
            0 => {}
            1 => encode::ack(answers, Step::Ack, message.pid),
            _ => {
                encode::ack(answers, Step::Rec, message.pid);
                if self.taken.contains(&message.pid) {
                    return Ok(());
                }
                if self.taken.len() >= MAX_TAKEN {
                    return Err(Broken::TooManyOpen);
                }
                self.taken.push(message.pid);
            }
        }
        each(Event::Message(message));
        Ok(())
    }

    fn close(&mut self, pid: u16, is_kind: impl Fn(&What) -> bool) -> Option<Open> {
        let place = self.open.iter().position(|open| open.pid == pid && is_kind(&open.what))?;
        let open = self.open.remove(place);
        if !open.expired {
            self.n_live -= u32::from(open.what.is_message());
        }
        Some(open)
    }
}
