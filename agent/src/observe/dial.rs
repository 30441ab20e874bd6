//! From a source's host to a connection: resolved, permitted, over the first address that answers, in TLS
//! or not.

use std::fmt::Debug;
use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use shoal_service_kit::TargetGuard;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection to a source, inside TLS or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + Debug {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + Debug> Stream for S {}

/// In TLS from its first byte, where that is wanted.
pub(super) async fn connect(
    guard: &TargetGuard,
    tls: Option<&TlsConnector>,
    host: &str,
    port: u16,
) -> Result<Box<dyn Stream>, String> {
    secure(tls, host, tcp(guard, host, port).await?).await
}

/// Brokers name each other, so each is asked about like a target of the scenario.
pub(super) async fn tcp(guard: &TargetGuard, host: &str, port: u16) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((plain(host), port)).await;
    let addrs: Vec<SocketAddr> =
        found.map_err(|error| format!("the host has no address: {error}"))?.collect();
    let mut why = "the host has no address".to_owned();
    for addr in addrs {
        let permit = guard.authorize(host, addr).map_err(|refused| refused.to_string())?;
        match TcpStream::connect(permit.addr()).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                return Ok(stream);
            }
            Err(error) => why = format!("cannot connect: {error}"),
        }
    }
    Err(why)
}

/// The same connection in TLS, where that is wanted; the host must prove to be the one that was dialled.
pub(super) async fn secure(
    tls: Option<&TlsConnector>,
    host: &str,
    under: impl Stream + 'static,
) -> Result<Box<dyn Stream>, String> {
    let Some(connector) = tls else { return Ok(Box::new(under)) };
    let name = ServerName::try_from(plain(host).to_owned())
        .map_err(|_| "its host is no name that a certificate can be for".to_owned())?;
    let stream = connector.connect(name, under).await;
    Ok(Box::new(stream.map_err(|error| format!("TLS failed: {error}"))?))
}

/// An IPv6 address without its brackets.
fn plain(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}
