//! A whole system in this process: control plane, agents and a broker that misbehaves on demand.
//!
//! Everything talks over real sockets, as in a deployment, so a specification test proves the
//! product and not a model of it. Invariant: all parts end with this handle.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use shoal_agent::app::SessionState;
use shoal_agent::protocol::Protocols;
use shoal_control_plane::app as control_plane;
use shoal_demo_broker::{BrokerThread, Script};
use shoal_domain::export::RunExport;
use shoal_domain::report::{ObserverReport, RunReport, SeriesReport};
use shoal_proto::v1::control_service_client::ControlServiceClient;
use shoal_proto::v1::{
    AgentRow, DrainAgentRequest, ExportRunRequest, GetReportRequest, ListAgentsRequest,
    LoggedRequest, Override, ReadRequestsRequest, ScaleRunRequest, ShippedFile, StartRunRequest,
    StopRunRequest,
};
use shoal_service_kit::Lifecycle;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::expect::eventually;

/// What the owner of these agents provides.
const SECRETS: [(&str, &str); 2] = [
    ("hub_key", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    ("node_password", "correct horse"),
];

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    agents: BTreeMap<usize, Lifecycle>,
    control_plane: Lifecycle,
    server: String,
    client: ControlServiceClient<Channel>,
    broker: BrokerThread,
    dir: TempDir,
    /// What its agents speak beside MQTT and HTTP.
    protocols: Protocols,
}

impl Cluster {
    /// With agents 0.. of equal capacity, connected.
    pub async fn start(n_agents: usize) -> Self {
        Self::speaking(Protocols::default(), n_agents).await
    }

    /// The same with agents that speak more than MQTT and HTTP.
    pub async fn speaking(protocols: Protocols, n_agents: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let control_plane = Lifecycle::new();
        let config = control_plane::Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            database: format!("sqlite:{}", dir.path().join("shoal.sqlite").display()),
            token: None,
            metrics_listen: None,
            keep_seconds: None,
            outputs: Vec::new(),
            local: true,
        };
        let serving = control_plane::start(config, &control_plane).await;
        let serving = serving.expect("a control plane serves").expect("nobody else leads");
        let server = format!("http://{}", serving.addr);
        Self::around(server, control_plane, dir, protocols, n_agents).await
    }

    /// Agents and broker in this process, the control plane in another.
    pub async fn of_control_plane(server: String, n_agents: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self::around(server, Lifecycle::new(), dir, Protocols::default(), n_agents).await
    }

    async fn around(
        server: String,
        control_plane: Lifecycle,
        dir: TempDir,
        protocols: Protocols,
        n_agents: usize,
    ) -> Self {
        let secrets = dir.path().join("secrets");
        std::fs::create_dir(&secrets).expect("a directory in the temporary one");
        for (name, value) in SECRETS {
            std::fs::write(secrets.join(name), value).expect("a file in the temporary directory");
        }
        let broker = BrokerThread::on_loopback().expect("a port of loopback");
        let client = ControlServiceClient::connect(server.clone()).await.expect("it answers");
        let agents = BTreeMap::new();
        let mut cluster = Self { agents, control_plane, server, client, broker, dir, protocols };
        for number in 0..n_agents {
            cluster.start_agent(number).await;
        }
        cluster
    }

    /// Starts an agent, or the next process of one that was killed: its directory stays.
    pub async fn start_agent(&mut self, number: usize) {
        let lifecycle = Lifecycle::new();
        let name = agent_name(number);
        let config = shoal_agent::app::Config {
            server: self.server.clone(),
            token: None,
            id: name.parse().expect("letters, digits and a dash make an agent id"),
            data_dir: self.dir.path().join(&name),
            labels: [("region".to_owned(), region_of(number).to_owned())].into(),
            capacity: Some(1.0),
            allow_target: vec![],
            secrets_dir: Some(self.dir.path().join("secrets")),
            sources: Vec::new(),
            health_listen: None,
            protocols: self.protocols.clone(),
        };
        let state = shoal_agent::app::start_watched(config, &lifecycle).await;
        let mut state = state.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let connected = state.wait_for(|state| matches!(state, SessionState::Connected { .. }));
        let connected = tokio::time::timeout(PATIENCE, connected).await;
        connected.expect("an agent connects in time").expect("it lives");
        self.agents.insert(number, lifecycle);
    }

    /// Drops all of it at once: no goodbye, nothing more delivered.
    pub async fn kill_agent(&mut self, number: usize) {
        let agent = self.agents.remove(&number).expect("this agent was started");
        agent.stop_hard();
        // A real process has let go of its directory when it is gone; here its tasks must be.
        eventually(PATIENCE, "the agent's tasks are dropped", || {
            std::future::ready(agent.running_tasks().is_empty())
        })
        .await;
    }

    /// A file that its agents can read; its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("a file in the temporary directory");
        path.display().to_string()
    }

    /// What the owner of its agents provides from the next run on.
    pub fn secret(&self, name: &str, value: &str) {
        self.file(&format!("secrets/{name}"), value);
    }

    /// `shoal agent drain`, or its undoing; the agent's state afterwards.
    pub async fn drain_agent(&self, number: usize, undo: bool) -> String {
        let request = DrainAgentRequest { agent_id: agent_name(number), undo };
        let answer = self.client.clone().drain_agent(request).await;
        answer.expect("an agent that is connected").into_inner().state
    }

    /// What SIGTERM does: returns when the agent has gone.
    pub async fn dismiss_agent(&mut self, number: usize) {
        let agent = self.agents.remove(&number).expect("this agent was started");
        agent.stop_softly();
        agent.wait(PATIENCE).await;
    }

    /// Where agents dial.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// `shoal agent list`.
    pub async fn agents(&self) -> Vec<AgentRow> {
        let answer = self.client.clone().list_agents(ListAgentsRequest {}).await;
        answer.expect("a control plane knows its agents").into_inner().agents
    }

    /// What the broker is told to do, and what it counted.
    pub fn broker(&self) -> &Script {
        self.broker.script()
    }

    /// Where it listens, as a target's url.
    pub fn broker_url(&self) -> String {
        format!("mqtt://{}", self.broker.addr())
    }

    pub fn broker_addr(&self) -> SocketAddr {
        self.broker.addr()
    }

    /// `builtin` targets are this cluster's broker.
    pub async fn run(&self, scenario: &str, overrides: &[(&str, &str)]) -> Run {
        self.run_with(scenario, overrides, Vec::new()).await
    }

    /// With the files that the scenario names.
    pub async fn run_with(
        &self,
        scenario: &str,
        overrides: &[(&str, &str)],
        files: Vec<ShippedFile>,
    ) -> Run {
        self.start_run(StartRunRequest { files, ..self.request(scenario, overrides) }).await
    }

    fn request(&self, scenario: &str, overrides: &[(&str, &str)]) -> StartRunRequest {
        StartRunRequest {
            scenario: scenario.to_owned(),
            overrides: overrides
                .iter()
                .map(|(name, value)| Override { name: (*name).into(), value: (*value).into() })
                .collect(),
            agents: u32::try_from(self.agents.len()).expect("a few agents"),
            agents_timeout_us: 30_000_000,
            owned: false,
            builtin: self.broker.addr().to_string(),
            ..StartRunRequest::default()
        }
    }

    /// With every request of the run logged.
    pub async fn run_logged(&self, scenario: &str, overrides: &[(&str, &str)]) -> Run {
        let request = self.request(scenario, overrides);
        self.start_run(StartRunRequest { sample_millionths: 1_000_000, ..request }).await
    }

    async fn start_run(&self, request: StartRunRequest) -> Run {
        let started = self.client.clone().start_run(request).await;
        let id = started.expect("the control plane accepts the run").into_inner().run_id;
        Run { client: self.client.clone(), broker: self.broker().clone(), id }
    }
}

pub fn agent_name(number: usize) -> String {
    format!("agent-{number}")
}

/// Agents stand in two regions, in turn.
pub fn region_of(number: usize) -> &'static str {
    ["eu", "us"][number % 2]
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for agent in self.agents.values() {
            agent.stop_hard();
        }
        self.control_plane.stop_hard();
    }
}

/// One run of a cluster.
pub struct Run {
    client: ControlServiceClient<Channel>,
    broker: Script,
    id: String,
}

impl Run {
    /// Its document as it is now.
    pub async fn report(&self) -> RunReport {
        let request = GetReportRequest { run: self.id.clone(), ..GetReportRequest::default() };
        let answer = self.client.clone().get_report(request).await;
        let json = answer.expect("a stored run has a document").into_inner().json;
        serde_json::from_slice(&json).expect("the document is of this release")
    }

    /// With its course, in at most so many points; 0: as many as fit.
    pub async fn export(&self, points: u64) -> RunExport {
        let request = ExportRunRequest { run: self.id.clone(), points };
        let answer = self.client.clone().export_run(request).await;
        let json = answer.expect("a stored run has a course").into_inner().json;
        serde_json::from_slice(&json).expect("the document is of this release")
    }

    /// Asks for a graceful end.
    pub async fn stop(&self) {
        let request = StopRunRequest { run: self.id.clone(), abort: false };
        self.client.clone().stop_run(request).await.expect("a run that goes on can be stopped");
    }

    /// Takes a group of its load to so many devices.
    pub async fn scale(&self, group: &str, devices: u64, rate_per_s: f64) {
        let (run, group) = (self.id.clone(), group.to_owned());
        let request = ScaleRunRequest { run, group, devices, rate_per_s };
        self.client.clone().scale_run(request).await.expect("a load that may be changed so");
    }

    /// Returns when the broker has seen `n` publishes of this run; it must be the only one.
    pub async fn has_sent(&self, n: u64) {
        eventually(PATIENCE, "the broker sees publishes", || {
            std::future::ready(self.broker.publishes_seen() >= n)
        })
        .await;
    }

    /// Returns when its document says that `n` of a series were sent.
    pub async fn has_reported(&self, name: &str, n: u64) {
        eventually(PATIENCE, "the document counts sends", || async {
            let report = self.report().await;
            let slots = report.series.iter().find(|row| row.name == name && row.stage == "all");
            slots.and_then(|row| row.slots.as_ref()).is_some_and(|slots| slots.sent >= n)
        })
        .await;
    }

    /// The requests that were logged so far.
    pub async fn requests(&self) -> Vec<LoggedRequest> {
        let request = ReadRequestsRequest { run: self.id.clone() };
        let answer = self.client.clone().read_requests(request).await;
        let mut pages = answer.expect("the run keeps a request log").into_inner();
        let mut rows = Vec::new();
        while let Some(page) = pages.message().await.expect("the log can be read") {
            rows.extend(page.rows);
        }
        rows
    }

    /// Its last document.
    pub async fn over(&self) -> RunReport {
        eventually(2 * PATIENCE, "the run is over", || async {
            self.report().await.phase.is_over()
        })
        .await;
        self.report().await
    }
}

/// The row of one series, of a stage or of `all`.
#[track_caller]
pub fn series<'a>(report: &'a RunReport, name: &str, stage: &str) -> &'a SeriesReport {
    let found = report.series.iter().find(|row| row.name == name && row.stage == stage);
    found.unwrap_or_else(|| panic!("no series {name} in stage {stage} of {report:#?}"))
}

/// What its one observer saw over the whole run.
#[track_caller]
pub fn observed(report: &RunReport) -> ObserverReport {
    report.observers.iter().find(|observer| observer.stage == "all").expect("one observer").clone()
}

/// Whether something may have passed unseen. (A busy machine degrades a run too.)
pub fn has_gap(report: &RunReport) -> bool {
    report.validity_reasons.iter().any(|reason| reason.code == "reader_gap")
}
