//! An MQTT subscriber: one connection, few allocations, every event acknowledged once it is counted.
//!
//! Packets are those of rumqttc's codec; an event larger than [`MAX_EVENT`] is skipped as it comes
//! in, so that no platform can make us hold it. [`MqttReader::read`] may be dropped at any await:
//! what came in and what is to be said stay in their buffers.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Disconnect, Login as MqttLogin, Packet, PingReq, PubAck,
    Subscribe, SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error as CodecError, QoS};
use rustls::pki_types::ServerName;
use shoal_domain::plan::Qos;
use shoal_service_kit::Permit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::{Enqueued, Event, Headers, Heard, Stream};

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const MAX_EVENT: usize = 1024 * 1024;
const READ_BUFFER: usize = 64 * 1024;
const SUBSCRIPTION: u16 = 1;

pub(super) struct Login {
    pub(super) permits: Vec<Permit>,
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
    pub(super) client_id: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) filter: String,
    pub(super) qos: Qos,
}

pub(super) struct MqttReader {
    login: Login,
    stream: Option<Box<dyn Stream>>,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Bytes of an oversized event that are still to come.
    to_skip: usize,
    heard: Instant,
    said: Instant,
}

impl Login {
    async fn secure(&self, tcp: TcpStream) -> Result<Box<dyn Stream>, String> {
        let Some((connector, name)) = &self.tls else { return Ok(Box::new(tcp)) };
        let stream = connector.connect(name.clone(), tcp).await;
        Ok(Box::new(stream.map_err(|error| format!("TLS failed: {error}"))?))
    }
}

impl MqttReader {
    pub(super) fn new(login: Login) -> Self {
        let now = Instant::now();
        Self {
            login,
            stream: None,
            incoming: BytesMut::with_capacity(READ_BUFFER),
            outgoing: BytesMut::new(),
            to_skip: 0,
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
        self.to_skip = 0;
        let mut refused = String::new();
        for permit in &self.login.permits {
            match TcpStream::connect(permit.addr()).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(text)?;
                    self.stream = Some(self.login.secure(stream).await?);
                    break;
                }
                Err(error) => refused = format!("cannot connect to {}: {error}", permit.addr()),
            }
        }
        if self.stream.is_none() {
            return Err(refused);
        }
        let mut connect = Connect::new(self.login.client_id.clone());
        connect.keep_alive = KEEP_ALIVE.as_secs() as u16;
        connect.clean_session = true;
        let empty = String::new;
        connect.login = self.login.username.clone().map(|username| MqttLogin {
            username,
            password: self.login.password.clone().unwrap_or_else(empty),
        });
        connect.write(&mut self.outgoing).map_err(|error| error.to_string())?;
        self.flush().await?;
        match self.packet().await? {
            Packet::ConnAck(ConnAck { code: ConnectReturnCode::Success, .. }) => {}
            Packet::ConnAck(ack) => return Err(format!("the broker refuses: {:?}", ack.code)),
            other => return Err(format!("the broker answered CONNECT with {}", kind(&other))),
        }
        let qos = match self.login.qos {
            Qos::AtMostOnce => QoS::AtMostOnce,
            Qos::AtLeastOnce | Qos::ExactlyOnce => QoS::AtLeastOnce,
        };
        let mut subscribe = Subscribe::new(self.login.filter.clone(), qos);
        subscribe.pkid = SUBSCRIPTION;
        subscribe.write(&mut self.outgoing).map_err(|error| error.to_string())?;
        self.flush().await?;
        loop {
            match self.packet().await? {
                Packet::SubAck(ack) => {
                    let is_taken = !ack.return_codes.is_empty()
                        && ack
                            .return_codes
                            .iter()
                            .all(|code| *code != SubscribeReasonCode::Failure);
                    return match is_taken {
                        true => Ok(()),
                        false => Err(format!(
                            "the broker refuses the subscription to `{}`: check its permissions",
                            self.login.filter
                        )),
                    };
                }
                // Retained ones may come before the SUBACK.
                Packet::Publish(_) => {}
                other => {
                    return Err(format!("the broker answered SUBSCRIBE with {}", kind(&other)));
                }
            }
        }
    }

    /// The next packet of a greeting.
    async fn packet(&mut self) -> Result<Packet, String> {
        loop {
            match Packet::read(&mut self.incoming, MAX_EVENT) {
                Ok(packet) => return Ok(packet),
                Err(CodecError::InsufficientBytes(_)) => self.fill().await?,
                Err(error) => return Err(format!("the broker broke the protocol: {error}")),
            }
        }
    }

    async fn fill(&mut self) -> Result<(), String> {
        let stream = self.stream.as_mut().ok_or("not connected")?;
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
                Ok(n) => self.outgoing.advance(n),
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
            if self.to_skip > 0 {
                let n = self.to_skip.min(self.incoming.len());
                self.incoming.advance(n);
                self.to_skip -= n;
            }
            if self.skip_oversized(&mut each)? {
                continue;
            }
            match Packet::read(&mut self.incoming, MAX_EVENT) {
                Ok(Packet::Publish(publish)) => {
                    if publish.qos != QoS::AtMostOnce {
                        PubAck::new(publish.pkid).write(&mut self.outgoing).map_err(text)?;
                    }
                    // A retained one is the past of its topic, not an event.
                    if !publish.retain {
                        let (place, payload) = (publish.topic.as_bytes(), &*publish.payload);
                        each(Heard::Event(event(place, payload)));
                    }
                }
                Ok(_) => {}
                Err(CodecError::InsufficientBytes(_)) => return Ok(()),
                Err(error) => return Err(format!("the broker broke the protocol: {error}")),
            }
        }
    }

    /// An event that is too large is counted by what is there of it. Whether one was.
    fn skip_oversized(&mut self, each: &mut impl FnMut(Heard<'_>)) -> Result<bool, String> {
        let Some((length, header)) = remaining_length(&self.incoming) else { return Ok(false) };
        if length <= MAX_EVENT - 8 || self.incoming[0] >> 4 != 3 {
            return Ok(false);
        }
        let Some(topic) = self.incoming.get(header..header + 2) else { return Ok(false) };
        let pid = header + 2 + usize::from(u16::from_be_bytes([topic[0], topic[1]]));
        let Some(bytes) = self.incoming.get(pid..pid + 2) else { return Ok(false) };
        if self.incoming[0] & 0b110 != 0 {
            let pid = u16::from_be_bytes([bytes[0], bytes[1]]);
            PubAck::new(pid).write(&mut self.outgoing).map_err(text)?;
        }
        each(Heard::Unreadable(1));
        self.to_skip = header + length;
        Ok(true)
    }

    pub(super) async fn keep_alive(&mut self) -> Result<(), String> {
        if self.heard.elapsed() > KEEP_ALIVE * 3 / 2 {
            return Err("the broker is silent".to_owned());
        }
        if self.said.elapsed() > KEEP_ALIVE / 2 {
            PingReq.write(&mut self.outgoing).map_err(text)?;
            self.flush().await?;
        }
        Ok(())
    }

    pub(super) async fn close(&mut self) {
        // Best effort: the connection closes right after it in any case.
        if Disconnect.write(&mut self.outgoing).is_ok() {
            let _ = timeout(Duration::from_secs(1), self.flush()).await;
        }
        self.stream = None;
    }
}

/// MQTT says nothing of the time, and what nobody read is gone.
fn event<'p>(place: &'p [u8], payload: &'p [u8]) -> Event<'p> {
    let (headers, enqueued) = (Headers::None, Enqueued::Never);
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

fn kind(packet: &Packet) -> String {
    let text = format!("{packet:?}");
    text.split(['(', ' ']).next().unwrap_or_default().to_owned()
}
