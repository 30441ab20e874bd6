//! One MQTT 3.1.1 connection that does one thing at a time, for `scenario try`.
//!
//! Every step has a time limit and every answer is named. The engine of the agents is not used:
//! this is a second opinion, by an independent codec.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode, Disconnect, Login, Packet, PubRel, Publish,
};
use rumqttc::mqttbytes::{Error as CodecError, QoS};
use shoal_domain::plan::Qos;
use shoal_service_kit::TargetGuard;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// Nothing that answers a connect or a publish is larger.
const MAX_PACKET: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    unread: BytesMut,
    pub(crate) peer: SocketAddr,
}

impl Connection {
    pub(crate) async fn open(host: &str, port: u16, patience: Duration) -> Result<Self, String> {
        let (stream, peer) = tcp(host, port, patience).await?;
        Ok(Self { stream, unread: BytesMut::new(), peer })
    }

    /// The answer by name; a refusal is an error.
    pub(crate) async fn connect(
        &mut self,
        client_id: &str,
        login: Option<(&str, Option<&str>)>,
        patience: Duration,
    ) -> Result<&'static str, String> {
        let mut connect = Connect::new(client_id);
        connect.keep_alive = 60;
        connect.login =
            login.map(|(name, password)| Login::new(name, password.unwrap_or_default()));
        self.send(|out| connect.write(out)).await?;
        match self.answer("CONNACK", patience).await? {
            Packet::ConnAck(ack) => match ack.code {
                ConnectReturnCode::Success => Ok("0 accepted"),
                code => Err(format!("CONNACK {}", refusal(code))),
            },
            other => Err(format!("CONNACK expected, {other:?} received")),
        }
    }

    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: Qos,
        retain: bool,
        packet_id: u16,
        patience: Duration,
    ) -> Result<&'static str, String> {
        let wire = match qos {
            Qos::AtMostOnce => QoS::AtMostOnce,
            Qos::AtLeastOnce => QoS::AtLeastOnce,
            Qos::ExactlyOnce => QoS::ExactlyOnce,
        };
        let mut publish = Publish::new(topic, wire, payload);
        publish.retain = retain;
        if qos != Qos::AtMostOnce {
            publish.pkid = packet_id;
        }
        self.send(|out| publish.write(out)).await?;
        if qos == Qos::AtMostOnce {
            return Ok("sent (QoS 0 is never acknowledged)");
        }
        if qos == Qos::ExactlyOnce {
            return self.exactly_once(packet_id, patience).await;
        }
        match self.answer("PUBACK", patience).await? {
            Packet::PubAck(ack) if ack.pkid == packet_id => Ok("PUBACK"),
            other => Err(format!("PUBACK {packet_id} expected, {other:?} received")),
        }
    }

    async fn exactly_once(
        &mut self,
        packet_id: u16,
        patience: Duration,
    ) -> Result<&'static str, String> {
        match self.answer("PUBREC", patience).await? {
            Packet::PubRec(ack) if ack.pkid == packet_id => {}
            other => return Err(format!("PUBREC {packet_id} expected, {other:?} received")),
        }
        self.send(|out| PubRel::new(packet_id).write(out)).await?;
        match self.answer("PUBCOMP", patience).await? {
            Packet::PubComp(ack) if ack.pkid == packet_id => Ok("PUBREC, PUBCOMP"),
            other => Err(format!("PUBCOMP {packet_id} expected, {other:?} received")),
        }
    }

    /// A clean end, so that no will is sent; then waits for nothing.
    pub(crate) async fn disconnect(mut self) -> Result<(), String> {
        self.send(|out| Disconnect.write(out)).await?;
        self.stream.shutdown().await.map_err(|error| format!("closing: {error}"))
    }

    async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> Result<usize, CodecError>,
    ) -> Result<(), String> {
        let mut out = BytesMut::new();
        write(&mut out).map_err(|error| format!("the packet cannot be written: {error:?}"))?;
        self.stream.write_all(&out).await.map_err(|error| format!("the connection broke: {error}"))
    }

    async fn answer(&mut self, what: &str, patience: Duration) -> Result<Packet, String> {
        timeout(patience, self.read())
            .await
            .map_err(|_| format!("no {what} within {} s", patience.as_secs()))?
            .map_err(|why| format!("no {what}: {why}"))
    }

    async fn read(&mut self) -> Result<Packet, String> {
        loop {
            match Packet::read(&mut self.unread, MAX_PACKET) {
                Ok(packet) => return Ok(packet),
                Err(CodecError::InsufficientBytes(_)) => {}
                Err(error) => {
                    return Err(format!("the peer does not speak MQTT 3.1.1 ({error:?})"));
                }
            }
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) => return Err("the peer closed the connection".into()),
                Ok(_) => {}
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
    }
}

/// A connection to the first address that answers.
pub(crate) async fn tcp(
    host: &str,
    port: u16,
    patience: Duration,
) -> Result<(TcpStream, SocketAddr), String> {
    let addresses: Vec<SocketAddr> = timeout(patience, lookup_host((host, port)))
        .await
        .map_err(|_| format!("{host} did not resolve within {} s", patience.as_secs()))?
        .map_err(|error| format!("{host} does not resolve: {error}"))?
        .collect();
    let guard = TargetGuard::any();
    let mut why = format!("{host} has no address");
    for addr in addresses {
        let permit = guard.authorize(host, addr).map_err(|refused| refused.to_string())?;
        match timeout(patience, TcpStream::connect(permit.addr())).await {
            Ok(Ok(stream)) => return Ok((stream, addr)),
            Ok(Err(error)) => why = format!("no TCP connection to {addr}: {error}"),
            Err(_) => why = format!("no TCP connection to {addr} within {} s", patience.as_secs()),
        }
    }
    Err(why)
}

fn refusal(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "0 accepted",
        ConnectReturnCode::RefusedProtocolVersion => "1 unacceptable protocol version",
        ConnectReturnCode::BadClientId => "2 identifier rejected",
        ConnectReturnCode::ServiceUnavailable => "3 server unavailable",
        ConnectReturnCode::BadUserNamePassword => "4 bad user name or password",
        ConnectReturnCode::NotAuthorized => "5 not authorized",
    }
}
