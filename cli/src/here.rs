//! A cluster of one in this process: control plane, agents, and for `builtin` targets the demo
//! broker as a child.
//!
//! The same code as in a deployment, over a real socket on loopback with a random token: there is
//! no second way to run a scenario. Everything stops when [`Here`] is closed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_domain::ids::AgentId;
use shoal_service_kit::{Lifecycle, random};

use crate::error::{Error, chain};

/// As the control plane's own default.
const KEEP_SECONDS: Duration = Duration::from_secs(30 * 86_400);

/// What a caller wants of its own cluster.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) listen: SocketAddr,
    pub(crate) token: Option<String>,
    pub(crate) agents: u32,
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) allow_target: Vec<String>,
    pub(crate) secrets_dir: Option<PathBuf>,
}

impl Wish {
    /// For one command: any free port, a token nobody else knows.
    pub(crate) fn private(agents: u32) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            token: Some(random::token()),
            agents,
            metrics_listen: None,
            allow_target: vec![],
            secrets_dir: None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Here {
    control_plane: Lifecycle,
    /// Of their own, so that they can end first.
    agents: Lifecycle,
    pub(crate) server: String,
    pub(crate) token: Option<String>,
    /// The agents' directories, of this process only.
    agents_dir: PathBuf,
}

pub(crate) fn store_path(data_dir: &Path) -> PathBuf {
    data_dir.join("shoal.sqlite")
}

impl Here {
    pub(crate) async fn start(data_dir: &Path, wish: Wish) -> Result<Self, Error> {
        std::fs::create_dir_all(data_dir)
            .map_err(|error| Error::DataDir { path: data_dir.into(), why: error.to_string() })?;
        let control_plane = Lifecycle::new();
        let pid = std::process::id();
        let agents_dir = data_dir.join("here").join(pid.to_string());
        let addr = start_control_plane(data_dir, &wish, &control_plane).await?;
        let here = Self {
            control_plane,
            agents: Lifecycle::new(),
            server: format!("http://{addr}"),
            token: wish.token.clone(),
            agents_dir,
        };
        for number in 1..=wish.agents {
            if let Err(error) = here.start_agent(number, &wish).await {
                here.close().await;
                return Err(error);
            }
        }
        Ok(here)
    }

    /// Several processes may share one store, so agents are named by process.
    async fn start_agent(&self, number: u32, wish: &Wish) -> Result<(), Error> {
        let name = format!("here-{}-{number}", std::process::id());
        let id: AgentId = name.parse().expect("letters, digits and dashes make an agent id");
        let config = shoal_agent::app::Config {
            server: self.server.clone(),
            token: self.token.clone(),
            data_dir: self.agents_dir.join(number.to_string()),
            id,
            labels: [].into(),
            capacity: None,
            allow_target: wish.allow_target.clone(),
            secrets_dir: wish.secrets_dir.clone(),
            sources: Vec::new(),
            health_listen: None,
            protocols: shoal_agent::protocol::Protocols::default(),
        };
        start_agent(config, &self.agents).await
    }

    /// Ends when a part of the cluster failed and took the rest with it.
    pub(crate) async fn failed(&self) {
        tokio::select! {
            () = self.control_plane.soft().cancelled_owned() => {}
            () = self.agents.soft().cancelled_owned() => {}
        }
    }

    pub(crate) async fn close(self) {
        // Agents say goodbye to a control plane that still listens.
        for part in [&self.agents, &self.control_plane] {
            part.stop_softly();
            part.wait(Duration::from_secs(5)).await;
        }
        // Nothing in there outlives the process; a leftover is only a few bytes.
        let _ = std::fs::remove_dir_all(&self.agents_dir);
    }
}

async fn start_control_plane(
    data_dir: &Path,
    wish: &Wish,
    lifecycle: &Lifecycle,
) -> Result<SocketAddr, Error> {
    let outputs =
        shoal_control_plane::config::outputs_of_environment().map_err(|why| Error::Refused {
            code: Some("SH0602".to_owned()),
            message: why,
            help: Some("name a collector like http://127.0.0.1:4317, or none".to_owned()),
        })?;
    let config = shoal_control_plane::app::Config {
        listen: wish.listen,
        database: format!("sqlite:{}", store_path(data_dir).display()),
        token: wish.token.clone(),
        metrics_listen: wish.metrics_listen,
        keep_seconds: Some(KEEP_SECONDS),
        outputs,
        local: true,
    };
    match shoal_control_plane::app::start(config, lifecycle).await {
        Ok(Some(serving)) => Ok(serving.addr),
        Ok(None) => Err(Error::Refused {
            code: None,
            message: "the control plane in this process was asked to end before it served".into(),
            help: None,
        }),
        Err(error) => Err(Error::Refused {
            code: Some(error.code().to_owned()),
            message: format!("cannot start the control plane in this process: {}", chain(&error)),
            help: Some(error.help().to_owned()),
        }),
    }
}

async fn start_agent(config: shoal_agent::app::Config, lifecycle: &Lifecycle) -> Result<(), Error> {
    shoal_agent::app::start(config, lifecycle).await.map_err(|error| Error::Refused {
        code: Some(error.code().to_owned()),
        message: format!("cannot start an agent in this process: {}", chain(&error)),
        help: None,
    })
}
