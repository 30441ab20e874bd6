//! TLS for devices: rustls with ring, without a buffer while a connection is idle.
//!
//! The connection is rustls' unbuffered one: records are read into memory that all devices of a
//! thread share, and only the beginning of a record, or what the socket does not take, is kept per
//! device. Whoever needs a stream gets [`tokio::io`]'s traits; whoever must not wait uses
//! [`TlsStream::try_write`]. Invariant: a certificate that does not prove the name it should is
//! never talked to.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use shoal_domain::outcome::ErrorClass;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One record with its header and the room that its encryption takes.
const RECORD: usize = 16 * 1024 + 512;

thread_local! {
    /// What was read from a socket, and what is about to be written to one.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::new((vec![0; RECORD], Vec::new()));
}

/// How a target's certificate is judged.
///
/// Each device resumes its own sessions only, so that its identity is always its own.
pub(super) fn config(authorities: Option<&[u8]>, alpn: &[&[u8]]) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(authorities)?)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// `None`: the public authorities that Mozilla trusts.
fn roots(authorities: Option<&[u8]>) -> Result<RootCertStore, String> {
    let Some(pem) = authorities else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("it cannot be read: {error}"))?;
        store
            .add(certificate)
            .map_err(|error| format!("it holds a certificate that is none: {error}"))?;
    }
    if store.is_empty() {
        return Err("it holds no certificate in PEM form".to_owned());
    }
    Ok(store)
}

/// The name that the peer's certificate must be for.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(plain.to_owned())
        .map_err(|_| format!("`{host}` is no name that a certificate can be for"))
}

pub(super) struct TlsStream {
    tcp: TcpStream,
    connection: UnbufferedClientConnection,
    /// The beginning of a record.
    unread: Vec<u8>,
    /// Decrypted and not taken yet.
    plain: Vec<u8>,
    /// Encrypted and not taken by the socket.
    unsent: Vec<u8>,
    is_closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Handshake,
    Up,
    Closed,
}

impl TlsStream {
    /// The handshake.
    pub(super) async fn connect(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(broken)?;
        let mut stream = Self {
            tcp,
            connection,
            unread: Vec::new(),
            plain: Vec::new(),
            unsent: Vec::new(),
            is_closed: false,
        };
        let mut phase = stream.process(&mut [])?;
        loop {
            while stream.is_behind() {
                stream.tcp.writable().await?;
                stream.push()?;
            }
            match phase {
                Phase::Up => return Ok(stream),
                Phase::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                Phase::Handshake => {}
            }
            stream.tcp.readable().await?;
            match stream.pull() {
                Ok(next) => phase = next,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // The peer should learn why; it is lost whether it does or not.
                    let _ = stream.push();
                    return Err(error);
                }
            }
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Encrypts all of `bytes` or, while older ones wait for the socket, none.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push()?;
        if self.is_behind() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Self { connection, unread, tcp, unsent, .. } = self;
        SCRATCH.with_borrow_mut(|(_, out)| {
            out.clear();
            // What is unread is not a whole record, so this only asks for leave to write.
            let UnbufferedStatus { state, .. } = connection.process_tls_records(unread);
            let ConnectionState::WriteTraffic(mut traffic) = state.map_err(broken)? else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            out.resize(bytes.len() + 64 * (1 + bytes.len() / 16_000), 0);
            let n = match traffic.encrypt(bytes, out) {
                Ok(n) => n,
                Err(EncryptError::InsufficientSize(needs)) => {
                    out.resize(needs.required_size, 0);
                    traffic.encrypt(bytes, out).map_err(io::Error::other)?
                }
                Err(error) => return Err(io::Error::other(error)),
            };
            let taken = match tcp.try_write(&out[..n]) {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            unsent.extend_from_slice(&out[taken..n]);
            Ok(bytes.len())
        })
    }

    /// Hands to the socket what it did not take before.
    pub(super) fn push(&mut self) -> io::Result<()> {
        while self.is_behind() {
            match self.tcp.try_write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.unsent = Vec::new();
        Ok(())
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(cx)
    }

    /// 0 is the end.
    pub(super) fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.plain.is_empty() {
                let n = buffer.len().min(self.plain.len());
                buffer[..n].copy_from_slice(&self.plain[..n]);
                self.plain.drain(..n);
                if self.plain.is_empty() {
                    self.plain = Vec::new();
                }
                return Poll::Ready(Ok(n));
            }
            if self.is_closed {
                return Poll::Ready(Ok(0));
            }
            ready!(self.tcp.poll_read_ready(cx))?;
            match self.pull() {
                Ok(phase) => self.is_closed = phase == Phase::Closed,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            // Answers of the protocol itself, like a new key.
            self.push()?;
        }
    }

    /// Takes what the socket has.
    fn pull(&mut self) -> io::Result<Phase> {
        SCRATCH.with_borrow_mut(|(scratch, _)| {
            let n = match self.tcp.try_read(scratch)? {
                0 => return Ok(Phase::Closed),
                n => n,
            };
            if self.unread.is_empty() {
                return self.process(&mut scratch[..n]);
            }
            let mut joined = std::mem::take(&mut self.unread);
            joined.extend_from_slice(&scratch[..n]);
            self.process(&mut joined)
        })
    }

    fn process(&mut self, mut records: &mut [u8]) -> io::Result<Phase> {
        let Self { connection, plain, unsent, unread, .. } = self;
        let phase = loop {
            let UnbufferedStatus { discard, state } = connection.process_tls_records(records);
            let phase = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        plain.extend_from_slice(record.map_err(broken)?.payload);
                    }
                    None
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let start = unsent.len();
                    match data.encode(&mut []) {
                        Err(EncodeError::InsufficientSize(needs)) => {
                            unsent.resize(start + needs.required_size, 0);
                            data.encode(&mut unsent[start..]).map_err(io::Error::other)?;
                        }
                        Ok(_) | Err(EncodeError::AlreadyEncoded) => {}
                    }
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::BlockedHandshake) => Some(Phase::Handshake),
                Ok(ConnectionState::WriteTraffic(_)) => Some(Phase::Up),
                Ok(_) => Some(Phase::Closed),
                Err(error) => {
                    encode_alert(connection, unsent);
                    return Err(broken(error));
                }
            };
            records = &mut std::mem::take(&mut records)[discard..];
            if let Some(phase) = phase {
                break phase;
            }
        };
        unread.extend_from_slice(records);
        if unread.len() > 2 * RECORD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS record without an end"));
        }
        Ok(phase)
    }
}

/// What rustls wants the peer to know about its error.
fn encode_alert(connection: &mut UnbufferedClientConnection, unsent: &mut Vec<u8>) {
    let UnbufferedStatus { state, .. } = connection.process_tls_records(&mut []);
    if let Ok(ConnectionState::EncodeTlsData(mut data)) = state
        && let Err(EncodeError::InsufficientSize(needs)) = data.encode(&mut [])
    {
        let start = unsent.len();
        unsent.resize(start + needs.required_size, 0);
        if data.encode(&mut unsent[start..]).is_err() {
            unsent.truncate(start);
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = ready!(self.poll_read_into(cx, buffer.initialize_unfilled()))?;
        buffer.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_write_ready(cx))?;
                }
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.push()?;
            if !self.is_behind() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.tcp.poll_write_ready(cx))?;
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The class and the words of an error in TLS; `None`: it is none of TLS.
pub(super) fn class_of(error: &io::Error) -> Option<(ErrorClass, String)> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(invalid) => certificate(invalid),
        rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => (
            ErrorClass::CertificateRefused,
            format!("the peer refused the device's certificate: {alert:?}"),
        ),
        rustls::Error::AlertReceived(alert) => {
            (ErrorClass::Tls, format!("the peer ended the TLS handshake: {alert:?}"))
        }
        error => (ErrorClass::Tls, format!("no TLS connection: {error}")),
    })
}

/// Whether the peer said so, and not we.
pub(super) fn is_the_peers_word(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::AlertReceived(_)))
}

fn certificate(invalid: &CertificateError) -> (ErrorClass, String) {
    use CertificateError as Invalid;

    match invalid {
        // The second: another authority of the same name.
        Invalid::UnknownIssuer | Invalid::BadSignature => (
            ErrorClass::CertificateUnknownIssuer,
            "the peer's certificate was not signed by an authority that the target's `ca` names"
                .to_owned(),
        ),
        Invalid::Expired | Invalid::ExpiredContext { .. } => {
            (ErrorClass::CertificateExpired, "the peer's certificate has expired".to_owned())
        }
        Invalid::NotValidYet | Invalid::NotValidYetContext { .. } => {
            (ErrorClass::CertificateExpired, "the peer's certificate is not valid yet".to_owned())
        }
        Invalid::NotValidForName => (
            ErrorClass::CertificateWrongName,
            "the peer's certificate is for another name".to_owned(),
        ),
        Invalid::NotValidForNameContext { expected, presented } => (
            ErrorClass::CertificateWrongName,
            format!(
                "the peer's certificate is for {}, not for {}",
                presented.join(", "),
                expected.to_str()
            ),
        ),
        invalid => (ErrorClass::Tls, format!("the peer's certificate is not valid: {invalid}")),
    }
}

fn is_about_our_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;

    matches!(
        alert,
        Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
    )
}

#[cfg(test)]
mod tests;
