//! A program that claims to be an agent: it joins, takes what it is given, drives nothing, and says what
//! the test wants.

use std::time::Duration;

use shoal_proto::v1::agent_message::Message as Up;
use shoal_proto::v1::agent_service_client::AgentServiceClient;
use shoal_proto::v1::control_message::Message as Down;
use shoal_proto::{INCARNATION_KEY, PROTOCOL, v1};
use shoal_service_kit::random;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status};

const PATIENCE: Duration = Duration::from_secs(60);
const BEAT: Duration = Duration::from_secs(2);

pub struct Impostor {
    client: AgentServiceClient<Channel>,
    incarnation: String,
    desired: watch::Receiver<Vec<v1::Assignment>>,
    /// One task, which ends when its session does.
    session: JoinSet<()>,
}

impl Impostor {
    /// With an open session; it beats, and says of all that it is given that it is prepared and runs.
    pub async fn join(server: &str, id: &str) -> Self {
        let mut client = AgentServiceClient::connect(server.to_owned()).await.expect("it answers");
        let incarnation = random::token();
        let (up, out) = mpsc::channel(64);
        let hello = hello(id, &incarnation);
        up.send(message(Up::Hello(hello))).await.expect("its queue is empty");
        let mut down =
            client.session(ReceiverStream::new(out)).await.expect("it is taken in").into_inner();
        let (sender, desired) = watch::channel(Vec::new());
        let mut session = JoinSet::new();
        session.spawn(async move {
            let mut beat = tokio::time::interval(BEAT);
            loop {
                let said = tokio::select! {
                    _ = beat.tick() => vec![Up::Heartbeat(v1::Heartbeat::default())],
                    told = down.message() => match told {
                        Ok(Some(told)) => match told.message {
                            Some(Down::Desired(wanted)) => {
                                let said = wanted.assignments.iter().map(observed).collect();
                                sender.send_replace(wanted.assignments);
                                said
                            }
                            _ => vec![],
                        },
                        Ok(None) | Err(_) => return,
                    },
                };
                for said in said {
                    if up.send(message(said)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { client, incarnation, desired, session }
    }

    /// What one of another build is told, that speaks this protocol.
    pub async fn is_refused(server: &str, id: &str, protocol: u32) -> Status {
        let mut client = AgentServiceClient::connect(server.to_owned()).await.expect("it answers");
        let hello = v1::Hello { protocol, ..hello(id, &random::token()) };
        let session = client.session(tokio_stream::once(message(Up::Hello(hello)))).await;
        session.expect_err("it is not taken in")
    }

    /// What it was given, once that has a start.
    pub async fn assignment(&mut self) -> v1::Assignment {
        let armed = |wanted: &Vec<v1::Assignment>| wanted.iter().any(|one| one.t0_us > 0);
        let wanted = tokio::time::timeout(PATIENCE, self.desired.wait_for(armed)).await;
        wanted.expect("it is given devices").expect("its session lives")[0].clone()
    }

    /// What the control plane says to some deltas; it may also end the stream.
    pub async fn upload(
        &mut self,
        deltas: Vec<v1::UploadDelta>,
    ) -> Result<Vec<v1::UploadOutcome>, Status> {
        let n = deltas.len();
        let mut request = Request::new(tokio_stream::iter(deltas));
        let incarnation = self.incarnation.parse().expect("a token is ASCII");
        request.metadata_mut().insert(INCARNATION_KEY, incarnation);
        let mut acks = self.client.upload(request).await?.into_inner();
        let mut outcomes = Vec::new();
        while outcomes.len() < n {
            match tokio::time::timeout(PATIENCE, acks.message()).await.expect("an answer")? {
                Some(ack) => outcomes.push(ack.outcome()),
                None => return Err(Status::aborted("the stream ended")),
            }
        }
        Ok(outcomes)
    }

    /// Opens streams and says nothing in them; they stay open with what is returned.
    pub fn open_streams(&self, n: usize) -> JoinSet<()> {
        let open = |_| {
            let mut client = self.client.clone();
            async move {
                let silence = tokio_stream::pending();
                let _ = client.upload(Request::new(silence)).await;
            }
        };
        (0..n).map(open).collect()
    }

    /// Returns when the control plane has ended its session.
    pub async fn is_sent_away(&mut self) {
        let ended = tokio::time::timeout(PATIENCE, self.session.join_next()).await;
        let ended = ended.expect("its session is ended");
        ended.expect("it had one").expect("it does not panic");
    }
}

fn hello(id: &str, incarnation: &str) -> v1::Hello {
    let capacity =
        v1::Capacity { cores: 1.0, weight: 1.0, max_devices: 1_000, ..Default::default() };
    v1::Hello {
        protocol: PROTOCOL,
        agent_id: id.to_owned(),
        incarnation: incarnation.to_owned(),
        capacity: Some(capacity),
        ..v1::Hello::default()
    }
}

fn message(message: Up) -> v1::AgentMessage {
    v1::AgentMessage { message: Some(message) }
}

/// Nothing but a claim.
fn observed(wanted: &v1::Assignment) -> Up {
    let phase = match wanted.t0_us {
        0 => v1::AssignmentPhase::Prepared,
        _ => v1::AssignmentPhase::Running,
    };
    Up::Observed(v1::Observed {
        assignment_id: wanted.assignment_id.clone(),
        epoch: wanted.epoch,
        phase: phase.into(),
        plan_hash: wanted.plan_hash.clone(),
        ..v1::Observed::default()
    })
}
