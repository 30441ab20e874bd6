//! The session against a control plane that says what the test wants.

use std::net::SocketAddr;

use shoal_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use shoal_service_kit::{Lifecycle, SystemClock};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// One connection, as the control plane sees it.
struct Peer {
    token: Option<String>,
    incoming: Streaming<v1::AgentMessage>,
    outgoing: mpsc::Sender<Result<v1::ControlMessage, Status>>,
}

impl Peer {
    async fn next(&mut self) -> agent_message::Message {
        let message = timeout(LIMIT, self.incoming.message()).await.expect("a message in time");
        message.unwrap().expect("the session is open").message.unwrap()
    }

    async fn hello(&mut self) -> v1::Hello {
        match self.next().await {
            agent_message::Message::Hello(hello) => hello,
            other => panic!("hello comes first, not {other:?}"),
        }
    }

    async fn beat(&mut self) -> u64 {
        loop {
            if let agent_message::Message::Heartbeat(beat) = self.next().await {
                return beat.sent_boot_us;
            }
        }
    }

    /// The next lines of logs; beats on the way are acknowledged, since lines wait for the first.
    async fn lines(&mut self) -> Vec<u64> {
        loop {
            match self.next().await {
                agent_message::Message::Heartbeat(beat) => {
                    let sent_boot_us = beat.sent_boot_us;
                    let (received_us, replied_us) = (sent_boot_us + 5, sent_boot_us + 5);
                    let ack =
                        v1::HeartbeatAck { sent_boot_us, received_us, replied_us, renewed: vec![] };
                    self.say(control_message::Message::HeartbeatAck(ack)).await;
                }
                agent_message::Message::Logs(logs) => {
                    return logs.lines.iter().map(|line| line.number).collect();
                }
                _ => {}
            }
        }
    }

    async fn observed(&mut self) -> v1::Observed {
        loop {
            if let agent_message::Message::Observed(observed) = self.next().await {
                return observed;
            }
        }
    }

    async fn say(&self, message: control_message::Message) {
        let message = v1::ControlMessage { message: Some(message) };
        self.outgoing.send(Ok(message)).await.unwrap();
    }

    async fn welcome(&self) {
        self.say(control_message::Message::Welcome(v1::Welcome::default())).await;
    }
}

struct Scripted {
    peers: mpsc::Sender<Peer>,
    refusal: Option<Status>,
}

#[tonic::async_trait]
impl AgentService for Scripted {
    type SessionStream = ReceiverStream<Result<v1::ControlMessage, Status>>;
    type UploadStream = ReceiverStream<Result<v1::UploadAck, Status>>;
    type FetchFilesStream = ReceiverStream<Result<v1::FileChunk, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let token = request.metadata().get("authorization");
        let token = token.map(|token| token.to_str().unwrap().to_owned());
        let (outgoing, receiver) = mpsc::channel(16);
        let peer = Peer { token, incoming: request.into_inner(), outgoing };
        self.peers.send(peer).await.unwrap();
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn upload(
        &self,
        _: Request<Streaming<v1::UploadDelta>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn fetch_files(
        &self,
        _: Request<v1::FetchFilesRequest>,
    ) -> Result<Response<Self::FetchFilesStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

/// A session with both ends of everything it shares.
struct Bench {
    book: Arc<shoal_service_kit::logs::Book>,
    peers: mpsc::Receiver<Peer>,
    desired: watch::Receiver<Desired>,
    observed: watch::Sender<Vec<v1::Observed>>,
    offset: watch::Receiver<Option<i64>>,
    state: watch::Receiver<SessionState>,
    leases: Leases,
    drained: CancellationToken,
    lifecycle: Lifecycle,
}

impl Bench {
    async fn start(refusal: Option<Status>) -> Self {
        let lifecycle = Lifecycle::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr: SocketAddr = listener.local_addr().unwrap();
        let (sender, peers) = mpsc::channel(4);
        let service = AgentServiceServer::new(Scripted { peers: sender, refusal });
        let server = tonic::transport::Server::builder().add_service(service);
        let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
        lifecycle.spawn("server", async move { serving.await.unwrap() });

        let (desired, desired_seen) = watch::channel(Desired::default());
        let (offset, offset_seen) = watch::channel(None);
        let (observed, observed_seen) = watch::channel(Vec::new());
        let away = SessionState::Detached { since_boot_us: 0, why: String::new() };
        let (state, state_seen) = watch::channel(away);
        let (leases, drained) = (Leases::default(), CancellationToken::new());
        let book = Arc::new(shoal_service_kit::logs::Book::open("shoal_agent"));
        let session = Session {
            dialer: Dialer::new(&format!("http://{addr}"), Some("s3cret")).unwrap(),
            hello: v1::Hello { agent_id: "a".into(), ..v1::Hello::default() },
            leases: leases.clone(),
            desired,
            observed: observed_seen,
            offset,
            state,
            clock: Arc::new(SystemClock),
            drained: drained.clone(),
            leaving: CancellationToken::new(),
            beats: Beats::default(),
            lines: Lines::of(Arc::clone(&book)),
        };
        lifecycle.spawn("session", session.run());
        Self {
            book,
            peers,
            desired: desired_seen,
            observed,
            offset: offset_seen,
            state: state_seen,
            leases,
            drained,
            lifecycle,
        }
    }

    async fn accept(&mut self) -> Peer {
        timeout(LIMIT, self.peers.recv()).await.expect("the agent dials").unwrap()
    }

    async fn state(&mut self, wanted: impl Fn(&SessionState) -> bool) -> SessionState {
        let state = timeout(LIMIT, self.state.wait_for(wanted)).await.expect("a state in time");
        state.unwrap().clone()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.lifecycle.stop_hard();
    }
}

fn assignment(id: &str, epoch: u64) -> v1::Assignment {
    let assignment_id = id.to_owned();
    v1::Assignment { assignment_id, epoch, lease_us: 30_000_000, ..v1::Assignment::default() }
}

fn running(id: &str) -> v1::Observed {
    let assignment_id = id.to_owned();
    v1::Observed { assignment_id, epoch: 1, phase: 4, ..v1::Observed::default() }
}

#[tokio::test]
async fn hello_comes_first_with_the_token_and_a_lost_session_returns_with_its_inventory() {
    let mut bench = Bench::start(None).await;
    let mut peer = bench.accept().await;
    assert_eq!(peer.token.as_deref(), Some("Bearer s3cret"));
    assert_eq!(peer.hello().await.inventory, []);
    peer.welcome().await;
    bench.state(|state| matches!(state, SessionState::Connected { .. })).await;
    bench.observed.send_replace(vec![running("x")]);
    assert_eq!(peer.observed().await, running("x"));
    drop(peer);
    bench.state(|state| matches!(state, SessionState::Detached { .. })).await;

    let mut peer = bench.accept().await;
    assert_eq!(peer.hello().await.inventory, [running("x")]);
    peer.welcome().await;
    // What Hello said is not said again: the next word is the next change.
    bench.observed.send_replace(vec![running("x"), running("y")]);
    assert_eq!(peer.observed().await, running("y"));
}

#[tokio::test]
async fn an_acknowledged_beat_renews_listed_leases_and_teaches_the_offset() {
    let mut bench = Bench::start(None).await;
    let mut peer = bench.accept().await;
    peer.hello().await;
    peer.welcome().await;
    let assignments = vec![assignment("x", 1), assignment("y", 1)];
    let wanted = v1::DesiredState { assignments };
    peer.say(control_message::Message::Desired(wanted)).await;
    timeout(LIMIT, bench.desired.changed()).await.unwrap().unwrap();
    let key = |id: &str| Key { assignment: id.into(), epoch: 1 };
    let granted = [bench.leases.until_us(&key("x")), bench.leases.until_us(&key("y"))];
    let control = bench.leases.control(&key("x"));
    assert!(control.is_some());

    // An ack for a beat that was never sent, from far in the future, changes nothing.
    let renewed = vec![v1::Held { assignment_id: "x".into(), epoch: 1 }];
    let invented = v1::HeartbeatAck {
        sent_boot_us: u64::MAX,
        received_us: u64::MAX,
        replied_us: 0,
        renewed: renewed.clone(),
    };
    peer.say(control_message::Message::HeartbeatAck(invented)).await;

    peer.beat().await;
    let sent_boot_us = peer.beat().await;
    let at_us = sent_boot_us + 1_000_000_000;
    let ack = v1::HeartbeatAck { sent_boot_us, received_us: at_us, replied_us: at_us, renewed };
    peer.say(control_message::Message::HeartbeatAck(ack)).await;
    timeout(LIMIT, bench.offset.wait_for(Option::is_some)).await.unwrap().unwrap();
    let offset_us = bench.offset.borrow().unwrap();
    assert!((998_000_000..=1_000_000_000).contains(&offset_us), "{offset_us}");
    let until = |id| bench.leases.until_us(&key(id));
    assert_eq!(until("x"), Some(sent_boot_us + 30_000_000).max(granted[0]));
    assert_eq!(until("y"), granted[1]);
}

#[tokio::test]
async fn a_refusal_is_reported_with_its_code() {
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert(shoal_proto::CODE_KEY, "SH0402".parse().unwrap());
    let status = Status::with_metadata(Code::Unauthenticated, "the token is wrong", metadata);
    let mut bench = Bench::start(Some(status)).await;
    let state = bench.state(|state| matches!(state, SessionState::Refused { .. })).await;
    let SessionState::Refused { code, why, .. } = state else { unreachable!() };
    assert_eq!((code.as_str(), why.as_str()), ("SH0402", "the token is wrong"));
}

#[tokio::test]
async fn a_drained_session_tells_the_last_state_and_ends() {
    let mut bench = Bench::start(None).await;
    let mut peer = bench.accept().await;
    peer.hello().await;
    peer.welcome().await;
    bench.state(|state| matches!(state, SessionState::Connected { .. })).await;
    let closed = v1::Observed { phase: 5, closed_at_us: 7, ..running("x") };
    bench.observed.send_replace(vec![closed.clone()]);
    bench.drained.cancel();
    assert_eq!(peer.observed().await, closed);
    let end = async { while let Ok(Some(_)) = peer.incoming.message().await {} };
    timeout(LIMIT, end).await.expect("the agent ends its side");
}

#[tokio::test]
async fn a_control_plane_that_does_not_begin_with_welcome_is_left() {
    let mut bench = Bench::start(None).await;
    let peer = bench.accept().await;
    peer.say(control_message::Message::Desired(v1::DesiredState::default())).await;
    drop(peer);
    let mut again = bench.accept().await;
    again.hello().await;
    assert!(!bench.desired.borrow().is_known);
}

#[tokio::test]
async fn lines_are_told_one_message_at_a_time_and_again_until_they_are_acknowledged() {
    let mut bench = Bench::start(None).await;
    let mut peer = bench.accept().await;
    peer.hello().await;
    peer.welcome().await;
    bench.state(|state| matches!(state, SessionState::Connected { .. })).await;
    (0..100).for_each(|_| bench.book.say("something happened"));
    assert_eq!(peer.lines().await, (0..64).collect::<Vec<_>>());
    // Nothing is acknowledged and the connection is lost: the next one hears them again.
    drop(peer);
    let mut peer = bench.accept().await;
    peer.hello().await;
    peer.welcome().await;
    assert_eq!(peer.lines().await, (0..64).collect::<Vec<_>>());
    peer.say(control_message::Message::LogAck(v1::LogAck { through: 7 })).await;
    peer.say(control_message::Message::LogAck(v1::LogAck { through: 63 })).await;
    assert_eq!(peer.lines().await, (64..100).collect::<Vec<_>>());
    // What is left is told before the goodbye.
    peer.say(control_message::Message::LogAck(v1::LogAck { through: 99 })).await;
    eventually_empty(&bench).await;
    bench.book.say("the last word");
    bench.drained.cancel();
    assert_eq!(peer.lines().await, [100]);
}

async fn eventually_empty(bench: &Bench) {
    let empty = async {
        while !bench.book.now(1).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, empty).await.expect("acknowledged lines are forgotten");
}
