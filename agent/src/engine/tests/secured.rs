//! TLS, WebSocket and certificates, with an authority made here and a front before the broker.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Certificate, FileRef, MqttTarget, Pem, Tls};
use shoal_domain::template::Template;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::trial::{Trial, ms};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert: CertificateDer<'static>,
    cert_pem: String,
    key_pem: String,
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).unwrap();
        let (cert_pem, key_pem) = (cert.pem(), key.serialize_pem());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), &cert_pem).unwrap();
        let cert = cert.der().clone();
        Self { issuer: Issuer::new(params, key), cert, cert_pem, key_pem, dir }
    }

    fn server(&self, name: &str, year: i32) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn config(&self, name: &str, year: i32, asks: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks {
            let mut roots = RootCertStore::empty();
            roots.add(self.cert.clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let (cert, key) = self.server(name, year);
        Arc::new(builder.with_single_cert(vec![cert], key).unwrap())
    }

    fn trusted(&self) -> Tls {
        let path = self.dir.path().join("ca.pem").display().to_string();
        Tls { ca: Some(FileRef::OnAgent(path)), server_name: None, resumption: false }
    }

    fn secures(&self) -> impl FnOnce(&mut MqttTarget) + use<> {
        let tls = self.trusted();
        move |target| target.tls = Some(tls)
    }
}

/// The certificates that clients showed, one entry per connection.
type Shown = Arc<Mutex<Vec<Vec<u8>>>>;

/// Accepts TLS (`None`: plain), perhaps WebSocket in it, and hands the bytes to the broker.
fn front(
    config: Option<Arc<ServerConfig>>,
    web_socket: bool,
    shown: Shown,
) -> impl Fn(SocketAddr) -> SocketAddr {
    move |broker| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (config, shown) = (config.clone(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime.unwrap(), async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((tcp, _)) = listener.accept().await {
                    let (config, shown) = (config.clone(), Arc::clone(&shown));
                    tokio::task::spawn_local(serve(tcp, config, web_socket, shown, broker));
                }
            });
        });
        addr
    }
}

async fn serve(
    tcp: TcpStream,
    config: Option<Arc<ServerConfig>>,
    web_socket: bool,
    shown: Shown,
    broker: SocketAddr,
) {
    let Some(config) = config else { return bridge(tcp, web_socket, broker).await };
    let Ok(tls) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await else { return };
    if let Some(certificates) = tls.get_ref().1.peer_certificates() {
        shown.lock().unwrap().push(certificates[0].to_vec());
    }
    bridge(tls, web_socket, broker).await;
}

async fn bridge(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    web_socket: bool,
    broker: SocketAddr,
) {
    let mut server = TcpStream::connect(broker).await.unwrap();
    if !web_socket {
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET /mqtt HTTP/1.1\r\n"), "{head}");
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    client.write_all(crate::websocket::accepting(key).as_bytes()).await.unwrap();
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        let mut payload = Vec::new();
        loop {
            // Frames of a client: two bytes, perhaps two more, the mask, the payload.
            let Ok(_) = from_client.read_u8().await else { return };
            let n = match from_client.read_u8().await.unwrap() & 0x7f {
                126 => from_client.read_u16().await.unwrap().into(),
                n => usize::from(n),
            };
            let mut mask = [0; 4];
            from_client.read_exact(&mut mask).await.unwrap();
            payload.resize(n, 0);
            from_client.read_exact(&mut payload).await.unwrap();
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            to_server.write_all(&payload).await.unwrap();
        }
    };
    let down = async {
        let mut buffer = [0; 100];
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            // A ping between any two, which must be answered and otherwise ignored.
            to_client.write_all(&[0x89, 0, 0x82, n as u8]).await.unwrap();
            to_client.write_all(&buffer[..n]).await.unwrap();
        }
    };
    tokio::join!(up, down);
}

fn trial() -> Trial {
    Trial::new(10).every(ms(50)).lasting(ms(1_000))
}

#[test]
fn devices_speak_through_tls_as_through_tcp() {
    let authority = Authority::new();
    let config = authority.config("localhost", 2040, false);
    let outcome = trial()
        .target(authority.secures())
        .through(front(Some(config), false, Shown::default()))
        .run(|_| {});
    outcome.assert_every_slot_has_one_class();
    outcome.assert_the_broker_saw_all();
    let total = outcome.publish();
    assert_eq!((total.acked, total.n_errors()), (total.sent, 0), "{total:?}");
    assert_eq!(outcome.gauges(), (10, 10, 0));
}

#[test]
fn devices_speak_through_web_sockets_plain_and_secured() {
    let authority = Authority::new();
    for secured in [false, true] {
        let config = secured.then(|| authority.config("localhost", 2040, false));
        let tls = secured.then(|| authority.trusted());
        let outcome = trial()
            .target(|target| {
                target.tls = tls;
                target.web_socket = Some("/mqtt".to_owned());
            })
            .through(front(config, true, Shown::default()))
            .run(|_| {});
        outcome.assert_every_slot_has_one_class();
        outcome.assert_the_broker_saw_all();
        let total = outcome.publish();
        assert_eq!((total.acked, total.n_errors()), (total.sent, 0), "{total:?}");
    }
}

#[test]
fn each_device_shows_its_own_certificate_and_the_same_one_when_it_comes_back() {
    let authority = Authority::new();
    let config = authority.config("localhost", 2040, true);
    let shown = Shown::default();
    let certificate = Certificate {
        is_signed: true,
        cert: Pem::Text(Template::literal(&authority.cert_pem)),
        key: Pem::Text(Template::literal(&authority.key_pem)),
    };
    let outcome = trial()
        .target(authority.secures())
        .certificate(&certificate)
        .reconnect(ms(50), ms(100))
        .through(front(Some(config), false, Arc::clone(&shown)))
        .run(|broker| broker.at(ms(500)).drop_all_connections());
    outcome.assert_every_slot_has_one_class();
    assert_eq!(outcome.gauges(), (10, 10, 0));
    assert!(outcome.connect().acked >= 20);
    let shown = shown.lock().unwrap();
    assert!(shown.len() >= 20, "{}", shown.len());
    assert_eq!(shown.iter().collect::<BTreeSet<_>>().len(), 10, "one certificate per device");
    for i in 0..10 {
        let name = format!("device-{i}");
        let names = |cert: &&Vec<u8>| cert.windows(name.len()).any(|w| w == name.as_bytes());
        assert!(shown.iter().filter(names).count() >= 2, "{name}");
    }
}

#[test]
fn devices_without_the_certificate_that_is_asked_for_fail() {
    let authority = Authority::new();
    let config = authority.config("localhost", 2040, true);
    let outcome = trial()
        .target(authority.secures())
        .through(front(Some(config), false, Shown::default()))
        .run(|_| {});
    outcome.assert_every_slot_has_one_class();
    assert_eq!(outcome.gauges(), (10, 0, 10));
    let errors = outcome.connect().errors;
    assert_eq!(errors.get(&ErrorClass::CertificateRefused), Some(&10), "{errors:?}");
    assert!(outcome.failures[0].text.contains("CertificateRequired"), "{:?}", outcome.failures[0]);
}

#[test]
fn a_server_that_does_not_prove_its_name_is_refused_before_the_load() {
    let (authority, other) = (Authority::new(), Authority::new());
    let refused = |config: Arc<ServerConfig>, tls: Tls| {
        trial()
            .target(|target| target.tls = Some(tls))
            .through(front(Some(config), false, Shown::default()))
            .prepare_error(|_| {})
    };
    let good = || authority.config("localhost", 2040, false);
    let why = refused(good(), other.trusted());
    assert!(why.contains("was not signed by an authority"), "{why}");
    let why = refused(authority.config("localhost", 2001, false), authority.trusted());
    assert!(why.contains("has expired"), "{why}");
    let why = refused(authority.config("elsewhere", 2040, false), authority.trusted());
    assert!(why.contains("elsewhere") && why.contains("localhost"), "{why}");
    let named = Tls { server_name: Some("elsewhere".to_owned()), ..authority.trusted() };
    let outcome = trial()
        .target(|target| target.tls = Some(named))
        .through(front(Some(authority.config("elsewhere", 2040, false)), false, Shown::default()))
        .run(|_| {});
    assert_eq!(outcome.gauges(), (10, 10, 0));
    let missing =
        Tls { ca: Some(FileRef::OnAgent("/nowhere/ca.pem".to_owned())), ..authority.trusted() };
    let why = refused(good(), missing);
    assert!(why.contains("/nowhere/ca.pem cannot be read on this agent"), "{why}");
    // A plain port where TLS is expected.
    let why = trial().target(authority.secures()).prepare_error(|_| {});
    assert!(why.contains("no TLS connection"), "{why}");
}

#[test]
fn a_web_socket_that_is_refused_says_so() {
    let outcome = trial().target(|target| target.web_socket = Some("/mqtt".to_owned())).run(|_| {});
    outcome.assert_every_slot_has_one_class();
    assert_eq!(outcome.gauges().1, 0);
    // The demo broker closes what is no CONNECT.
    assert!(outcome.connect().n_errors() > 0);
}
