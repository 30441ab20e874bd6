//! The protocol of one client, without its socket: packets in, packets out.
//!
//! Everything that MQTT 3.1.1 demands of the order of packets is decided here; reading, writing and
//! timers are the connection's. Invariant: nothing but a CONNECT is answered before a CONNECT, and a
//! will is handed over exactly once unless the client said goodbye.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    Connect, LastWill, Packet, PingResp, PubAck, PubComp, PubRec, Publish, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::hub::{Delivery, Hub, Message};
use crate::script::{Settings, add};
use crate::topics::{is_filter, is_topic};

/// QoS 1 messages a subscriber may owe acknowledgements for. Full: the rest waits in its queue.
const IN_FLIGHT: usize = 1_024;

/// Filters of one client. Full: further ones are refused in the SUBACK.
const FILTERS: usize = 1_024;

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// The client sent DISCONNECT.
    Goodbye,
    /// The client was answered with a CONNACK that is not 0.
    Refused,
    /// The client broke the rules.
    Protocol(&'static str),
}

/// Bytes for the socket, and acknowledgements whose time has not come.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) bytes: BytesMut,
    pub(crate) delayed: VecDeque<(Instant, Packet)>,
}

impl Outbox {
    fn put(&mut self, packet: &Packet) {
        // The only packets that may not fit a length field are deliveries, and they came in smaller.
        if let Err(error) = packet.write(&mut self.bytes, usize::MAX) {
            tracing::warn!(%error, "a packet could not be written");
        }
    }

    /// Moves the acknowledgements that are due to the bytes; says when the next one is.
    pub(crate) fn release(&mut self, now: Instant) -> Option<Instant> {
        while let Some((due, _)) = self.delayed.front() {
            if *due > now {
                return Some(*due);
            }
            if let Some((_, packet)) = self.delayed.pop_front() {
                self.put(&packet);
            }
        }
        None
    }
}

pub(crate) struct Session {
    hub: Arc<Hub>,
    number: u64,
    to_me: mpsc::Sender<Delivery>,
    client: Option<Client>,
    filters: Vec<String>,
    /// QoS 2 messages taken whose PUBREL has not come: a repeated one is not delivered again.
    received: HashSet<u16>,
    /// QoS 1 messages delivered and not acknowledged.
    in_flight: HashSet<u16>,
    last_id: u16,
}

struct Client {
    id: Arc<str>,
    keep_alive: Duration,
    will: Option<LastWill>,
}

impl Session {
    pub(crate) fn new(hub: Arc<Hub>, number: u64, to_me: mpsc::Sender<Delivery>) -> Self {
        Self {
            hub,
            number,
            to_me,
            client: None,
            filters: Vec::new(),
            received: HashSet::new(),
            in_flight: HashSet::new(),
            last_id: 0,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_some()
    }

    /// How long the client may be silent; `None` is for ever. The standard allows one and a half
    /// keep-alives.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let keep_alive = self.client.as_ref()?.keep_alive;
        (!keep_alive.is_zero()).then(|| keep_alive * 3 / 2)
    }

    pub(crate) fn accepts_deliveries(&self) -> bool {
        self.is_connected() && self.in_flight.len() < IN_FLIGHT
    }

    pub(crate) fn on_packet(
        &mut self,
        packet: Packet,
        settings: &Settings,
        out: &mut Outbox,
    ) -> Result<(), Close> {
        let Some(client) = &self.client else {
            return match packet {
                Packet::Connect(connect) => self.on_connect(connect, settings, out),
                _ => Err(Close::Protocol("the first packet was not a CONNECT")),
            };
        };
        match packet {
            Packet::Publish(publish) => {
                let client = Arc::clone(&client.id);
                self.on_publish(&client, publish, settings, out)?;
            }
            Packet::PubAck(ack) => {
                self.in_flight.remove(&ack.pkid);
            }
            Packet::PubRel(release) => {
                self.received.remove(&release.pkid);
                out.put(&Packet::PubComp(PubComp { pkid: release.pkid }));
            }
            Packet::Subscribe(subscribe) => self.on_subscribe(&subscribe, out),
            Packet::Unsubscribe(unsubscribe) => {
                for filter in &unsubscribe.topics {
                    self.hub.unsubscribe(self.number, filter);
                    self.filters.retain(|other| other != filter);
                }
                out.put(&Packet::UnsubAck(UnsubAck { pkid: unsubscribe.pkid }));
            }
            Packet::PingReq => {
                // Its size is two bytes; writing it cannot fail.
                let _ = PingResp.write(&mut out.bytes);
            }
            Packet::Disconnect => {
                add(&self.hub.tally.goodbyes, 1);
                return Err(Close::Goodbye);
            }
            Packet::Connect(_) => return Err(Close::Protocol("a second CONNECT")),
            // QoS 2 is never granted, so no client has a reason to send these.
            Packet::PubRec(_) | Packet::PubComp(_) => {
                return Err(Close::Protocol("a QoS 2 answer to no QoS 2 message"));
            }
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                return Err(Close::Protocol("a packet that only a broker sends"));
            }
        }
        Ok(())
    }

    fn on_connect(
        &mut self,
        connect: Connect,
        settings: &Settings,
        out: &mut Outbox,
    ) -> Result<(), Close> {
        add(&self.hub.tally.connects_seen, 1);
        if connect.client_id.is_empty() && !connect.clean_session {
            return Err(self.refuse(2, out));
        }
        let id = match connect.client_id.as_str() {
            "" => format!("anonymous-{}", self.number),
            id => id.to_owned(),
        };
        let login = connect.login.as_ref();
        let login = login.map(|login| (login.username.as_str(), login.password.as_str()));
        if let Some(code) = settings.refusal(&id, login) {
            return Err(self.refuse(code, out));
        }
        if connect.last_will.as_ref().is_some_and(|will| !is_topic(&will.topic)) {
            return Err(Close::Protocol("the topic of the will is not a topic"));
        }
        self.hub.claim(&id, self.number);
        self.client = Some(Client {
            id: id.into(),
            keep_alive: Duration::from_secs(connect.keep_alive.into()),
            will: connect.last_will,
        });
        put_connack(out, 0);
        Ok(())
    }

    /// Answers a CONNECT of a version this broker does not speak.
    pub(crate) fn refuse_version(&self, out: &mut Outbox) -> Close {
        add(&self.hub.tally.connects_seen, 1);
        self.refuse(1, out)
    }

    fn refuse(&self, code: u8, out: &mut Outbox) -> Close {
        add(&self.hub.tally.connects_refused, 1);
        put_connack(out, code);
        Close::Refused
    }

    fn on_publish(
        &mut self,
        client: &str,
        publish: Publish,
        settings: &Settings,
        out: &mut Outbox,
    ) -> Result<(), Close> {
        if !is_topic(&publish.topic) {
            return Err(Close::Protocol("a PUBLISH to something that is not a topic"));
        }
        let Publish { qos, retain, topic, pkid, payload, .. } = publish;
        let message = Message { topic: topic.into(), payload, qos };
        self.hub.note(client, &message);
        match qos {
            QoS::AtMostOnce => self.hub.publish(&message, retain),
            QoS::AtLeastOnce => {
                self.hub.publish(&message, retain);
                self.acknowledge(Packet::PubAck(PubAck { pkid }), settings, out);
            }
            QoS::ExactlyOnce => {
                if self.received.insert(pkid) {
                    self.hub.publish(&message, retain);
                }
                self.acknowledge(Packet::PubRec(PubRec { pkid }), settings, out);
            }
        }
        Ok(())
    }

    fn acknowledge(&self, ack: Packet, settings: &Settings, out: &mut Outbox) {
        if settings.lose_acks {
            add(&self.hub.tally.acks_lost, 1);
            return;
        }
        add(&self.hub.tally.acks_sent, 1);
        // Acks are answered in order (MQTT-4.6.0), so none may overtake one that still waits.
        if settings.delay_acks.is_zero() && out.delayed.is_empty() {
            out.put(&ack);
        } else {
            out.delayed.push_back((Instant::now() + settings.delay_acks, ack));
        }
    }

    fn on_subscribe(&mut self, subscribe: &Subscribe, out: &mut Outbox) {
        let mut return_codes = Vec::with_capacity(subscribe.filters.len());
        for filter in &subscribe.filters {
            return_codes.push(self.subscribe(&filter.path, filter.qos));
        }
        // Retained messages wait in the queue by now, which is read after the SUBACK is written.
        out.put(&Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes }));
    }

    fn subscribe(&mut self, filter: &str, qos: QoS) -> SubscribeReasonCode {
        let known = self.filters.iter().any(|other| other == filter);
        if !is_filter(filter) || (!known && self.filters.len() >= FILTERS) {
            return SubscribeReasonCode::Failure;
        }
        let granted = if qos == QoS::AtMostOnce { qos } else { QoS::AtLeastOnce };
        self.hub.subscribe(self.number, filter, granted, &self.to_me);
        if !known {
            self.filters.push(filter.to_owned());
        }
        SubscribeReasonCode::Success(granted)
    }

    /// Writes a message of another client for this one.
    pub(crate) fn deliver(&mut self, delivery: Delivery, out: &mut Outbox) {
        let pkid = match delivery.qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.next_id(),
        };
        out.put(&Packet::Publish(Publish {
            dup: false,
            qos: delivery.qos,
            retain: delivery.retained,
            topic: delivery.message.topic.to_string(),
            pkid,
            payload: delivery.message.payload,
        }));
    }

    /// A packet id that is not in flight. There is one: far fewer are in flight than there are ids.
    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.in_flight.insert(self.last_id) {
                return self.last_id;
            }
        }
    }

    /// The end of the connection. The will goes out unless the client said goodbye.
    pub(crate) fn end(mut self, goodbye: bool) {
        let client = self.client.take();
        let id = client.as_ref().map(|client| &*client.id);
        self.hub.leave(self.number, id, &self.filters);
        if let Some(Client { will: Some(will), .. }) = client
            && !goodbye
        {
            let message =
                Message { topic: will.topic.into(), payload: will.message, qos: will.qos };
            self.hub.publish(&message, will.retain);
        }
    }
}

fn put_connack(out: &mut Outbox, code: u8) {
    // By hand, because the codec knows only the codes of the standard and tests use others.
    out.bytes.put_slice(&[0x20, 2, 0, code]);
}
