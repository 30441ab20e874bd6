//! What one connection remembers: whether it is up, which messages are open, what came in halves.
//!
//! An open message whose time is up stays in the table as *expired*: it no longer counts against
//! the in-flight limit, but its packet id is not given away and its late ack is still recognised.
//! The tables allocate on first use and only grow with what is really open.

use super::incoming::{Broken, Incoming, Refusal, decode};

/// A QoS 1 message without its PUBACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) pid: u16,
    /// Place of the series among the group's sends.
    pub(crate) send: u16,
    pub(crate) expired: bool,
    pub(crate) intended_us: u64,
    pub(crate) sent_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Accepted,
    Refused(Refusal),
    /// The message is no longer open; it may have been expired before.
    Acked(Open),
    Pong,
}

#[derive(Debug, Default)]
pub(crate) struct Session {
    accepted: bool,
    last_pid: u16,
    n_live: u32,
    leftover: Vec<u8>,
    open: Vec<Open>,
}

impl Session {
    /// Messages that count against the in-flight limit.
    pub(crate) fn n_live(&self) -> u32 {
        self.n_live
    }

    /// A packet id that no open message has; `None` if all are taken.
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
        self.n_live += 1;
        self.open.push(open);
    }

    /// Marks the live messages that `is_over` picks, and hands each to `each`.
    pub(crate) fn expire(&mut self, is_over: impl Fn(&Open) -> bool, mut each: impl FnMut(&Open)) {
        for open in self.open.iter_mut().filter(|open| !open.expired && is_over(open)) {
            open.expired = true;
            self.n_live -= 1;
            each(open);
        }
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Open> {
        self.open.iter().filter(|open| !open.expired)
    }

    /// The connection is over: forgets all and returns the messages that were live.
    pub(crate) fn reset(&mut self) -> Vec<Open> {
        let open = std::mem::take(&mut self.open);
        *self = Self::default();
        open.into_iter().filter(|open| !open.expired).collect()
    }

    /// Takes what came from the peer and hands on what it means, in order.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Event),
    ) -> Result<(), Broken> {
        if self.leftover.is_empty() {
            let used = self.consume(bytes, &mut each)?;
            self.leftover.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.leftover);
        joined.extend_from_slice(bytes);
        let used = self.consume(&joined, &mut each)?;
        joined.drain(..used);
        // An empty vector without room: an idle device holds no buffer.
        self.leftover = if joined.is_empty() { Vec::new() } else { joined };
        Ok(())
    }

    fn consume(&mut self, bytes: &[u8], each: &mut impl FnMut(Event)) -> Result<usize, Broken> {
        let mut used = 0;
        while let Some((packet, len)) = decode(&bytes[used..])? {
            used += len;
            if let Some(event) = self.accept(packet)? {
                each(event);
            }
        }
        Ok(used)
    }

    fn accept(&mut self, packet: Incoming) -> Result<Option<Event>, Broken> {
        match (packet, self.accepted) {
            (Incoming::ConnAck(Ok(())), false) => {
                self.accepted = true;
                Ok(Some(Event::Accepted))
            }
            (Incoming::ConnAck(Err(refusal)), false) => Ok(Some(Event::Refused(refusal))),
            (Incoming::ConnAck(_), true) | (_, false) => Err(Broken::OutOfTurn),
            (Incoming::PingResp, true) => Ok(Some(Event::Pong)),
            // A second ack of one message closes nothing and harms nobody.
            (Incoming::PubAck(pid), true) => Ok(self.close(pid).map(Event::Acked)),
        }
    }

    fn close(&mut self, pid: u16) -> Option<Open> {
        let place = self.open.iter().position(|open| open.pid == pid)?;
        let open = self.open.remove(place);
        if !open.expired {
            self.n_live -= 1;
        }
        Some(open)
    }
}
