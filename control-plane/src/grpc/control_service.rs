//! The operator API.

use std::pin::Pin;
use std::time::Duration;

use shoal_domain::ids::{AgentId, RunId};
use shoal_domain::lease::{BEAT_US, Presence};
use shoal_domain::run::{Validity, Verdict};
use shoal_proto::v1;
use shoal_proto::v1::control_service_server::ControlService;
use shoal_service_kit::{Clock, Lifecycle};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::clock::ControlClock;
use crate::fleet::{Fleet, Member};
use crate::logs;
use crate::orchestrator::{ActiveRun, Runs, Wanted, Wish, hash_token, labels_from_wire};
use crate::query;
use crate::refusal::{Kind, Refusal};
use crate::requests;
use crate::store::{Found, RunFilter, RunListing, RunRow, Store};

use super::results::to_wire;

/// How often a watcher hears of its run.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
const MAX_PAGE: u32 = 500;
/// Lines of logs on their way to one reader; the next one waits until there is room.
const LOG_LINES: usize = 64;
/// Pages of a request log on their way to one reader.
const REQUEST_PAGES: usize = 4;
/// A stop is carried out after this, whether the store knows the run by then or not.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub struct ControlApi {
    pub runs: Runs,
    pub fleet: Fleet,
    pub store: Store,
    pub lifecycle: Lifecycle,
    pub server: String,
}

#[tonic::async_trait]
impl ControlService for ControlApi {
    type WatchStream = Out<v1::RunProgress>;
    type ReadLogsStream = Out<v1::RunLogLine>;
    type ReadRequestsStream = Out<v1::LoggedRequests>;

    async fn start_run(
        &self,
        request: Request<v1::StartRunRequest>,
    ) -> Result<Response<v1::StartRunResponse>, Status> {
        Ok(Response::new(self.runs.accept(request.into_inner()).await?))
    }

    async fn stop_run(
        &self,
        request: Request<v1::StopRunRequest>,
    ) -> Result<Response<v1::StopRunResponse>, Status> {
        let request = request.into_inner();
        let stop = |active: &ActiveRun| {
            active.wishes.try_send(Wish::Stop { abort: request.abort }).map_err(|_| {
                Refusal::new(Kind::Unavailable, "SH0405", "the run takes no more wishes just now")
            })
        };
        let slow = || Refusal::new(Kind::Unavailable, "SH0501", "the store is silent");
        let found = tokio::time::timeout(STORE_PATIENCE, self.find(&request.run)).await;
        let row = match found.unwrap_or_else(|_| Err(slow())) {
            Ok(row) => row,
            // Nobody may have to wait for a database to stop a load.
            Err(refusal) if refusal.kind == Kind::Unavailable => {
                let (run_id, active) = self.runs.active_called(&request.run).ok_or(refusal)?;
                stop(&active)?;
                let phase = active.status.borrow().record.state.phase().word().to_owned();
                let (run_id, name) = (run_id.to_string(), active.name);
                return Ok(Response::new(v1::StopRunResponse { run_id, name, phase }));
            }
            Err(refusal) => return Err(refusal.into()),
        };
        if let Some(active) = self.runs.active(row.run_id) {
            stop(&active)?;
        } else if !row.phase.is_over() {
            let message = format!("run {} is driven by another control plane", row.name);
            return Err(Refusal::new(Kind::Unavailable, "SH0405", message).into());
        }
        Ok(Response::new(v1::StopRunResponse {
            run_id: row.run_id.to_string(),
            name: row.name,
            phase: row.phase.word().to_owned(),
        }))
    }

    async fn scale_run(
        &self,
        request: Request<v1::ScaleRunRequest>,
    ) -> Result<Response<v1::ScaleRunResponse>, Status> {
        let v1::ScaleRunRequest { run, group, devices, rate_per_s } = request.into_inner();
        let row = self.find(&run).await?;
        let Some(active) = self.runs.active(row.run_id) else {
            let message = match row.phase.is_over() {
                true => format!("run {} is {}: its load is over", row.name, row.phase.word()),
                false => format!("run {} is driven by another control plane", row.name),
            };
            return Err(Refusal::new(Kind::Invalid, "SH0411", message).into());
        };
        let (answer, answered) = oneshot::channel();
        let busy =
            || Refusal::new(Kind::Unavailable, "SH0405", "the run takes no more wishes just now");
        let wanted = Wanted { group, devices, rate_per_s };
        active.wishes.try_send(Wish::Scale(wanted, answer)).map_err(|_| busy())?;
        let scaled = answered.await.map_err(|_| busy())??;
        let revision = scaled.revision;
        let seconds = |us: u64| us as f64 / 1e6;
        let name = active.plan.groups.get(revision.group).map(|group| group.name.clone());
        Ok(Response::new(v1::ScaleRunResponse {
            run_id: row.run_id.to_string(),
            name: row.name,
            group: name.unwrap_or_default(),
            from_devices: scaled.from_devices,
            devices: revision.devices,
            rate_per_s: scaled.rate_per_s,
            at_s: seconds(revision.at_us),
            reached_s: seconds(revision.at_us.saturating_add(revision.over_us)),
        }))
    }

    async fn get_report(
        &self,
        request: Request<v1::GetReportRequest>,
    ) -> Result<Response<v1::GetReportResponse>, Status> {
        let v1::GetReportRequest { run, by } = request.into_inner();
        let row = self.find(&run).await?;
        let mut report = query::report(&self.store, &row, &self.server).await?;
        if !by.is_empty() {
            report.parts = query::parts(&self.store, &row, &by).await?;
        }
        let json = serde_json::to_vec(&report)
            .map_err(|error| Status::internal(format!("the report cannot be written: {error}")))?;
        Ok(Response::new(v1::GetReportResponse { json }))
    }

    async fn list_runs(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsResponse>, Status> {
        let request = request.into_inner();
        let before = match request.before.as_str() {
            "" => None,
            id => Some(
                id.parse::<RunId>()
                    .map_err(|error| Refusal::new(Kind::Invalid, "SH0403", error.to_string()))?,
            ),
        };
        let limit = if request.limit == 0 { 50 } else { request.limit.min(MAX_PAGE) };
        let filter = filter(request)?;
        let rows = self.store.list_runs(&filter, before, i64::from(limit)).await;
        let rows = rows.map_err(Refusal::from)?;
        let runs = rows.into_iter().map(run_row).collect();
        Ok(Response::new(v1::ListRunsResponse { runs }))
    }

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchBeat>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut beats = request.into_inner();
        let first = beats
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("the first beat of a watch names the run"))?;
        let run = self.find(&first.run).await?.run_id;
        let is_owner = !first.owner_token.is_empty();
        if is_owner && let Some(active) = self.runs.active(run) {
            if active.owner_token_hash.as_deref() != Some(&hash_token(&first.owner_token)) {
                return Err(Status::permission_denied("this is not the run's owner token"));
            }
            let _ = active.wishes.try_send(Wish::OwnerBeat);
        }
        let (sender, out) = mpsc::channel(8);
        let api = self.clone();
        self.lifecycle.spawn("watch", async move {
            let mut tick = tokio::time::interval(PROGRESS_EVERY);
            let soft = api.lifecycle.soft();
            loop {
                tokio::select! {
                    beat = beats.message() => match (beat, api.runs.active(run)) {
                        (Ok(Some(_)), Some(active)) if is_owner => {
                            let _ = active.wishes.try_send(Wish::OwnerBeat);
                        }
                        (Ok(Some(_)), _) => {}
                        (Ok(None) | Err(_), _) => return,
                    },
                    _ = tick.tick() => if !api.tell(run, &sender).await { return },
                    () = soft.cancelled() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn list_agents(
        &self,
        _request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let members = self.fleet.members();
        let agents = members.into_iter().map(|member| self.agent_row(member)).collect();
        Ok(Response::new(v1::ListAgentsResponse { agents }))
    }

    async fn drain_agent(
        &self,
        request: Request<v1::DrainAgentRequest>,
    ) -> Result<Response<v1::AgentRow>, Status> {
        let v1::DrainAgentRequest { agent_id, undo } = request.into_inner();
        let unknown = || {
            let message = format!("no agent `{agent_id}` has connected here");
            Refusal::new(Kind::NotFound, "SH0403", message).help("`shoal agent list` shows them")
        };
        let id: AgentId = agent_id.parse().map_err(|_| unknown())?;
        self.fleet.member(&id).ok_or_else(unknown)?;
        let now_us = ControlClock.unix_us() as i64;
        self.store.set_drained(id.as_str(), !undo, now_us).await.map_err(Refusal::from)?;
        self.fleet.drain(&id, !undo);
        if undo {
            self.store.lift_quarantine(id.as_str()).await.map_err(Refusal::from)?;
            self.fleet.lift_quarantine(&id);
        }
        let member = self.fleet.member(&id).ok_or_else(unknown)?;
        Ok(Response::new(self.agent_row(member)))
    }

    async fn annotate(
        &self,
        request: Request<v1::AnnotateRequest>,
    ) -> Result<Response<v1::RunReference>, Status> {
        Ok(Response::new(self.annotated(request.into_inner()).await?))
    }

    async fn change_labels(
        &self,
        request: Request<v1::ChangeLabelsRequest>,
    ) -> Result<Response<v1::ChangeLabelsResponse>, Status> {
        Ok(Response::new(self.labelled(request.into_inner()).await?))
    }

    async fn prune(
        &self,
        request: Request<v1::PruneRequest>,
    ) -> Result<Response<v1::PruneResponse>, Status> {
        Ok(Response::new(self.pruned(request.into_inner()).await?))
    }

    async fn set_baseline(
        &self,
        request: Request<v1::SetBaselineRequest>,
    ) -> Result<Response<v1::Baseline>, Status> {
        Ok(Response::new(self.baseline_set(request.into_inner()).await?))
    }

    async fn clear_baseline(
        &self,
        request: Request<v1::ClearBaselineRequest>,
    ) -> Result<Response<v1::ClearBaselineResponse>, Status> {
        Ok(Response::new(self.baseline_cleared(request.into_inner()).await?))
    }

    async fn list_baselines(
        &self,
        request: Request<v1::ListBaselinesRequest>,
    ) -> Result<Response<v1::ListBaselinesResponse>, Status> {
        let baselines = self.baselines(&request.into_inner().scenario).await?;
        Ok(Response::new(v1::ListBaselinesResponse { baselines }))
    }

    async fn compare(
        &self,
        request: Request<v1::CompareRequest>,
    ) -> Result<Response<v1::CompareResponse>, Status> {
        Ok(Response::new(self.compared(request.into_inner()).await?))
    }

    async fn trend(
        &self,
        request: Request<v1::TrendRequest>,
    ) -> Result<Response<v1::TrendResponse>, Status> {
        Ok(Response::new(self.trended(request.into_inner()).await?))
    }

    async fn export_run(
        &self,
        request: Request<v1::ExportRunRequest>,
    ) -> Result<Response<v1::ExportRunResponse>, Status> {
        Ok(Response::new(self.exported(request.into_inner()).await?))
    }

    async fn read_logs(
        &self,
        request: Request<v1::ReadLogsRequest>,
    ) -> Result<Response<Self::ReadLogsStream>, Status> {
        let wanted = self.logs_wanted(request.into_inner()).await?;
        let (sender, out) = mpsc::channel(LOG_LINES);
        let read = logs::read(self.store.clone(), self.runs.clone(), wanted, sender);
        let soft = self.lifecycle.soft();
        self.lifecycle.spawn("read logs", async move {
            tokio::select! { () = read => {}, () = soft.cancelled() => {} }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn read_requests(
        &self,
        request: Request<v1::ReadRequestsRequest>,
    ) -> Result<Response<Self::ReadRequestsStream>, Status> {
        let (row, plan, t0_us) = self.requests_wanted(&request.into_inner().run).await?;
        let (sender, out) = mpsc::channel(REQUEST_PAGES);
        let read = requests::read(self.store.clone(), row, plan, t0_us, sender);
        let soft = self.lifecycle.soft();
        self.lifecycle.spawn("read requests", async move {
            tokio::select! { () = read => {}, () = soft.cancelled() => {} }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

impl ControlApi {
    pub(super) async fn find(&self, reference: &str) -> Result<RunRow, Refusal> {
        match self.store.find_run(reference).await? {
            Found::One(row) => Ok(*row),
            Found::None => {
                let message = format!("no run `{reference}` in this store");
                Err(Refusal::new(Kind::NotFound, "SH0403", message).help(
                    "`shoal list` shows the runs; name one by id, unique prefix, name, `last` or `last~1`",
                ))
            }
            Found::Ambiguous(candidates) => {
                let message = format!("`{reference}` fits several runs: {}", candidates.join(", "));
                Err(Refusal::new(Kind::Invalid, "SH0404", message).help("give more of the id"))
            }
        }
    }

    /// One piece of progress to a watcher; `false`: there will be no more.
    async fn tell(
        &self,
        run: RunId,
        watcher: &mpsc::Sender<Result<v1::RunProgress, Status>>,
    ) -> bool {
        let progress = match self.runs.active(run) {
            Some(active) => query::progress(run, &active, self.runs.live()),
            None => match self.store.run(run).await {
                Ok(Some(row)) => query::ended(&row),
                Ok(None) => return false,
                Err(error) => {
                    let _ = watcher.send(Err(Refusal::from(error).into())).await;
                    return false;
                }
            },
        };
        let is_over = progress.over;
        watcher.send(Ok(progress)).await.is_ok() && !is_over
    }

    fn agent_row(&self, member: Member) -> v1::AgentRow {
        let presence = member.liveness.presence(ControlClock.unix_us(), 3 * BEAT_US);
        let state = match (member.is_connected, presence) {
            _ if member.quarantine.is_some() => "quarantined",
            (true, Presence::Alive) if member.is_drained && member.n_devices > 0 => "draining",
            (true, Presence::Alive) if member.is_drained => "drained",
            (true, Presence::Alive) => "connected",
            (_, Presence::Alive | Presence::Suspect) => "suspect",
            (_, Presence::Lost) => "gone",
        };
        let name = |run: &String| {
            let id = run.parse::<RunId>().ok()?;
            self.runs.active(id).map(|active| active.name)
        };
        v1::AgentRow {
            agent_id: member.id.to_string(),
            build: member.build,
            state: state.to_owned(),
            weight: member.capacity.weight,
            max_devices: member.capacity.max_devices,
            labels: member.labels,
            last_seen_us: member.liveness.last_heard_us(),
            descriptors: member.capacity.descriptors,
            memory_bytes: member.capacity.memory_bytes,
            timer_p99_us: member.capacity.timer_p99_us,
            echo_p50_us: member.capacity.echo_p50_us,
            echo_p99_us: member.capacity.echo_p99_us,
            remark: member.quarantine.map(|quarantine| quarantine.sentence()).unwrap_or_default(),
            run: member.runs.iter().filter_map(name).collect::<Vec<_>>().join(","),
        }
    }
}

fn run_row(row: RunListing) -> v1::RunRow {
    let lasted_us = match (row.t0_us, row.ended_at_us) {
        (Some(t0), Some(end)) => end.saturating_sub(t0).max(0),
        _ => 0,
    };
    v1::RunRow {
        run_id: row.run_id.to_string(),
        name: row.name,
        scenario: row.scenario_name,
        phase: row.phase.word().to_owned(),
        validity: row.validity.map_or(String::new(), |validity| validity.word().to_owned()),
        verdict: row.verdict.map_or(String::new(), |verdict| verdict.word().to_owned()),
        exit_code: row.exit_code.unwrap_or(-1) as i32,
        created_us: row.created_at_us as u64,
        planned_devices: row.planned_devices as u64,
        duration_s: lasted_us as f64 / 1e6,
        labels: to_wire(&row.labels),
        started_by: row.started_by,
        revision: row.revision,
    }
}

fn filter(request: v1::ListRunsRequest) -> Result<RunFilter, Refusal> {
    let unknown = |what: &str, word: &str, known: &str| {
        let message = format!("`{word}` is no {what}: {known} is expected");
        Refusal::new(Kind::Invalid, "SH0602", message)
    };
    let asked = |word: String| (!word.is_empty()).then_some(word);
    let validity = asked(request.validity)
        .map(|word| {
            Validity::from_word(&word)
                .ok_or_else(|| unknown("validity", &word, "VALID, DEGRADED or INVALID"))
        })
        .transpose()?;
    let verdict = asked(request.verdict)
        .map(|word| {
            Verdict::from_word(&word).ok_or_else(|| unknown("verdict", &word, "PASSED or FAILED"))
        })
        .transpose()?;
    let labels = labels_from_wire(request.labels)?;
    if labels.len() > RunFilter::MOST_LABELS {
        let message = format!("at most {} labels can be asked for", RunFilter::MOST_LABELS);
        return Err(Refusal::new(Kind::Invalid, "SH0602", message));
    }
    let instant = |us: u64| (us > 0).then_some(us.min(i64::MAX as u64) as i64);
    Ok(RunFilter {
        scenario: asked(request.scenario),
        validity,
        verdict,
        labels,
        since_us: instant(request.since_us),
        until_us: instant(request.until_us),
    })
}
