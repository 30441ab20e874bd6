//! A control plane and agents as processes, and the command line that talks to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use shoal_testkit::daemon::{Daemon, Signal};
use shoal_testkit::expect::eventually;
use shoal_testkit::faults::FaultProxy;
use shoal_testkit::postgres::Database;

pub(crate) const TOKEN: &str = "a-token-for-this-test";

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    /// stdout as the document it must be.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn refused(&self, exit: i32, code: &str) {
        assert_eq!(self.code, Some(exit), "{self:?}");
        assert!(self.stderr.contains(&format!("error[{code}]: ")), "{self:?}");
        assert!(self.stderr.contains(&format!("shoal explain {code}")), "{self:?}");
    }
}

pub(crate) struct Deployment {
    // In the order in which they end: agents say goodbye to nobody if their server goes first.
    agents: BTreeMap<String, Daemon>,
    control_plane: Daemon,
    standby: Option<Daemon>,
    pub(crate) server: String,
    /// Where `GET /metrics` is answered.
    pub(crate) metrics: String,
    /// `None`: a file of SQLite.
    database: Option<Database>,
    /// Of the database, as the control plane reaches it.
    url: String,
    /// Between the control plane and its database, and between agents and control plane.
    proxies: Option<(FaultProxy, FaultProxy)>,
    dir: tempfile::TempDir,
    /// What the daemons of this deployment find in their environment.
    env: Env,
}

type Env = Vec<(&'static str, String)>;

const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// What the wall clock of a deployment says beside that of the machine, in seconds.
const WALL_CLOCK: &str = "FAKETIME_TIMESTAMP_FILE";

impl Deployment {
    pub(crate) async fn start() -> Self {
        let database = Database::create().await;
        let url = database.url().to_owned();
        Self::start_on(Some(database), &url, Env::new()).await
    }

    /// With a wall clock that can be set; the boot clock is the machine's.
    pub(crate) async fn with_a_wall_clock() -> Self {
        let database = Database::create().await;
        let url = database.url().to_owned();
        let env = vec![
            ("LD_PRELOAD", libfaketime()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // Its file is in the directory that is still to be made.
            (WALL_CLOCK, String::new()),
        ];
        Self::start_on(Some(database), &url, env).await
    }

    /// By so many seconds beside that of the machine, as `+3600`; returns when the leader has seen it.
    pub(crate) async fn set_wall_clock(&self, seconds: &str) {
        let clock = self.env.iter().find(|(name, _)| *name == WALL_CLOCK);
        std::fs::write(&clock.expect("it was started with one").1, seconds).unwrap();
        self.control_plane.says("the wall clock was set").await;
    }

    /// With its database in a file of the test's directory.
    pub(crate) async fn on_a_disk() -> Self {
        Self::start_on(None, "", Env::new()).await
    }

    /// Lets the control plane write no byte more into any file, as on a disk that is full.
    pub(crate) fn fill_disk(&self, is_full: bool) {
        let pid = self.control_plane.pid();
        // The soft limit only: it can be taken back. A file of this database is larger than a byte.
        let limit = if is_full { "--fsize=1:unlimited" } else { "--fsize=unlimited:unlimited" };
        let done = Command::new("prlimit").args(["--pid", &pid.to_string(), limit]).status();
        assert!(done.unwrap().success());
    }

    /// All parts deliver their traces to this endpoint.
    pub(crate) async fn traced(collector: &str) -> Self {
        let database = Database::create().await;
        let url = database.url().to_owned();
        Self::start_on(Some(database), &url, vec![(COLLECTOR, collector.to_owned())]).await
    }

    /// With networks that can be broken.
    pub(crate) async fn behind_a_proxy() -> Self {
        let database = Database::create().await;
        let proxy = FaultProxy::start(database.server()).unwrap();
        let url = database.url_through(proxy.addr());
        let mut deployment = Self::start_on(Some(database), &url, Env::new()).await;
        let listens = deployment.server.strip_prefix("http://").unwrap();
        let agents = FaultProxy::start(listens.parse::<SocketAddr>().unwrap()).unwrap();
        deployment.proxies = Some((proxy, agents));
        deployment
    }

    pub(crate) fn database_proxy(&self) -> &FaultProxy {
        &self.proxies.as_ref().expect("it was started behind a proxy").0
    }

    pub(crate) fn agents_proxy(&self) -> &FaultProxy {
        &self.proxies.as_ref().expect("it was started behind a proxy").1
    }

    async fn start_on(database: Option<Database>, url: &str, mut env: Env) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some((_, clock)) = env.iter_mut().find(|(name, _)| *name == WALL_CLOCK) {
            let file = dir.path().join("wall-clock");
            std::fs::write(&file, "+0").unwrap();
            *clock = file.to_str().unwrap().to_owned();
        }
        let url = match &database {
            Some(_) => url.to_owned(),
            None => format!("sqlite:{}", dir.path().join("shoal.sqlite").display()),
        };
        let command = control_plane(&url, "127.0.0.1:0", &env);
        let control_plane = Daemon::start(command, dir.path().join("control-plane.log"));
        let after = |line: String, mark: &str| line.rsplit(mark).next().unwrap().trim().to_owned();
        let server = format!("http://{}", after(control_plane.says("addr=").await, "addr="));
        let line = control_plane.says("metrics are served").await;
        let metrics = after(line, "at=");
        let (agents, standby, proxies) = (BTreeMap::new(), None, None);
        Self { agents, control_plane, standby, server, metrics, database, url, proxies, dir, env }
    }

    /// A second control plane on the same database; whoever is started from now on knows both.
    pub(crate) async fn stand_by(&mut self) {
        let command = control_plane(self.database_url(), "127.0.0.1:0", &self.env);
        let standby = Daemon::start(command, self.dir.path().join("standby.log"));
        let line = standby.says("standing by").await;
        let process = line.split("process=").nth(1).unwrap().split(' ').next().unwrap();
        let port = process.trim_matches('"').rsplit(':').next().unwrap();
        self.server = format!("{},http://127.0.0.1:{port}", self.server);
        self.standby = Some(standby);
    }

    pub(crate) fn kill_leader(&mut self) {
        self.control_plane.kill();
    }

    /// SIGSTOP: it knows nothing of the time that passes, and is in charge when it wakes.
    pub(crate) fn freeze_leader(&self) {
        self.control_plane.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw_leader(&self) {
        self.control_plane.signal(Signal::SIGCONT);
    }

    pub(crate) async fn leader_ended(&mut self) -> ExitStatus {
        self.control_plane.ended().await
    }

    pub(crate) async fn standby_serves(&self) {
        self.standby.as_ref().expect("there is one").says("control plane serves").await;
    }

    pub(crate) async fn control_plane_says(&self, text: &str) {
        self.control_plane.says(text).await;
    }

    /// kill -9, then a new process on the same port and database.
    pub(crate) async fn restart_control_plane(&mut self) {
        self.control_plane.kill();
        let listen = self.server.strip_prefix("http://").unwrap();
        let command = control_plane(&self.url, listen, &self.env);
        self.control_plane =
            Daemon::start(command, self.dir.path().join("control-plane-again.log"));
        self.control_plane.says("addr=").await;
    }

    /// An agent with its own data directory, connected.
    pub(crate) async fn agent(&mut self, id: &str, capacity: &str) {
        self.agent_under(&[], id, capacity).await;
    }

    /// The same, started by a program that takes a program: `nice -n 19`.
    pub(crate) async fn agent_under(&mut self, wrapper: &[&str], id: &str, capacity: &str) {
        let agent = self.launch_under(wrapper, id, id, capacity);
        agent.says("session open").await;
        self.agents.insert(id.to_owned(), agent);
        eventually(PATIENCE, "the agent is listed as connected", || async {
            let listed = self.shoal(&["agent", "list", "--output", "json"]).await.document();
            let rows = listed.as_array().unwrap();
            rows.iter().any(|row| row["agent"] == id && row["state"] == "connected")
        })
        .await;
    }

    pub(crate) async fn all_connected(&self, n: usize) {
        eventually(PATIENCE, "all agents are connected", || async {
            let listed = self.shoal(&["agent", "list", "--output", "json"]).await.document();
            let rows = listed.as_array().unwrap();
            rows.iter().filter(|row| row["state"] == "connected").count() == n
        })
        .await;
    }

    /// A scenario of this test; its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn database_url(&self) -> &str {
        self.database.as_ref().expect("it is a server's").url()
    }

    /// SIGTERM to an agent of this deployment.
    pub(crate) async fn dismiss(&mut self, id: &str) -> ExitStatus {
        self.agents.get_mut(id).expect("this agent was started").terminate().await
    }

    pub(crate) fn kill_agent(&mut self, id: &str) {
        self.agents.get_mut(id).expect("this agent was started").kill();
    }

    /// SIGSTOP to an agent.
    pub(crate) fn freeze_agent(&self, id: &str) {
        self.agents[id].signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw_agent(&self, id: &str) {
        self.agents[id].signal(Signal::SIGCONT);
    }

    /// The process of an agent.
    pub(crate) fn agent_pid(&self, id: &str) -> u32 {
        self.agents[id].pid()
    }

    /// An agent that may well be refused.
    pub(crate) fn launch(&self, id: &str, directory: &str, capacity: &str) -> Daemon {
        self.launch_under(&[], id, directory, capacity)
    }

    fn launch_under(&self, wrapper: &[&str], id: &str, directory: &str, capacity: &str) -> Daemon {
        let program = beside("shoal-agent");
        let mut command = match wrapper {
            [] => Command::new(program),
            [wrapper, args @ ..] => {
                let mut command = Command::new(wrapper);
                command.args(args).arg(program);
                command
            }
        };
        let log = self.dir.path().join(format!("{id}-in-{directory}.log"));
        let through = self.proxies.as_ref().map(|(_, agents)| format!("http://{}", agents.addr()));
        let server = through.as_ref().unwrap_or(&self.server);
        command
            .args(["--server", server, "--id", id, "--capacity", capacity, "--data-dir"])
            .arg(self.dir.path().join(directory))
            .env("SHOAL_TOKEN", TOKEN)
            .env(COLLECTOR, "")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env_remove("SHOAL_CONFIG");
        Daemon::start(command, log)
    }

    pub(crate) async fn shoal(&self, args: &[&str]) -> Answer {
        self.shoal_with(TOKEN, args).await
    }

    pub(crate) async fn shoal_with(&self, token: &str, args: &[&str]) -> Answer {
        self.launch_shoal_with(token, args).answer().await
    }

    /// A command that the test does something to before it ends.
    pub(crate) fn launch_shoal(&self, args: &[&str]) -> Running {
        self.launch_shoal_with(TOKEN, args)
    }

    fn launch_shoal_with(&self, token: &str, args: &[&str]) -> Running {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_shoal"));
        command
            .args(args)
            .env("SHOAL_SERVER", &self.server)
            .env("SHOAL_TOKEN", token)
            .env(COLLECTOR, "")
            .envs(self.env.iter().filter(|(name, _)| *name == COLLECTOR).cloned())
            .env("HOME", self.dir.path())
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Running(command.spawn().unwrap())
    }
}

/// A `shoal` that has not ended yet.
pub(crate) struct Running(tokio::process::Child);

impl Running {
    /// What Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        let pid = self.0.id().expect("it has not been waited for").to_string();
        let killed = Command::new("/bin/sh").args(["-c", "kill -INT \"$1\"", "sh", &pid]).status();
        assert!(killed.unwrap().success());
    }

    pub(crate) async fn answer(self) -> Answer {
        let output = tokio::time::timeout(PATIENCE, self.0.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("shoal took over {PATIENCE:?}")).unwrap();
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// What lies to a program about the time of day.
fn libfaketime() -> String {
    let libraries = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let candidates = libraries.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"));
    let found = candidates.into_iter().find(|library| library.is_file());
    found.expect("libfaketime is missing: install faketime").to_str().unwrap().to_owned()
}

fn control_plane(database: &str, listen: &str, env: &Env) -> Command {
    // A file that may not grow is to be an error of the write, as on a full disk, and no signal.
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(beside("shoal-control-plane"))
        .args(["--listen", listen, "--metrics-listen", "127.0.0.1:0"])
        .env("SHOAL_DATABASE", database)
        .env(COLLECTOR, "")
        .envs(env.iter().map(|(name, value)| (name, value)))
        .env("SHOAL_TOKEN", TOKEN);
    command
}

/// A binary of the same build.
fn beside(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_shoal")).with_file_name(name);
    let path = path.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        path.is_file(),
        "{} is missing: these tests need all three binaries, so run `cargo build --workspace \
         --bins` first or `cargo test --workspace`",
        path.display()
    );
    path
}

/// A scenario of this repository.
pub(crate) fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios").join(name);
    path.to_str().unwrap().to_owned()
}

/// The document's entry of one series over the whole run.
#[track_caller]
pub(crate) fn series<'a>(document: &'a Value, name: &str) -> &'a Value {
    let all = document["series"].as_array().unwrap();
    let found = all.iter().find(|row| row["name"] == name && row["stage"] == "all");
    found.unwrap_or_else(|| panic!("no series {name} in {document:#}"))
}
