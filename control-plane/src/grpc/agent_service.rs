//! Agents' two streams: the session (hello, beats, observations) and the upload of deltas.

use std::pin::Pin;

use shoal_domain::ids::{AgentId, NotAnAgentId, ObserverId};
use shoal_domain::report::HostReport;
use shoal_domain::shard::Shard;
use shoal_proto::v1::agent_message::Message as Up;
use shoal_proto::v1::agent_service_server::AgentService;
use shoal_proto::v1::control_message::Message as Down;
use shoal_proto::{INCARNATION_KEY, PROTOCOL, assignment, files, v1};
use shoal_service_kit::{Clock, Lifecycle};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::clock::ControlClock;
use crate::fleet::{Fleet, SessionSender};
use crate::ingest::Arrival;
use crate::logs::{Logs, SessionLogs};
use crate::orchestrator::Runs;
use crate::refusal::{Kind, Refusal};
use crate::store::{AgentRow, Store};

/// Acks that may wait in one upload stream. An ack that finds it full is dropped: the agent sends
/// that delta again and gets another.
const ACKS: usize = 256;
/// Chunks of files on their way to one agent; the next one waits until there is room.
const FILE_CHUNKS: usize = 2;

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub struct AgentApi {
    pub fleet: Fleet,
    pub runs: Runs,
    pub store: Store,
    pub deltas: mpsc::Sender<Arrival>,
    pub logs: Logs,
    pub lifecycle: Lifecycle,
    pub server: String,
}

#[tonic::async_trait]
impl AgentService for AgentApi {
    type SessionStream = Out<v1::ControlMessage>;
    type UploadStream = Out<v1::UploadAck>;
    type FetchFilesStream = Out<v1::FileChunk>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut up = request.into_inner();
        let hello = match up.message().await? {
            Some(v1::AgentMessage { message: Some(Up::Hello(hello)) }) => hello,
            _ => return Err(Status::invalid_argument("the first message of a session is Hello")),
        };
        let id = check(&hello)?;
        let now_us = ControlClock.unix_us();
        let row = agent_row(&hello, now_us);
        let logs = self.logs.of(&id, &hello.incarnation);
        let (session, mut desired) = self.fleet.join(&id, hello, now_us)?;
        let store = self.store.clone();
        // The registry is for people; an agent works without its row, and does not wait for it.
        self.lifecycle.spawn("agent row", async move {
            if let Err(error) = store.upsert_agent(&row).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "agent row");
            }
        });
        tracing::info!(agent = %id, "agent connected");
        let (down, out) = mpsc::channel(64);
        let welcome =
            v1::Welcome { server: self.server.clone(), build: env!("CARGO_PKG_VERSION").into() };
        let welcome = v1::ControlMessage { message: Some(Down::Welcome(welcome)) };
        down.try_send(Ok(welcome)).map_err(|_| Status::internal("a new queue is full"))?;
        let fleet = self.fleet.clone();
        let soft = self.lifecycle.soft();
        self.lifecycle.spawn("agent session", async move {
            loop {
                tokio::select! {
                    message = up.message() => match message {
                        Ok(Some(message)) => if !take(&fleet, (&id, session), message, &logs, &down) {
                            break;
                        },
                        Ok(None) | Err(_) => break,
                    },
                    desired = desired.recv() => match desired {
                        Some(desired) => if down.send(desired).await.is_err() {
                            break;
                        },
                        None => break,
                    },
                    () = soft.cancelled() => break,
                }
            }
            fleet.leave(&id, session);
            tracing::info!(agent = %id, "agent disconnected");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadDelta>>,
    ) -> Result<Response<Self::UploadStream>, Status> {
        let incarnation =
            request.metadata().get(INCARNATION_KEY).and_then(|text| text.to_str().ok());
        let incarnation = incarnation.unwrap_or_default().to_owned();
        let fleet = self.fleet.clone();
        let mut from = None;
        let mut up = request.into_inner();
        let (acks, out) = mpsc::channel(ACKS);
        let deltas = self.deltas.clone();
        let soft = self.lifecycle.soft();
        self.lifecycle.spawn("agent upload", async move {
            loop {
                let delta = tokio::select! {
                    delta = up.message() => delta,
                    () = soft.cancelled() => break,
                };
                let Ok(Some(delta)) = delta else { break };
                // Waits while the database does: then this agent keeps its deltas.
                // Its session may have opened after this stream.
                from = from.or_else(|| fleet.who(&incarnation));
                let arrival = Arrival { delta, from: from.clone(), acks: acks.clone() };
                if deltas.send(arrival).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn fetch_files(
        &self,
        request: Request<v1::FetchFilesRequest>,
    ) -> Result<Response<Self::FetchFilesStream>, Status> {
        let request = request.into_inner();
        let unknown = || Status::not_found("no such assignment is wanted");
        let wanted =
            self.fleet.wanted(&request.assignment_id, request.epoch).ok_or_else(unknown)?;
        let run = wanted.run_id.parse().ok().and_then(|run| self.runs.active(run));
        let plan = run.ok_or_else(unknown)?.plan;
        let shard = match &wanted.observe {
            Some(share) => Shard::observed(&plan, ObserverId(share.observer)),
            None => assignment::shard_from_wire(&plan, &wanted.blocks)
                .map_err(|error| Status::internal(error.to_string()))?,
        };
        let (chunks, out) = mpsc::channel(FILE_CHUNKS);
        self.lifecycle.spawn("agent files", async move {
            // Cutting a large table is work.
            let cut = tokio::task::spawn_blocking(move || shard.files(&plan)).await;
            for chunk in cut.iter().flatten().flat_map(files::chunks) {
                if chunks.send(Ok(chunk)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

fn check(hello: &v1::Hello) -> Result<AgentId, Status> {
    if hello.protocol != PROTOCOL {
        let message =
            format!("the agent speaks protocol {}, this control plane {PROTOCOL}", hello.protocol);
        let refusal = Refusal::new(Kind::Invalid, "SH0410", message);
        return Err(refusal.help("run agents and control plane of the same release").into());
    }
    hello.agent_id.parse().map_err(|error: NotAnAgentId| {
        Refusal::new(Kind::Invalid, "SH0602", error.to_string()).into()
    })
}

/// Takes one message of a session; `false` ends it.
fn take(
    fleet: &Fleet,
    (id, session): (&AgentId, u64),
    message: v1::AgentMessage,
    logs: &SessionLogs,
    down: &SessionSender,
) -> bool {
    let now_us = ControlClock.unix_us();
    match message.message {
        Some(Up::Heartbeat(beat)) => {
            let Some(renewed) = fleet.beat(id, session, beat.leaving, now_us) else { return false };
            let ack = v1::HeartbeatAck {
                sent_boot_us: beat.sent_boot_us,
                received_us: now_us,
                replied_us: ControlClock.unix_us(),
                renewed,
            };
            down.try_send(Ok(v1::ControlMessage { message: Some(Down::HeartbeatAck(ack)) })).is_ok()
        }
        Some(Up::Observed(observed)) => {
            fleet.observe(id, observed, now_us);
            true
        }
        Some(Up::Logs(lines)) => {
            logs.take(lines, down);
            true
        }
        // A second hello or a message of a later release: this session is not understood.
        Some(Up::Hello(_)) | None => false,
    }
}

fn agent_row(hello: &v1::Hello, now_us: u64) -> AgentRow {
    let capacity = hello.capacity.unwrap_or_default();
    let number = hello.incarnation.get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok());
    AgentRow {
        agent_id: hello.agent_id.clone(),
        incarnation: number.unwrap_or_default() as i64,
        build: hello.build.clone(),
        labels_json: serde_json::json!(hello.labels).to_string(),
        host_json: host_json(hello),
        capacity_json: serde_json::json!({
            "cores": capacity.cores,
            "descriptors": capacity.descriptors,
            "ports": capacity.ports,
            "memory_bytes": capacity.memory_bytes,
            "weight": capacity.weight,
            "max_devices": capacity.max_devices,
        })
        .to_string(),
        first_seen_us: now_us as i64,
        last_seen_us: now_us as i64,
    }
}

/// As the document shows it, so a later release may know more.
fn host_json(hello: &v1::Hello) -> String {
    let capacity = hello.capacity.unwrap_or_default();
    let Some(host) = &hello.host else { return "{}".to_owned() };
    let report = HostReport {
        name: host.name.clone(),
        system: host.system.clone(),
        kernel: host.kernel.clone(),
        processor: host.processor.clone(),
        processors: host.processors,
        memory_bytes: host.memory_bytes,
        timer_p99_us: capacity.timer_p99_us,
        echo_p50_us: capacity.echo_p50_us,
        echo_p99_us: capacity.echo_p99_us,
    };
    serde_json::json!(report).to_string()
}
