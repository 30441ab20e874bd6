//! Messages: from waiting slots to one write, and from acks to samples.
//!
//! What the socket does not take was not sent: its slots go back to wait and render anew. Only a
//! packet that left in part keeps its bytes, because the peer has seen its start.

use std::rc::Rc;

use shoal_domain::ids::{SeriesId, StageId};
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Publish, Qos, Send};
use shoal_domain::template::{DeviceScope, MessageScope, Walks};

use super::super::book::Due;
use super::super::core::Core;
use super::connecting::Link;
use super::{Device, Lost};
use crate::mqtt::Open;
use crate::mqtt::encode::{self, Delivery};
use crate::recorder::SlotClass;

/// One write holds what fits here and at least one message.
const MAX_WRITE: usize = 16 * 1024;
/// Beyond this, a PINGRESP that is half the keep-alive late means that nobody is there.
const PING_GRACE_US: u64 = 5_000_000;

/// What a device remembers of one of its series.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Packets handed to the socket.
    n: u32,
    walks: Walks,
}

/// Memory for rendering that all devices of a core share.
#[derive(Default)]
pub(in crate::engine) struct Scratch {
    bytes: Vec<u8>,
    batch: Vec<Packet>,
}

struct Packet {
    due: Due,
    pid: Option<u16>,
    end: usize,
}

impl Device {
    /// Sends waiting slots as far as connection, socket, in-flight limit and lease allow.
    pub(super) fn pump(&mut self, core: &Rc<Core>) {
        // Most wake-ups end here: nothing waits.
        while self.book.has_waiting()
            && matches!(self.link, Link::Up(_))
            && !self.blocked
            && self.leave_by_us.is_none()
        {
            let mut scratch = core.scratch.borrow_mut();
            let boot_us = core.boot_us();
            if !core.control.may_send(boot_us) {
                return;
            }
            self.render(core, boot_us, &mut scratch);
            let Link::Up(stream) = &self.link else { return };
            if scratch.batch.is_empty() {
                return;
            }
            let now = core.run_us(boot_us);
            match stream.try_write(&scratch.bytes) {
                Ok(n) => self.commit(core, now, n, &mut scratch),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.commit(core, now, 0, &mut scratch);
                }
                Err(error) => {
                    self.commit(core, now, 0, &mut scratch);
                    let text = format!("the connection broke: {error}");
                    self.lost(core, Lost { class: ErrorClass::ConnectionLost, text });
                }
            }
        }
    }

    /// Fills the scratch memory with the messages that may leave now.
    fn render(&mut self, core: &Core, boot_us: u64, scratch: &mut Scratch) {
        scratch.bytes.clear();
        scratch.batch.clear();
        let group = &core.plan.groups[self.group];
        let sends = group.sends();
        let now_us = core.control.control_unix_us(boot_us);
        let device = DeviceScope {
            seed: core.seed,
            run: &core.mark,
            group: self.group as u32,
            index: self.index,
            device: &self.identity.id,
            lets: &self.identity.lets,
            rows: group.rows.as_ref(),
            captured: &[],
            secrets: &core.secrets,
        };
        let mut room = group.max_in_flight.saturating_sub(self.session.n_live());
        while scratch.bytes.len() < MAX_WRITE {
            let has_room = |send: usize| !publish_of(&sends[send]).is_acknowledged() || room > 0;
            let Some(due) = self.book.take(has_room) else { return };
            let send = &sends[due.send];
            let publish = publish_of(send);
            let (delivery, pid) = match publish.qos {
                Qos::AtMostOnce => (Delivery::AtMostOnce, None),
                Qos::AtLeastOnce | Qos::ExactlyOnce => {
                    let Some(pid) = self.session.next_pid() else {
                        self.book.put_back(&due);
                        return;
                    };
                    room -= 1;
                    (Delivery::AtLeastOnce(pid), Some(pid))
                }
            };
            let stream = &mut self.streams[due.send];
            let message = MessageScope {
                series: send.series,
                slot: due.slot,
                incarnation: self.incarnation,
                n: stream.n,
                now_us,
            };
            // Both parts draw on the same walks, one after the other.
            let walks = std::cell::RefCell::new(&mut stream.walks);
            let topic = |out: &mut Vec<u8>| {
                publish.topic.render_message(&device, &message, &mut walks.borrow_mut(), out);
            };
            let payload = |out: &mut Vec<u8>| {
                publish.payload.render_message(&device, &message, &mut walks.borrow_mut(), out);
            };
            match encode::publish(&mut scratch.bytes, delivery, publish.retain, topic, payload) {
                Ok(()) => {
                    stream.n = stream.n.wrapping_add(1);
                    scratch.batch.push(Packet { due, pid, end: scratch.bytes.len() });
                }
                // `check` bounds topics and payloads; a message that no packet can hold stays here.
                Err(_) => {
                    let stage = core.plan.stage_of(self.group, due.intended_us);
                    core.recorder.borrow_mut().class(send.series, stage, SlotClass::Unsent);
                }
            }
        }
    }

    /// The socket took the first `written` bytes: books what left and puts back the rest.
    fn commit(&mut self, core: &Core, now: u64, written: usize, scratch: &mut Scratch) {
        let sends = core.plan.groups[self.group].sends();
        let mut start = 0;
        let mut n_left = 0;
        for packet in scratch.batch.iter().take_while(|packet| {
            let left = start < written;
            if left {
                start = packet.end;
            }
            left
        }) {
            n_left += 1;
            let send = &sends[packet.due.send];
            let intended_us = packet.due.intended_us;
            let stage = core.plan.stage_of(self.group, intended_us);
            let lag_us = now.saturating_sub(intended_us);
            core.recorder.borrow_mut().sent(send.series, stage, lag_us, packet.due.held);
            if let Some(pid) = packet.pid {
                let send = packet.due.send as u16;
                let open = Open { pid, send, expired: false, intended_us, sent_us: now };
                self.session.opened(open);
                core.opened();
                let deadline =
                    now.saturating_add(publish_of(&sends[packet.due.send]).ack_timeout_us);
                self.ack_deadline_us = self.ack_deadline_us.min(deadline);
            }
        }
        // `start` is now the end of the last packet of which anything left.
        self.rest.extend_from_slice(&scratch.bytes[written..start.max(written)]);
        for packet in scratch.batch[n_left..].iter().rev() {
            let n = &mut self.streams[packet.due.send].n;
            *n = n.wrapping_sub(1);
            self.book.put_back(&packet.due);
        }
        if written > 0 {
            self.written_us = now;
        }
        self.blocked = written < scratch.bytes.len();
    }

    /// The socket takes bytes again: first the rest of the packet that it took the start of.
    pub(super) fn flush(&mut self, core: &Rc<Core>) {
        self.blocked = false;
        while !self.rest.is_empty() {
            let (Link::Greeting { stream, .. } | Link::Up(stream)) = &self.link else { return };
            if !core.control.may_send(core.boot_us()) {
                return;
            }
            match stream.try_write(&self.rest) {
                Ok(n) => {
                    self.rest.drain(..n);
                    self.written_us = core.now_us();
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return;
                }
                Err(error) => {
                    let text = format!("the connection broke: {error}");
                    return self.lost(core, Lost { class: ErrorClass::ConnectionLost, text });
                }
            }
        }
        self.rest = Vec::new();
        self.pump(core);
    }

    pub(super) fn expire_acks(&mut self, core: &Core, now: u64) {
        if now < self.ack_deadline_us {
            return;
        }
        let sends = core.plan.groups[self.group].sends();
        let timeout_us = |open: &Open| publish_of(&sends[usize::from(open.send)]).ack_timeout_us;
        let deadline = |open: &Open| open.sent_us.saturating_add(timeout_us(open));
        let mut over = Vec::new();
        self.session.expire(|open| deadline(open) <= now, |open| over.push(*open));
        self.ack_deadline_us = self.session.live().map(deadline).min().unwrap_or(u64::MAX);
        for open in over {
            core.answered();
            let send = &sends[usize::from(open.send)];
            let stage = core.plan.stage_of(self.group, open.intended_us);
            let within = std::time::Duration::from_micros(timeout_us(&open));
            let text = format!("no PUBACK within {within:?}");
            let lost = Lost { class: ErrorClass::AckTimeout, text };
            self.failed(core, send.series, stage, &lost, now);
            record_times(core, send.series, stage, &open, now);
        }
    }

    /// Says PINGREQ when nothing else was said for the keep-alive. Whether the connection is lost.
    pub(super) fn keep_alive(&mut self, core: &Rc<Core>, now: u64) -> bool {
        if now < self.keep_alive_wake_us(core) {
            return false;
        }
        if self.ping_us.is_some() {
            let text = "no PINGRESP: the peer is gone".to_owned();
            self.lost(core, Lost { class: ErrorClass::ConnectionLost, text });
            return true;
        }
        self.ping_us = Some(now);
        self.rest.extend_from_slice(&encode::PINGREQ);
        self.flush(core);
        false
    }

    pub(super) fn keep_alive_wake_us(&self, core: &Core) -> u64 {
        let keep_alive = self.target(core).keep_alive_us;
        match self.ping_us {
            Some(at) => at.saturating_add(keep_alive / 2 + PING_GRACE_US),
            // A socket that takes nothing is not idle; the run's end needs no ping.
            None if keep_alive == 0 || self.blocked || core.closing.get() => u64::MAX,
            None => self.written_us.saturating_add(keep_alive),
        }
    }

    /// A clean end, so that the broker publishes no will.
    pub(super) fn say_goodbye(&mut self) {
        if let (Link::Up(stream), true, false) = (&self.link, self.rest.is_empty(), self.blocked) {
            // Best effort: the connection closes right after it in any case.
            let _ = stream.try_write(&encode::DISCONNECT);
        }
    }
}

/// `check` pairs the actions of a group with its target.
fn publish_of(send: &Send) -> &Publish {
    send.publish().expect("an MQTT device publishes")
}

/// A PUBACK came, in time or after its time-out.
pub(super) fn acked(core: &Core, group: usize, open: &Open, now: u64) {
    let send = &core.plan.groups[group].sends()[usize::from(open.send)];
    let stage = core.plan.stage_of(group, open.intended_us);
    core.recorder.borrow_mut().tally(send.series, stage).acked += 1;
    if !open.expired {
        core.answered();
        record_times(core, send.series, stage, open, now);
    }
}

fn record_times(core: &Core, series: SeriesId, stage: StageId, open: &Open, now: u64) {
    let mut recorder = core.recorder.borrow_mut();
    let tally = recorder.tally(series, stage);
    tally.response_time.record(now.saturating_sub(open.intended_us));
    tally.service_time.record(now.saturating_sub(open.sent_us));
}
