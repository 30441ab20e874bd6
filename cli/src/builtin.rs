//! The demo broker for `url: builtin`, as a child process.
//!
//! A process of its own, so that its work is not taken for the generator's. It lives exactly as
//! long as its stdin is open, which the kernel closes even when the parent is killed.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, chain};
use crate::render;

const GREETING: &str = "listening on ";

#[derive(Debug)]
pub(crate) struct Builtin {
    /// Dropped last: its stdin is the broker's reason to live.
    _child: Child,
    pub(crate) addr: SocketAddr,
}

impl Builtin {
    pub(crate) async fn start() -> Result<Self, Error> {
        let broken = |why: String| Error::Here { what: "the demo broker", why, code: None };
        let program = std::env::current_exe().map_err(|error| broken(error.to_string()))?;
        let mut child = Command::new(program)
            .args(["demo-broker", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C goes to the whole foreground group; the broker must outlive the load.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| broken(error.to_string()))?;
        let stdout = child.stdout.take().ok_or_else(|| broken("it has no stdout".into()))?;
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .await
            .map_err(|error| broken(error.to_string()))?;
        let addr = line
            .trim()
            .strip_prefix(GREETING)
            .and_then(|addr| addr.parse().ok())
            .ok_or_else(|| broken(format!("it said `{}`", line.trim())))?;
        Ok(Self { _child: child, addr })
    }
}

/// The child's side: serves until stdin ends.
pub(crate) async fn serve(listen: SocketAddr) -> Result<(), Error> {
    let broken = |error: &dyn std::error::Error| Error::Here {
        what: "the demo broker",
        why: chain(error),
        code: None,
    };
    let broker = shoal_demo_broker::Broker::bind(listen).await.map_err(|error| broken(&error))?;
    render::data(&format!("{GREETING}{}\n", broker.addr()))?;
    let stop = CancellationToken::new();
    tokio::select! {
        () = broker.run(stop.clone()) => {}
        () = end_of_stdin() => {}
    }
    Ok(())
}

async fn end_of_stdin() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while stdin.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
}
