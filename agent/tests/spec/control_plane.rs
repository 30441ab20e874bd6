//! A control plane of one agent: acks beats, repeats what the test desires, stores each delta once.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use shoal_domain::delta::{Cells, Delta, merge_cells};
use shoal_domain::ids::RunId;
use shoal_domain::plan::Plan;
use shoal_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use shoal_proto::v1::{self, agent_message, control_message};
use shoal_proto::{MAX_MESSAGE, metrics};
use shoal_service_kit::{Clock, Lifecycle, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::LIMIT;

/// All devices of the plan for one agent, not armed.
pub(crate) fn assignment(scenario: &str, plan: &Plan, builtin: SocketAddr) -> v1::Assignment {
    let blocks = plan.groups.iter().enumerate();
    let block = |(group, def): (usize, &shoal_domain::plan::Group)| v1::Block {
        group: group as u32,
        end: def.devices,
        ..v1::Block::default()
    };
    v1::Assignment {
        assignment_id: "asg".to_owned(),
        epoch: 1,
        run_id: RunId::from_parts(1, 1).to_string(),
        scenario: scenario.to_owned(),
        plan_hash: plan.hash().to_vec(),
        seed: 7,
        blocks: blocks.map(block).collect(),
        lease_us: 30_000_000,
        end_us: plan.end_us(),
        spawn_rate: plan.spawn_rate(),
        builtin: builtin.to_string(),
        not_after_us: plan.end_us() + 60_000_000,
        ..v1::Assignment::default()
    }
}

pub(crate) struct ControlPlane {
    pub(crate) addr: SocketAddr,
    state: watch::Sender<State>,
    desired: watch::Sender<Vec<v1::Assignment>>,
    lifecycle: Lifecycle,
}

#[derive(Default)]
struct State {
    hellos: Vec<v1::Hello>,
    /// Every word of the agent, in order.
    observed: Vec<v1::Observed>,
    stored: BTreeMap<u64, v1::UploadDelta>,
    loses_acks: bool,
    /// That it wants in one delta.
    windows: u32,
    is_mute: bool,
    n_received: u64,
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (state, _) = watch::channel(State::default());
        let (desired, _) = watch::channel(Vec::new());
        let lifecycle = Lifecycle::new();
        let scripted = Scripted {
            state: state.clone(),
            desired: desired.clone(),
            lifecycle: lifecycle.clone(),
        };
        let service = AgentServiceServer::new(scripted).max_decoding_message_size(MAX_MESSAGE);
        let server = tonic::transport::Server::builder().add_service(service);
        let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
        lifecycle.spawn("server", async move { serving.await.unwrap() });
        Self { addr, state, desired, lifecycle }
    }

    pub(crate) fn desire(&self, assignments: Vec<v1::Assignment>) {
        self.desired.send_replace(assignments);
    }

    pub(crate) fn change(&self, change: impl Fn(&mut v1::Assignment)) {
        self.desired.send_modify(|all| all.iter_mut().for_each(change));
    }

    pub(crate) fn lose_every_third_ack(&self) {
        self.state.send_modify(|state| state.loses_acks = true);
    }

    /// From now on it wants so many windows in one delta.
    pub(crate) fn want_windows(&self, n: u32) {
        self.state.send_modify(|state| state.windows = n);
    }

    pub(crate) fn ack_no_more_beats(&self) {
        self.state.send_modify(|state| state.is_mute = true);
    }

    async fn wait<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let mut seen = self.state.subscribe();
        let found = seen.wait_for(|state| look(state).is_some());
        let state = timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("no {what} in time"));
        look(&state.unwrap()).unwrap()
    }

    pub(crate) async fn observed(&self, phase: v1::AssignmentPhase) -> v1::Observed {
        let look = |state: &State| {
            state.observed.iter().find(|observed| observed.phase() == phase).cloned()
        };
        self.wait(phase.as_str_name(), look).await
    }

    pub(crate) async fn hellos(&self, n: usize) -> Vec<v1::Hello> {
        self.wait("hello", |state| (state.hellos.len() >= n).then(|| state.hellos.clone())).await
    }

    /// At least `n` deltas.
    pub(crate) async fn stored(&self, n: usize) {
        self.wait("delta", |state| (state.stored.len() >= n).then_some(())).await;
    }

    /// First and last window of each delta.
    pub(crate) fn spans(&self) -> Vec<(u64, u64)> {
        let state = self.state.borrow();
        state.stored.values().map(|delta| (delta.first_window, delta.last_window)).collect()
    }

    /// What the closing delta says (closed at, totals), and the sum of all deltas up to it.
    pub(crate) async fn delivered(&self) -> (u64, Delta, Cells) {
        let look = |state: &State| {
            let (last, message) = state.stored.last_key_value()?;
            let closing = message.closing.clone()?;
            (state.stored.len() as u64 == last + 1).then(|| (closing, state.stored.clone()))
        };
        let (closing, stored) = self.wait("closing delta", look).await;
        let mut sum = Cells::new();
        for message in stored.values() {
            merge_cells(&mut sum, &metrics::decode(&message.body).unwrap().cells);
        }
        (closing.closed_at_us, metrics::decode(&closing.totals).unwrap(), sum)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.lifecycle.stop_hard();
    }
}

struct Scripted {
    state: watch::Sender<State>,
    desired: watch::Sender<Vec<v1::Assignment>>,
    lifecycle: Lifecycle,
}

type Out<T> = mpsc::Sender<Result<T, Status>>;

#[tonic::async_trait]
impl AgentService for Scripted {
    type SessionStream = ReceiverStream<Result<v1::ControlMessage, Status>>;
    type UploadStream = ReceiverStream<Result<v1::UploadAck, Status>>;
    type FetchFilesStream = ReceiverStream<Result<v1::FileChunk, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (out, receiver) = mpsc::channel(64);
        let (state, desired) = (self.state.clone(), self.desired.subscribe());
        self.lifecycle.spawn("session", serve(request.into_inner(), out, state, desired));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadDelta>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        let (out, receiver) = mpsc::channel(64);
        self.lifecycle.spawn("upload", store(request.into_inner(), out, self.state.clone()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_files(
        &self,
        _request: Request<v1::FetchFilesRequest>,
    ) -> Result<Response<Self::FetchFilesStream>, Status> {
        Err(Status::not_found("the scripted runs have no files"))
    }
}

async fn serve(
    mut incoming: Streaming<v1::AgentMessage>,
    out: Out<v1::ControlMessage>,
    state: watch::Sender<State>,
    mut desired: watch::Receiver<Vec<v1::Assignment>>,
) {
    let say = async |message| {
        let _ = out.send(Ok(v1::ControlMessage { message: Some(message) })).await;
    };
    desired.mark_changed();
    let mut is_welcome = false;
    loop {
        tokio::select! {
            biased;
            message = incoming.message() => match message.ok().flatten().and_then(|m| m.message) {
                Some(agent_message::Message::Hello(hello)) => {
                    state.send_modify(|state| state.hellos.push(hello));
                    say(control_message::Message::Welcome(v1::Welcome::default())).await;
                    is_welcome = true;
                }
                Some(agent_message::Message::Heartbeat(_)) if state.borrow().is_mute => {}
                Some(agent_message::Message::Logs(_)) => {}
                Some(agent_message::Message::Heartbeat(beat)) => {
                    let now_us = SystemClock.unix_us();
                    let held = |wanted: &v1::Assignment| v1::Held {
                        assignment_id: wanted.assignment_id.clone(),
                        epoch: wanted.epoch,
                    };
                    let renewed = desired.borrow().iter().map(held).collect();
                    say(control_message::Message::HeartbeatAck(v1::HeartbeatAck {
                        sent_boot_us: beat.sent_boot_us,
                        received_us: now_us,
                        replied_us: now_us,
                        renewed,
                    })).await;
                }
                Some(agent_message::Message::Observed(observed)) => {
                    state.send_modify(|state| state.observed.push(observed));
                }
                None => return,
            },
            Ok(()) = desired.changed(), if is_welcome => {
                let assignments = desired.borrow_and_update().clone();
                say(control_message::Message::Desired(v1::DesiredState { assignments })).await;
            }
        }
    }
}

async fn store(
    mut incoming: Streaming<v1::UploadDelta>,
    out: Out<v1::UploadAck>,
    state: watch::Sender<State>,
) {
    while let Ok(Some(delta)) = incoming.message().await {
        let ack = v1::UploadAck {
            assignment_id: delta.assignment_id.clone(),
            epoch: delta.epoch,
            seq: delta.seq,
            outcome: v1::UploadOutcome::Stored.into(),
            windows: state.borrow().windows,
        };
        let mut is_lost = false;
        state.send_modify(|state| {
            state.n_received += 1;
            is_lost = state.loses_acks && state.n_received % 3 == 0;
            if let Some(known) = state.stored.insert(delta.seq, delta.clone()) {
                assert_eq!(known, delta, "a repeated delta is unchanged");
            }
        });
        if is_lost || out.send(Ok(ack)).await.is_err() {
            return;
        }
    }
}
