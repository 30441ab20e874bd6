//! TCP connections of devices: where from, where to, and what a failure means.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use shoal_domain::outcome::ErrorClass;
use shoal_service_kit::Permit;
use tokio::net::{TcpSocket, TcpStream};

use super::device::Lost;
use super::ports::Path;
use super::secure::Secure;
use super::tls::TlsStream;
use super::transport::{Transport, WebSocket};

/// Beyond this many connections from one address to one destination, `connect()` searches for a
/// free port and costs ten times as much.
const MAX_PER_SOURCE: u64 = 14_000;

/// What a WebSocket handshake asks for.
#[derive(Debug, Clone)]
pub(super) struct Upgrade {
    pub(super) host: Arc<str>,
    pub(super) path: Arc<str>,
}

/// How the devices of this agent reach one target.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// At least one, all of one family; devices take them in turn.
    pub(super) permits: Vec<Permit>,
    /// Local addresses that devices take in turn; empty: the kernel's choice.
    pub(super) sources: Vec<IpAddr>,
    /// `None`: plain TCP.
    pub(super) secure: Option<Secure>,
    /// `None`: MQTT as it is.
    pub(super) upgrade: Option<Upgrade>,
}

impl Route {
    /// Where the `ordinal`-th device of this agent connects to and from. Without addresses to choose
    /// from, loopback still has spare ones, which exist everywhere.
    pub(super) fn path(&self, ordinal: u64) -> Path {
        let n = self.permits.len() as u64;
        let addr = self.permits[(ordinal % n) as usize].addr();
        if !self.sources.is_empty() {
            let source = ordinal / n % self.sources.len() as u64;
            return (addr, Some(self.sources[source as usize]));
        }
        let block = ordinal / n / MAX_PER_SOURCE;
        let spare = addr.is_ipv4() && addr.ip().is_loopback() && block > 0;
        let source = Ipv4Addr::new(127, 0, (block / 200) as u8, 1 + (block % 200) as u8);
        (addr, spare.then_some(IpAddr::V4(source)))
    }
}

impl Route {
    /// A connection of the `ordinal`-th device of this agent, ready for its protocol; `own` is what
    /// only this device's TLS connections use.
    pub(super) fn dial(
        &self,
        ordinal: u64,
        own: Option<Arc<ClientConfig>>,
    ) -> impl Future<Output = Result<Transport, Lost>> + use<> {
        let (addr, source) = self.path(ordinal);
        let tls = self.secure.as_ref().map(|secure| {
            let config = own.unwrap_or_else(|| Arc::clone(&secure.config));
            (config, secure.name.clone())
        });
        let upgrade = self.upgrade.clone();
        async move {
            let tcp = tcp(addr, source).await.map_err(|error| Lost {
                class: class_of(&error),
                text: format!("cannot connect: {error}"),
            })?;
            let broken = |error| Lost::broken(&error);
            let transport = match tls {
                None => Transport::Plain(tcp),
                Some((config, name)) => {
                    let tls = TlsStream::connect(tcp, config, name).await.map_err(broken)?;
                    Transport::Tls(Box::new(tls))
                }
            };
            match upgrade {
                None => Ok(transport),
                Some(Upgrade { host, path }) => {
                    WebSocket::upgrade(transport, &host, &path).await.map_err(broken)
                }
            }
        }
    }
}

/// `addr` comes out of a [`Permit`]; nothing else may be passed.
pub(super) async fn tcp(addr: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        // The port is chosen at the connect, so each destination has all of them.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.set_nodelay(true)?;
    socket.connect(addr).await
}

/// Whose fault it is that there is no TCP connection.
pub(super) fn class_of(error: &io::Error) -> ErrorClass {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE) => ErrorClass::GeneratorDescriptors,
        Some(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE) => ErrorClass::GeneratorPorts,
        Some(Errno::ETIMEDOUT) => ErrorClass::ConnectTimeout,
        _ => ErrorClass::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_service_kit::TargetGuard;

    #[test]
    fn more_devices_than_one_source_carries_are_spread_over_loopback() {
        let addr = "127.0.0.1:1883".parse().unwrap();
        let permit = TargetGuard::any().authorize("localhost", addr).unwrap();
        let route = Route { permits: vec![permit], sources: vec![], secure: None, upgrade: None };
        assert_eq!(route.path(13_999), (addr, None));
        assert_eq!(route.path(14_000).1, Some("127.0.0.2".parse().unwrap()));
        assert_eq!(route.path(28_000).1, Some("127.0.0.3".parse().unwrap()));
    }

    #[test]
    fn devices_take_destinations_and_then_sources_in_turn() {
        let guard = TargetGuard::any();
        let to = |text: &str| guard.authorize("broker", text.parse().unwrap()).unwrap();
        let sources = vec!["10.0.0.8".parse().unwrap(), "10.0.0.9".parse().unwrap()];
        let route = Route {
            permits: vec![to("10.0.0.1:1883"), to("10.0.0.2:1883")],
            sources,
            secure: None,
            upgrade: None,
        };
        let paths: std::collections::BTreeSet<_> = (0..4).map(|n| route.path(n)).collect();
        assert_eq!(paths.len(), 4, "{paths:?}");
        assert_eq!(route.path(4), route.path(0));
    }
}
