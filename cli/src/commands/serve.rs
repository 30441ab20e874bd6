//! `shoal serve`: a control plane with agents in this process, for others to use.

use std::net::SocketAddr;

use tokio::signal::unix::{SignalKind, signal};

use super::DONE;
use crate::args::Global;
use crate::config::Settings;
use crate::error::Error;
use crate::here::{Here, Wish, store_path};
use crate::render::remark;

pub(super) async fn perform(
    global: &Global,
    settings: &Settings,
    agents: u32,
    listen: SocketAddr,
    metrics_listen: Option<SocketAddr>,
) -> Result<u8, Error> {
    if global.server.is_some() {
        return Err(Error::Usage {
            why: "`serve` is a control plane itself, so --server has no meaning".into(),
            help: "leave it out; --listen says where this one listens".into(),
        });
    }
    if !listen.ip().is_loopback() && settings.token.is_none() {
        return Err(Error::Refused {
            code: Some("SH0408".into()),
            message: format!("listening on {listen}, beyond this machine, needs a token"),
            help: Some("set SHOAL_TOKEN, here and where the CLI and the agents run".into()),
        });
    }
    let handler = |kind: SignalKind| {
        signal(kind).map_err(|error| Error::Here {
            what: "the signal handlers",
            why: error.to_string(),
            code: None,
        })
    };
    let (mut interrupt, mut terminate) =
        (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    let wish =
        Wish { listen, token: settings.token.clone(), metrics_listen, ..Wish::private(agents) };
    let here = Here::start(&settings.data_dir, wish).await?;
    if !global.quiet {
        remark(&format!(
            "server: {}, store {}, {agents} agent(s); Ctrl-C ends it\n",
            here.server,
            store_path(&settings.data_dir).display()
        ));
    }
    let outcome = tokio::select! {
        _ = interrupt.recv() => Ok(DONE),
        _ = terminate.recv() => Ok(DONE),
        () = here.failed() => Err(Error::Here {
            what: "the control plane",
            why: "it stopped by itself, see the log above".into(),
            code: None,
        }),
    };
    here.close().await;
    outcome
}
