//! Edge nodes of Sparkplug B: births with each connection, deaths by the will, one sequence of
//! numbers over everything between.
//!
//! A birth certificate is the connection's first message after the subscription to commands, so no
//! report can overtake it; a command to be born again is answered at once. Values in it are those
//! of the reports that come next. Invariant: what the socket took has the numbers 0, 1, ..., 255, 0
//! without a hole, beginning with the birth.

use std::rc::Rc;

use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Group, Metrics, Qos, Sparkplug};
use shoal_domain::requests::End;
use shoal_domain::template::{DeviceScope, MessageScope};

use super::super::core::Core;
use super::tried::Tried;
use super::{Device, Identity, Lost, Who, note_failure};
use crate::mqtt::Message;
use crate::mqtt::encode::{self, Delivery, Head, Will};
use crate::mqtt::filter::matches;
use crate::sparkplug;

/// What an edge node remembers.
#[derive(Debug)]
pub(in crate::engine) struct EdgeNode {
    group_id: Box<str>,
    /// The devices below it.
    devices: Box<[String]>,
    /// Of the connection that is up or about to be.
    bd_seq: u8,
    /// Of the next message.
    pub(super) seq: u8,
    /// A command to be born again has come.
    is_asked: bool,
}

impl EdgeNode {
    pub(in crate::engine) fn new(
        group: &Group,
        identity: &Identity,
        scope: &DeviceScope<'_>,
        incarnation: u32,
    ) -> Option<Box<Self>> {
        let Sparkplug { group_id, devices, .. } = group.sparkplug.as_ref()?;
        let text = |template| identity.text(template, scope).unwrap_or_default();
        Some(Box::new(Self {
            group_id: text(group_id).into(),
            devices: devices.iter().map(text).collect(),
            // The one before it, here or on another agent, had another one.
            bd_seq: (incarnation as u8).wrapping_sub(1),
            seq: 0,
            is_asked: false,
        }))
    }

    /// The edge node itself, and then the devices below it.
    pub(in crate::engine) fn places(&self) -> impl Iterator<Item = Option<usize>> + use<> {
        std::iter::once(None).chain((0..self.devices.len()).map(Some))
    }

    pub(in crate::engine) fn topic(&self, kind: &str, node: &str, device: Option<usize>) -> String {
        let group = &self.group_id;
        match device.and_then(|device| self.devices.get(device)) {
            None => format!("spBv1.0/{group}/N{kind}/{node}"),
            Some(device) => format!("spBv1.0/{group}/D{kind}/{node}/{device}"),
        }
    }

    /// Where commands to it come.
    pub(super) fn filters(&self, node: &str) -> impl Iterator<Item = String> {
        let filter = |kind: &str| format!("spBv1.0/{}/{kind}/{node}/#", self.group_id);
        let below = (!self.devices.is_empty()).then(|| filter("DCMD"));
        std::iter::once(filter("NCMD")).chain(below)
    }

    /// A new connection: its death certificate, before its birth.
    pub(in crate::engine) fn will(&mut self, node: &str, now_ms: u64) -> Will {
        self.bd_seq = self.bd_seq.wrapping_add(1);
        let payload = sparkplug::death(self.bd_seq, now_ms);
        Will {
            topic: self.topic("DEATH", node, None),
            payload,
            qos: Qos::AtLeastOnce,
            retain: false,
        }
    }

    /// The number of a message that is about to be written.
    pub(in crate::engine) fn take_seq(&mut self) -> u8 {
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        seq
    }

    /// The birth certificate of the edge node, with which its sequence begins, or of a device below.
    /// `values` renders the metrics of one report, which a place of the group's sends names.
    pub(in crate::engine) fn birth(
        &mut self,
        group: &Group,
        place: Option<usize>,
        now_ms: u64,
        out: &mut Vec<u8>,
        mut values: impl FnMut(usize, &Metrics, &mut Vec<u8>),
    ) {
        if place.is_none() {
            self.seq = 0;
        }
        let bd_seq = place.is_none().then_some(self.bd_seq);
        sparkplug::begin_birth(out, bd_seq, now_ms);
        for (send, metrics) in reports(group, place) {
            values(send, metrics, out);
        }
        sparkplug::end(out, self.take_seq());
    }

    /// The death certificate of the same.
    pub(in crate::engine) fn death(&mut self, place: Option<usize>, now_ms: u64) -> Vec<u8> {
        match place {
            Some(_) => sparkplug::device_death(self.take_seq(), now_ms),
            None => sparkplug::death(self.bd_seq, now_ms),
        }
    }

    /// A message that came on one of its subscriptions.
    pub(super) fn heard(&mut self, core: &Core, who: &Who<'_>, message: Message<'_>, now: u64) {
        let group = &core.plan.groups[who.group];
        let Some(series) = group.subscribe else { return };
        let is_own = self.filters(who.id).any(|filter| matches(&filter, message.topic));
        if !is_own {
            return;
        }
        let stage = core.plan.stage_of(who.group, now);
        core.recorder.borrow_mut().tally(series, stage).received += 1;
        match sparkplug::asks_for_rebirth(message.payload) {
            Some(asks) => self.is_asked |= asks && message.topic.contains("/NCMD/"),
            None => {
                let text = "a command that is no Sparkplug payload".to_owned();
                let lost = Lost { class: ErrorClass::Protocol, text };
                note_failure(core, who.id, series, stage, &lost, now);
            }
        }
    }
}

/// What a group reports of an edge node, or of one device below it.
fn reports(group: &Group, device: Option<usize>) -> impl Iterator<Item = (usize, &Metrics)> {
    let all = group.sends().iter().enumerate();
    let all = all.filter_map(|(place, send)| Some((place, send.sparkplug()?)));
    all.filter(move |(_, metrics)| metrics.device == device)
}

impl Device {
    /// Answers the command to be born again, if one has come.
    pub(super) fn rebirth(&mut self, core: &Rc<Core>, now: u64) {
        if self.edge.as_mut().is_some_and(|node| std::mem::take(&mut node.is_asked)) {
            let mut bytes = Vec::new();
            self.births(core, now, &mut bytes);
            self.say(core, &bytes);
        }
    }

    /// Appends the birth certificates of the edge node and its devices.
    pub(super) fn births(&mut self, core: &Core, now: u64, out: &mut Vec<u8>) {
        let Some(node) = &mut self.edge else { return };
        let group = &core.plan.groups[self.group];
        let Some(Sparkplug { births, .. }) = group.sparkplug else { return };
        let scope = super::scope(core.seed, &core.mark, self.group, &core.secrets);
        let device = self.identity.scope(group, &scope, self.index);
        let (index, incarnation) = (self.index, self.incarnation);
        let who = Who { group: self.group, index, incarnation, id: &self.identity.id };
        let now_us = core.control.control_unix_us(core.boot_us());
        for place in node.places() {
            let seq = place.map_or(0, |_| node.seq);
            let topic = node.topic("BIRTH", &self.identity.id, place);
            let mut n_bytes = 0;
            let payload = |out: &mut Vec<u8>| {
                let start = out.len();
                node.birth(group, place, now_us / 1_000, out, |send, metrics, out| {
                    let stream = &mut self.streams[send];
                    let message = MessageScope {
                        series: group.sends()[send].series,
                        slot: self.book.next_slot(send),
                        child: 0,
                        incarnation: self.incarnation,
                        n: stream.n,
                        now_us,
                    };
                    metrics.birth.render_message(&device, &message, &mut stream.walks, out);
                });
                n_bytes = out.len() - start;
            };
            let head = Head {
                protocol: self.session.protocol(),
                delivery: Delivery { qos: Qos::AtMostOnce, pid: 0 },
                retain: false,
                dup: false,
            };
            let topic = |out: &mut Vec<u8>| out.extend_from_slice(topic.as_bytes());
            let stage = core.plan.stage_of(self.group, now);
            match encode::publish(out, head, topic, |_| Ok(()), payload) {
                Ok(()) => {
                    let mut recorder = core.recorder.borrow_mut();
                    let tally = recorder.tally(births, stage);
                    tally.sent += 1;
                    tally.bytes += n_bytes as u64;
                    drop(recorder);
                    let (bytes, number) = (n_bytes as u64, self.n_attempts << 8 | u64::from(seq));
                    let (intended_us, sent_us) = (now, now);
                    let tried = Tried { series: births, number, intended_us, sent_us, bytes };
                    who.ended(core, &tried, None, End::Sent);
                }
                Err(error) => {
                    let lost = Lost { class: ErrorClass::PacketTooLarge, text: error.to_string() };
                    note_failure(core, &self.identity.id, births, stage, &lost, now);
                }
            }
        }
    }

    /// What is said before a clean end, where the will is not published: the devices below die
    /// first, then the edge node itself. The packets, and how many.
    pub(super) fn deaths(&mut self, unix_us: u64) -> (Vec<u8>, u64) {
        let (mut bytes, mut n) = (Vec::new(), 0);
        let Some(node) = &mut self.edge else { return (bytes, n) };
        let now_ms = unix_us / 1_000;
        let head = Head {
            protocol: self.session.protocol(),
            delivery: Delivery { qos: Qos::AtMostOnce, pid: 0 },
            retain: false,
            dup: false,
        };
        for place in node.places().skip(1).chain([None]) {
            let topic = node.topic("DEATH", &self.identity.id, place);
            let death = node.death(place, now_ms);
            let topic = |out: &mut Vec<u8>| out.extend_from_slice(topic.as_bytes());
            let payload = |out: &mut Vec<u8>| out.extend_from_slice(&death);
            // The same words fitted into the will and the births.
            n += u64::from(encode::publish(&mut bytes, head, topic, |_| Ok(()), payload).is_ok());
        }
        (bytes, n)
    }

    /// So many death certificates have left.
    pub(super) fn note_deaths(&self, core: &Core, n: u64, now: u64) {
        let node = core.plan.groups[self.group].sparkplug.as_ref();
        let Some(series) = node.map(|node| node.deaths) else { return };
        let stage = core.plan.stage_of(self.group, now);
        core.recorder.borrow_mut().tally(series, stage).sent += n;
        for place in 0..n {
            let (intended_us, sent_us, bytes) = (now, now, 0);
            let number = self.n_attempts << 8 | place;
            let tried = Tried { series, number, intended_us, sent_us, bytes };
            self.who().ended(core, &tried, None, End::Sent);
        }
    }
}
