//! Requests: a server that answers at once, and what others need to ask it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Command;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

/// As many devices, and as many connections of the others.
pub(crate) const CONNECTIONS: u64 = 64;

pub(crate) fn serve() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime starts"), async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("it is bound"));
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let answer = service_fn(|_| async {
                let body = Full::new(Bytes::from_static(b"hello, device\n"));
                Ok::<_, Infallible>(hyper::Response::new(body))
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer);
            tokio::task::spawn_local(connection);
        }
    });
}

/// CPU microseconds per request of another program; `None`: it is not installed.
pub(crate) fn peer(name: &str, addr: SocketAddr) -> Option<f64> {
    let (url, n) = (format!("http://{addr}/"), CONNECTIONS.to_string());
    let mut command = Command::new(name);
    match name {
        "wrk" => command.args(["-t1", "-c", &n, "-d5s", &url]),
        _ => command.args(["-z", "5s", "-c", &n, "--no-tui", "--output-format", "csv", &url]),
    };
    // One core, like ours.
    command.env("TOKIO_WORKER_THREADS", "1");
    let before = cpu_of_children_us();
    let output = command.output().ok()?;
    let cpu_us = cpu_of_children_us() - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let requests = match name {
        "wrk" => text
            .lines()
            .find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<f64>().ok())?,
        // A line for each, and one above them.
        _ => text.lines().count().saturating_sub(1) as f64,
    };
    (requests > 0.0).then(|| cpu_us / requests)
}

fn cpu_of_children_us() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("Linux always answers for CHILDREN");
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64
}
