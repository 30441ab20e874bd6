//! An MQTT subscriber: one connection, few allocations, every event acknowledged once it is counted.
//!
//! Packets and connections are those of devices; an event larger than [`MAX_EVENT`] is skipped as it
//! comes in, so that no platform can make us hold it. [`MqttReader::read`] may be dropped at any await:
//! what came in and what is to be said stay in their buffers.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use shoal_domain::plan::{Protocol, Qos};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::{Enqueued, Event, Headers, Heard};
use crate::engine::single::Broker;
use crate::mqtt::encode::{self, Hello};
use crate::mqtt::incoming::{Incoming, decode};
use crate::mqtt::{Message, Rules, Step};
use crate::protocol::Stream;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const MAX_EVENT: usize = 1024 * 1024;
const READ_BUFFER: usize = 64 * 1024;
const SUBSCRIPTION: u16 = 1;
/// MQTT 5: what is larger is skipped here, where it is counted, and not left out by the broker.
const ANY_PACKET: u32 = 268_435_460;

pub(super) struct Login {
    pub(super) broker: Broker,
    pub(super) protocol: Protocol,
    pub(super) client_id: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) filter: String,
    pub(super) qos: Qos,
}

pub(super) struct MqttReader {
    login: Login,
    rules: Rules,
    stream: Option<Box<dyn Stream + Send>>,
    incoming: BytesMut,
    /// How much of it was read as packets.
    used: usize,
    outgoing: Vec<u8>,
    /// Bytes of an oversized event that are still to come.
    to_skip: usize,
    keep_alive: Duration,
    heard: Instant,
    said: Instant,
}

impl MqttReader {
    pub(super) fn new(login: Login) -> Self {
        let now = Instant::now();
        let (protocol, max_packet) = (login.protocol, MAX_EVENT as u32);
        Self {
            login,
            rules: Rules { protocol, max_packet, expects_messages: true },
            stream: None,
            incoming: BytesMut::with_capacity(READ_BUFFER),
            used: 0,
            outgoing: Vec::new(),
            to_skip: 0,
            keep_alive: KEEP_ALIVE,
            heard: now,
            said: now,
        }
    }

    /// Connects and subscribes; afterwards no event is missed.
    pub(super) async fn open(&mut self) -> Result<(), String> {
        match timeout(ANSWER_WITHIN, self.greet()).await {
            Ok(opened) => opened,
            Err(_) => Err(format!("the broker did not answer within {ANSWER_WITHIN:?}")),
        }
    }

    async fn greet(&mut self) -> Result<(), String> {
        self.stream = None;
        self.incoming.clear();
        self.outgoing.clear();
        (self.used, self.to_skip) = (0, 0);
        self.stream = Some(self.login.broker.dial().await?);
        self.outgoing = encode::connect(&Hello {
            protocol: self.login.protocol,
            client_id: &self.login.client_id,
            keep_alive_s: KEEP_ALIVE.as_secs() as u16,
            clean_start: true,
            session_expiry_s: 0,
            max_packet: ANY_PACKET,
            username: self.login.username.as_deref(),
            password: self.login.password.as_deref(),
            will: None,
        })
        .map_err(text)?;
        self.flush().await?;
        let welcome = self.answer(|packet| match packet {
            Incoming::ConnAck(Ok(welcome)) => Some(Ok(*welcome)),
            Incoming::ConnAck(Err(refusal)) | Incoming::Disconnect(refusal) => {
                Some(Err(format!("the broker refuses: {}", refusal.text)))
            }
            _ => Some(Err("the broker answered CONNECT with another packet".to_owned())),
        });
        let welcome = welcome.await?;
        let keep_alive = welcome.keep_alive_s.map(|s| Duration::from_secs(s.into()));
        self.keep_alive = keep_alive.unwrap_or(KEEP_ALIVE);
        let Login { protocol, filter, qos, .. } = &self.login;
        self.outgoing = encode::subscribe(*protocol, SUBSCRIPTION, filter, *qos).map_err(text)?;
        self.flush().await?;
        let refused = format!("the broker refuses the subscription to `{}`", self.login.filter);
        self.answer(|packet| match packet {
            Incoming::SubAck { refusal: None, .. } => Some(Ok(())),
            Incoming::SubAck { refusal: Some(refusal), .. } | Incoming::Disconnect(refusal) => {
                Some(Err(format!("{refused}: {}; check its permissions", refusal.text)))
            }
            // Retained ones may come before the SUBACK.
            Incoming::Publish(_) => None,
            _ => Some(Err("the broker answered SUBSCRIBE with another packet".to_owned())),
        })
        .await
    }

    /// Reads packets of a greeting until one is what is waited for.
    async fn answer<T>(
        &mut self,
        is_it: impl Fn(&Incoming<'_>) -> Option<Result<T, String>>,
    ) -> Result<T, String> {
        loop {
            while let Some((packet, len)) =
                decode(self.rules, &self.incoming[self.used..]).map_err(broke)?
            {
                let found = is_it(&packet);
                self.used += len;
                if let Some(found) = found {
                    return found;
                }
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), String> {
        let stream = self.stream.as_mut().ok_or("not connected")?;
        self.incoming.advance(std::mem::take(&mut self.used));
        self.incoming.reserve(READ_BUFFER);
        match stream.read_buf(&mut self.incoming).await {
            Ok(0) => Err("the broker closed the connection".to_owned()),
            Ok(_) => {
                self.heard = Instant::now();
                Ok(())
            }
            Err(error) => Err(format!("the connection broke: {error}")),
        }
    }

    async fn flush(&mut self) -> Result<(), String> {
        let stream = self.stream.as_mut().ok_or("not connected")?;
        while !self.outgoing.is_empty() {
            match stream.write(&self.outgoing).await {
                Ok(0) => return Err("the broker takes nothing more".to_owned()),
                Ok(n) => drop(self.outgoing.drain(..n)),
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
            self.said = Instant::now();
        }
        stream.flush().await.map_err(|error| format!("the connection broke: {error}"))
    }

    /// Waits for bytes and hands on every whole event in them. Cancel safe.
    pub(super) async fn read(&mut self, mut each: impl FnMut(Heard<'_>)) -> Result<(), String> {
        self.flush().await?;
        self.fill().await?;
        loop {
            let n = self.to_skip.min(self.incoming.len() - self.used);
            self.used += n;
            self.to_skip -= n;
            if self.skip_oversized(&mut each)? {
                continue;
            }
            let rest = &self.incoming[self.used..];
            let Some((packet, len)) = decode(self.rules, rest).map_err(broke)? else {
                return Ok(());
            };
            match packet {
                Incoming::Publish(message) => {
                    if message.qos > 0 {
                        encode::ack(&mut self.outgoing, Step::Ack, message.pid);
                    }
                    // A retained one is the past of its topic, not an event.
                    if !message.retain {
                        each(Heard::Event(event(&message)));
                    }
                }
                Incoming::Disconnect(refusal) => return Err(refusal.text),
                _ => {}
            }
            self.used += len;
        }
    }

    /// An event that is too large is counted by what is there of it. Whether one was.
    fn skip_oversized(&mut self, each: &mut impl FnMut(Heard<'_>)) -> Result<bool, String> {
        let packet = &self.incoming[self.used..];
        let Some((length, header)) = remaining_length(packet) else { return Ok(false) };
        if length <= MAX_EVENT || packet[0] >> 4 != 3 {
            return Ok(false);
        }
        let Some(topic) = packet.get(header..header + 2) else { return Ok(false) };
        let pid = header + 2 + usize::from(u16::from_be_bytes([topic[0], topic[1]]));
        let Some(bytes) = packet.get(pid..pid + 2) else { return Ok(false) };
        if packet[0] & 0b110 != 0 {
            let pid = u16::from_be_bytes([bytes[0], bytes[1]]);
            encode::ack(&mut self.outgoing, Step::Ack, pid);
        }
        each(Heard::Unreadable(1));
        self.to_skip = header + length;
        Ok(true)
    }

    pub(super) async fn keep_alive(&mut self) -> Result<(), String> {
        if self.heard.elapsed() > self.keep_alive * 3 / 2 {
            return Err("the broker is silent".to_owned());
        }
        if self.said.elapsed() > self.keep_alive / 2 {
            self.outgoing.extend_from_slice(&encode::PINGREQ);
            self.flush().await?;
        }
        Ok(())
    }

    pub(super) async fn close(&mut self) {
        // Best effort: the connection closes right after it in any case.
        self.outgoing.extend_from_slice(&encode::DISCONNECT);
        let _ = timeout(Duration::from_secs(1), self.flush()).await;
        self.stream = None;
    }
}

/// MQTT says nothing of the time, and what nobody read is gone.
fn event<'p>(message: &Message<'p>) -> Event<'p> {
    let (place, payload) = (message.topic.as_bytes(), message.payload);
    let (headers, enqueued) = (Headers::Mqtt(message.user), Enqueued::Never);
    Event { place, payload, headers, enqueued, is_backlog: false }
}

/// Of the packet that begins here: its remaining length, and where that begins to count.
fn remaining_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (i, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((length, 2 + i));
        }
    }
    None
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn broke(error: impl std::fmt::Display) -> String {
    format!("the broker broke the protocol: {error}")
}
