//! One MQTT connection that does one thing at a time, for `scenario try`.
//!
//! Every step has a time limit and every answer is named. The connection is made as the engine of the
//! agents makes it; what goes over it is not: this is a second opinion, by an independent codec.

mod wire;

use std::time::Duration;

use bytes::BytesMut;
use shoal_agent::protocol::Stream;
use shoal_domain::plan::{Protocol, Qos};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use self::wire::{In, Out};

/// As it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// MQTT 5: user properties, content type and expiry.
    pub(crate) user: Vec<(String, String)>,
    pub(crate) content_type: Option<String>,
    pub(crate) expiry_s: Option<u32>,
}

pub(crate) struct Connection {
    stream: Box<dyn Stream + Send>,
    protocol: Protocol,
    unread: BytesMut,
    patience: Duration,
}

impl Connection {
    pub(crate) fn over(
        stream: Box<dyn Stream + Send>,
        protocol: Protocol,
        patience: Duration,
    ) -> Self {
        Self { stream, protocol, unread: BytesMut::new(), patience }
    }

    /// A refusal is an error, by name.
    pub(crate) async fn connect(
        &mut self,
        client_id: &str,
        login: Option<(&str, &str)>,
        will: Option<&(String, Vec<u8>)>,
    ) -> Result<&'static str, String> {
        self.send(&Out::Connect { client_id, login, will }).await?;
        match self.answer("CONNACK").await? {
            In::ConnAck { refused: None } => Ok("0 accepted"),
            In::ConnAck { refused: Some(why) } => Err(format!("CONNACK {why}")),
            other => Err(format!("CONNACK expected, {other:?} received")),
        }
    }

    pub(crate) async fn publish(
        &mut self,
        message: &Message,
        packet_id: u16,
    ) -> Result<&'static str, String> {
        let packet_id = if message.qos == Qos::AtMostOnce { 0 } else { packet_id };
        self.send(&Out::Publish { message, packet_id }).await?;
        match message.qos {
            Qos::AtMostOnce => Ok("sent (QoS 0 is never acknowledged)"),
            Qos::AtLeastOnce => {
                self.acknowledged("PUBACK", packet_id).await?;
                Ok("PUBACK")
            }
            Qos::ExactlyOnce => {
                self.acknowledged("PUBREC", packet_id).await?;
                self.send(&Out::PubRel { packet_id }).await?;
                self.acknowledged("PUBCOMP", packet_id).await?;
                Ok("PUBREC, PUBCOMP")
            }
        }
    }

    async fn acknowledged(&mut self, what: &'static str, sent: u16) -> Result<(), String> {
        match self.answer(what).await? {
            In::Ack { kind, packet_id, refused } if (kind, packet_id) == (what, sent) => {
                refused.map_or(Ok(()), |why| Err(format!("{what} {why}")))
            }
            other => Err(format!("{what} {sent} expected, {other:?} received")),
        }
    }

    /// A clean end, so that no will is sent; then waits for nothing.
    pub(crate) async fn disconnect(mut self) -> Result<(), String> {
        self.send(&Out::Disconnect).await?;
        self.stream.shutdown().await.map_err(|error| format!("closing: {error}"))
    }

    async fn send(&mut self, packet: &Out<'_>) -> Result<(), String> {
        let mut out = BytesMut::new();
        wire::write(self.protocol, packet, &mut out)
            .map_err(|error| format!("the packet cannot be written: {error}"))?;
        let broken = |error| format!("the connection broke: {error}");
        self.stream.write_all(&out).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)
    }

    async fn answer(&mut self, what: &str) -> Result<In, String> {
        timeout(self.patience, self.read())
            .await
            .map_err(|_| format!("no {what} within {} s", self.patience.as_secs()))?
            .map_err(|why| format!("no {what}: {why}"))
    }

    async fn read(&mut self) -> Result<In, String> {
        loop {
            if let Some(packet) = wire::read(self.protocol, &mut self.unread)? {
                return Ok(packet);
            }
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) => return Err("the peer closed the connection".into()),
                Ok(_) => {}
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
    }
}
