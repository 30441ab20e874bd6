//! Messages: from waiting slots to one write, and from acks to samples.
//!
//! What the socket does not take was not sent: its slots go back to wait and render anew. Only a
//! packet that left in part keeps its bytes, because the peer has seen its start.

use std::rc::Rc;

use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Action, Publish, Qos, Send};
use shoal_domain::receipts::Run;
use shoal_domain::requests::End;
use shoal_domain::template::{DeviceScope, MessageScope, Template, Walks};

use super::super::book::Due;
use super::super::core::Core;
use super::connecting::Link;
use super::proof::Proof;
use super::tried::Tried;
use super::{Device, Lost, addressee};
use crate::mqtt::encode::{self, Delivery, Head, TooLong, property};
use crate::mqtt::{Open, What};
use crate::recorder::{Passage, SlotClass};
use crate::sparkplug;

/// One write holds what fits here and at least one message.
const MAX_WRITE: usize = 16 * 1024;
/// Beyond this, a PINGRESP that is half the keep-alive late means that nobody is there.
const PING_GRACE_US: u64 = 5_000_000;

/// What a device remembers of one of its series.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Packets handed to the socket.
    pub(super) n: u32,
    pub(super) walks: Walks,
    pub(super) proof: Proof,
    /// The broker knows this series' topic by its number, on this connection.
    pub(super) aliased: bool,
}

/// What one device hands to its socket at once; the memory is lent to one after the other.
#[derive(Default)]
pub(in crate::engine) struct Parcel {
    bytes: Vec<u8>,
    packets: Vec<Packet>,
    /// Run time of the write.
    at_us: u64,
    /// How many of the bytes the socket took.
    taken: usize,
    broken: Option<std::io::Error>,
}

struct Packet {
    due: Due,
    pid: Option<u16>,
    end: usize,
    now_us: u64,
    n: u32,
    /// Of its payload.
    n_bytes: usize,
    /// It tells the broker the number of its topic.
    names_alias: bool,
}

/// One message of a slot, as often as it is written.
pub(super) struct Copy {
    pub(super) send: usize,
    pub(super) slot: u64,
    pub(super) n: u32,
    pub(super) now_us: u64,
    pub(super) delivery: Delivery,
    /// The peer may have it already.
    pub(super) dup: bool,
}

impl Device {
    /// Sends waiting slots as far as connection, socket, in-flight limit and lease allow.
    pub(super) fn pump(&mut self, core: &Rc<Core>) {
        // Most wake-ups end here: nothing waits.
        while self.may_write() {
            let mut parcel = core.parcel.borrow_mut();
            if !self.write(core, &mut parcel) {
                return;
            }
            self.commit(core, &mut parcel);
        }
    }

    fn may_write(&self) -> bool {
        self.book.has_waiting()
            && matches!(self.link, Link::Up(_))
            && !self.blocked
            && self.leave_by_us.is_none()
    }

    /// Renders what may leave and hands it to the socket; whether there was anything. If so,
    /// [`Device::commit`] books it.
    pub(super) fn write(&mut self, core: &Core, parcel: &mut Parcel) -> bool {
        let boot_us = core.boot_us();
        if !self.may_write() || !core.control.may_send(boot_us) {
            return false;
        }
        self.render(core, boot_us, parcel);
        let Link::Up(transport) = &mut self.link else { return false };
        if parcel.packets.is_empty() {
            return false;
        }
        parcel.at_us = core.run_us(boot_us);
        (parcel.taken, parcel.broken) = match transport.try_write(&parcel.bytes) {
            Ok(n) => (n, None),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (0, None),
            Err(error) => (0, Some(error)),
        };
        true
    }

    /// Fills the parcel with the messages that may leave now.
    fn render(&mut self, core: &Core, boot_us: u64, parcel: &mut Parcel) {
        parcel.bytes.clear();
        parcel.packets.clear();
        let group = &core.plan.groups[self.group];
        let sends = group.sends();
        let now_us = core.control.control_unix_us(boot_us);
        let mut room = self.session.room(group.max_in_flight);
        // Without its subscription a command's reply would be lost.
        let listens = self.talk.is_none() || self.is_listening();
        while parcel.bytes.len() < MAX_WRITE {
            let has_room = |send: usize| {
                (publish_of(&sends[send]).qos == Qos::AtMostOnce || room > 0)
                    && (listens || !matches!(sends[send].action, Action::Command(_)))
            };
            let Some(due) = self.book.take(has_room) else { return };
            let publish = publish_of(&sends[due.send]);
            let pid = match publish.qos {
                Qos::AtMostOnce => None,
                Qos::AtLeastOnce | Qos::ExactlyOnce => {
                    let Some(pid) = self.session.next_pid() else {
                        self.book.put_back(&due);
                        return;
                    };
                    room -= 1;
                    Some(pid)
                }
            };
            let (start, n) = (parcel.bytes.len(), self.streams[due.send].n);
            let delivery = Delivery { qos: publish.qos, pid: pid.unwrap_or(0) };
            let (send, slot) = (due.send, due.slot);
            let copy = Copy { send, slot, n, now_us, delivery, dup: false };
            let was_aliased = self.streams[send].aliased;
            let was_seq = self.edge.as_ref().map(|node| node.seq);
            let written = self.write_copy(core, &copy, &mut parcel.bytes);
            let end = parcel.bytes.len();
            let n_bytes = written.unwrap_or(0);
            if written.is_err() || end - start > self.session.welcome().maximum_packet as usize {
                parcel.bytes.truncate(start);
                self.streams[send].aliased = was_aliased;
                if let (Some(node), Some(seq)) = (&mut self.edge, was_seq) {
                    node.seq = seq;
                }
                room += u32::from(pid.is_some());
                self.too_large(core, &due, end - start);
                continue;
            }
            let stream = &mut self.streams[send];
            stream.n = n.wrapping_add(1);
            let names_alias = stream.aliased && !was_aliased;
            parcel.packets.push(Packet { due, pid, end, now_us, n, n_bytes, names_alias });
        }
    }

    /// A message that no packet, or none that this broker takes, can hold stays here.
    fn too_large(&self, core: &Core, due: &Due, n_bytes: usize) {
        let series = core.plan.groups[self.group].sends()[due.send].series;
        let stage = core.plan.stage_of(self.group, due.intended_us);
        core.recorder.borrow_mut().class(series, stage, SlotClass::Unsent);
        let text = match n_bytes {
            0 => "a message is longer than MQTT allows".to_owned(),
            n => format!(
                "a message of {n} bytes, but the broker takes {}",
                self.session.welcome().maximum_packet
            ),
        };
        let lost = Lost { class: ErrorClass::PacketTooLarge, text };
        self.failed(core, series, stage, &lost, core.now_us());
    }

    /// Renders one message; the same copy gives the same bytes, but for its DUP flag and alias.
    /// How long its payload is.
    pub(super) fn write_copy(
        &mut self,
        core: &Core,
        copy: &Copy,
        out: &mut Vec<u8>,
    ) -> Result<usize, TooLong> {
        let group = &core.plan.groups[self.group];
        let send = &group.sends()[copy.send];
        let publish = publish_of(send);
        let device = DeviceScope {
            index: self.index,
            device: &self.identity.id,
            lets: &self.identity.lets,
            rows: group.rows.as_ref(),
            ..super::scope(core.seed, &core.mark, self.group, &core.secrets)
        };
        let message = MessageScope {
            series: send.series,
            slot: copy.slot,
            child: 0,
            incarnation: self.incarnation,
            n: copy.n,
            now_us: copy.now_us,
        };
        let message = message.behind(send.pace.children);
        let addressee = addressee(&core.plan, &device, send, copy.slot);
        let device = DeviceScope { captured: &addressee, ..device };
        let alias = self.alias_of(copy, publish);
        let edge = self.edge.as_mut().filter(|_| send.sparkplug().is_some());
        let Stream { walks, aliased, .. } = &mut self.streams[copy.send];
        let is_known = alias.is_some() && *aliased;
        *aliased |= alias.is_some();
        // All parts draw on the same walks, one after the other.
        let walks = std::cell::RefCell::new(walks);
        let render = |template: &Template, out: &mut Vec<u8>| {
            template.render_message(&device, &message, &mut walks.borrow_mut(), out);
        };
        let head = Head {
            protocol: self.session.protocol(),
            delivery: copy.delivery,
            retain: publish.retain,
            dup: copy.dup,
        };
        let properties = |out: &mut Vec<u8>| {
            if let Some(seconds) = publish.properties.message_expiry_s {
                property::message_expiry(out, seconds);
            }
            if let Some(alias) = alias {
                property::topic_alias(out, alias);
            }
            if let Some(kind) = &publish.properties.content_type {
                property::content_type(out, |out| render(kind, out))?;
            }
            for (name, value) in &publish.properties.user {
                property::user(out, name, |out| render(value, out))?;
            }
            Ok(())
        };
        let topic = |out: &mut Vec<u8>| {
            if !is_known {
                render(&publish.topic, out);
            }
        };
        let mut n_bytes = 0;
        let payload = |out: &mut Vec<u8>| {
            let start = out.len();
            render(&publish.payload, out);
            if let Some(node) = edge {
                sparkplug::end(out, node.take_seq());
            }
            n_bytes = out.len() - start;
        };
        encode::publish(out, head, topic, properties, payload)?;
        Ok(n_bytes)
    }

    /// The number by which the broker may know this message's topic. Only a message's first copy
    /// uses one: what is sent again must be understood without what came before it.
    fn alias_of(&self, copy: &Copy, publish: &Publish) -> Option<u16> {
        let alias = u16::try_from(copy.send + 1).ok()?;
        let is_used = publish.properties.topic_alias && !copy.dup;
        (is_used && alias <= self.session.welcome().topic_alias_maximum).then_some(alias)
    }

    /// Books what left and puts back the rest.
    pub(super) fn commit(&mut self, core: &Core, parcel: &mut Parcel) {
        let (now, written) = (parcel.at_us, parcel.taken);
        let sends = core.plan.groups[self.group].sends();
        let mut start = 0;
        let mut n_left = 0;
        for packet in parcel.packets.iter().take_while(|packet| {
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
            let mut recorder = core.recorder.borrow_mut();
            recorder.sent(send.series, stage, lag_us, packet.due.held);
            recorder.tally(send.series, stage).bytes += packet.n_bytes as u64;
            let (device, incarnation) = (self.index as u32, self.incarnation);
            let run = Run::one(device, incarnation, packet.n);
            recorder.number(send.series, Passage::Sent, run);
            drop(recorder);
            if let (Action::Command(command), Some(talk)) = (&send.action, &mut self.talk) {
                let times = (intended_us, now);
                let n_bytes = packet.n_bytes as u32;
                talk.commanded(
                    packet.due.send as u16,
                    packet.n,
                    times,
                    n_bytes,
                    command.timeout_us,
                );
                core.opened();
            } else if packet.pid.is_none() {
                let (number, bytes) = (u64::from(packet.n), packet.n_bytes as u64);
                let series = send.series;
                let tried = Tried { series, number, intended_us, sent_us: now, bytes };
                self.who().ended(core, &tried, None, End::Sent);
            }
            if let Some(pid) = packet.pid {
                let what = What::Slot {
                    send: packet.due.send as u16,
                    slot: packet.due.slot,
                    n: packet.n,
                    now_us: packet.now_us,
                    qos: publish_of(send).qos,
                    n_bytes: packet.n_bytes as u32,
                };
                let (expired, released, sent_us) = (false, false, now);
                self.session.opened(Open { pid, what, expired, released, intended_us, sent_us });
                core.opened();
                let deadline =
                    now.saturating_add(publish_of(&sends[packet.due.send]).ack_timeout_us);
                self.ack_deadline_us = self.ack_deadline_us.min(deadline);
            }
        }
        // `start` is now the end of the last packet of which anything left.
        self.rest.extend_from_slice(&parcel.bytes[written..start.max(written)]);
        for packet in parcel.packets[n_left..].iter().rev() {
            let stream = &mut self.streams[packet.due.send];
            stream.n = stream.n.wrapping_sub(1);
            stream.aliased &= !packet.names_alias;
            if let (Some(node), Some(_)) = (&mut self.edge, sends[packet.due.send].sparkplug()) {
                node.seq = node.seq.wrapping_sub(1);
            }
            self.book.put_back(&packet.due);
        }
        if written > 0 {
            self.written_us = now;
        }
        self.blocked = written < parcel.bytes.len() || self.is_behind();
        if let Some(error) = parcel.broken.take() {
            self.lost(core, Lost::broken(&error));
        }
    }

    /// Whether the transport holds bytes for a socket that takes no more.
    fn is_behind(&self) -> bool {
        match &self.link {
            Link::Greeting { transport, .. } | Link::Up(transport) => transport.is_behind(),
            _ => false,
        }
    }

    /// Says something of the protocol's own, before any message that still waits.
    pub(super) fn say(&mut self, core: &Rc<Core>, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        if !self.blocked {
            self.flush(core);
        }
    }

    /// The socket takes bytes again: first the rest of the packet that it took the start of.
    pub(super) fn flush(&mut self, core: &Rc<Core>) {
        self.blocked = false;
        loop {
            let (Link::Greeting { transport, .. } | Link::Up(transport)) = &mut self.link else {
                return;
            };
            if !core.control.may_send(core.boot_us()) {
                return;
            }
            let written = match self.rest.is_empty() {
                true => transport.push().map(|()| 0),
                false => transport.try_write(&self.rest),
            };
            match written {
                Ok(0) if self.rest.is_empty() => break,
                Ok(n) => {
                    self.rest.drain(..n);
                    self.written_us = core.now_us();
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return;
                }
                Err(error) => return self.lost(core, Lost::broken(&error)),
            }
        }
        self.rest = Vec::new();
        self.blocked = self.is_behind();
        self.pump(core);
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
        self.asked_for_life();
        self.say(core, &encode::PINGREQ);
        false
    }

    pub(super) fn keep_alive_wake_us(&self, core: &Core) -> u64 {
        // The broker may have asked for another one (MQTT 5).
        let keep_alive = match self.session.welcome().keep_alive_s {
            Some(seconds) => u64::from(seconds) * 1_000_000,
            None => self.target(core).keep_alive_us,
        };
        match self.ping_us {
            Some(at) => at.saturating_add(keep_alive / 2 + PING_GRACE_US),
            // A socket that takes nothing is not idle; the run's end needs no ping.
            None if keep_alive == 0 || self.blocked || core.closing.get() => u64::MAX,
            None => self.written_us.saturating_add(keep_alive),
        }
    }
}

/// `check` pairs the actions of a group with its target.
pub(super) fn publish_of(send: &Send) -> &Publish {
    send.publish().expect("an MQTT device publishes")
}
