//! The same numbers for InfluxDB: line protocol, sent every few seconds while runs go on.
//!
//! What is sent is what a scrape would show, so a lost batch costs resolution and no count: the next
//! one has the sums again. Nothing waits: a server that is slow or gone costs points, which are
//! counted, and never a run. A run's last point goes out after its end.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use shoal_service_kit::{Clock, Lifecycle, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{RunSample, SeriesSample, TimeSample};
use crate::orchestrator::Runs;

const EVERY: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(4);
/// Of an answer only its status is read.
const MAX_STATUS: u64 = 64;

/// Where points go: `http://host[:port]/api/v2/write?org=o&bucket=b`, or `/write?db=d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`.
    address: String,
    path: String,
    token: Option<String>,
}

impl Endpoint {
    pub fn new(url: &str, token: Option<String>) -> Result<Self, String> {
        let wrong =
            || format!("`{url}` found, http://host[:port]/path?query of an InfluxDB expected");
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (address, path) = rest.split_once('/').ok_or_else(wrong)?;
        let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        let has_token = token.as_deref().is_some_and(|token| !is_plain(token));
        if address.is_empty() || address.contains('@') || !is_plain(rest) || has_token {
            return Err(wrong());
        }
        let has_port =
            address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { address.to_owned() } else { format!("{address}:8086") };
        Ok(Self { address, path: format!("/{path}"), token })
    }
}

/// Sends until the process ends.
pub fn keep(runs: Runs, endpoint: Endpoint, lifecycle: &Lifecycle) {
    let soft = lifecycle.soft();
    lifecycle.spawn("influx", async move {
        let mut told = BTreeSet::new();
        let mut dropped = 0;
        loop {
            tokio::select! {
                () = soft.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            let now_us = SystemClock.unix_us();
            let mut samples = runs.samples();
            let ended = runs.ended().recent(now_us);
            told.retain(|name| ended.iter().any(|run| run.name == *name));
            samples.extend(ended.into_iter().filter(|run| !told.contains(&run.name)));
            if samples.is_empty() {
                continue;
            }
            let body = lines(&samples, now_us);
            let n = body.lines().count() as u64;
            let sent = tokio::time::timeout(LIMIT, post(&endpoint, &body)).await;
            match sent.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(()) => {
                    if dropped > 0 {
                        tracing::info!(dropped, "InfluxDB takes points again");
                        dropped = 0;
                    }
                    let over = samples.into_iter().filter(|run| run.phase.is_over());
                    told.extend(over.map(|run| run.name));
                }
                Err(why) => {
                    // Once for a stretch of failures; how many, when it is over.
                    if dropped == 0 {
                        tracing::warn!(why, "InfluxDB does not take points; runs go on");
                    }
                    dropped += n;
                }
            }
        }
    });
}

fn lines(runs: &[RunSample], now_us: u64) -> String {
    let mut text = String::new();
    let at_ns = now_us.saturating_mul(1_000);
    for run in runs {
        let tags = format!("run={},scenario={}", tag(&run.name), tag(&run.scenario));
        let _ = writeln!(
            text,
            "shoal_run,{tags} phase=\"{}\",devices_planned={}i,devices_connected={}i,devices_failed={}i {at_ns}",
            run.phase.word(),
            run.planned,
            run.connected,
            run.failed
        );
        for series in &run.series {
            let _ = writeln!(text, "{} {at_ns}", series_line(&tags, series));
        }
    }
    text
}

fn series_line(run: &str, series: &SeriesSample) -> String {
    let mut line = format!(
        "shoal_series,{run},group={},series={},operation={} attempts={}i,acknowledged={}i,errors={}i",
        tag(&series.group),
        tag(&series.series),
        series.operation,
        series.attempts,
        series.acknowledged,
        series.errors.iter().map(|(_, n)| n).sum::<u64>()
    );
    for (class, n) in series.slots.iter().flatten() {
        let _ = write!(line, ",slots_{class}={n}i");
    }
    let mut time = |name: &str, time: &Option<TimeSample>| {
        if let Some(time) = time {
            let (count, sum) = (time.count, time.sum_us);
            let _ = write!(line, ",{name}_count={count}i,{name}_sum_us={sum}i");
        }
    };
    time("response_time", &series.response_time);
    time("service_time", &series.service_time);
    line
}

/// A tag's value: commas, equal signs and spaces are escaped, what ends a line cannot be in it.
fn tag(value: &str) -> String {
    let mut safe = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            ',' | '=' | ' ' | '\\' => safe.extend(['\\', c]),
            c if c.is_control() => safe.push('_'),
            c => safe.push(c),
        }
    }
    safe
}

async fn post(endpoint: &Endpoint, body: &str) -> Result<(), String> {
    let Endpoint { address, path, token } = endpoint;
    let authorization = match token {
        Some(token) => format!("Authorization: Token {token}\r\n"),
        None => String::new(),
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let failed = |error: std::io::Error| error.to_string();
    let mut socket = TcpStream::connect(address).await.map_err(failed)?;
    socket.write_all(head.as_bytes()).await.map_err(failed)?;
    socket.write_all(body.as_bytes()).await.map_err(failed)?;
    let mut status = Vec::new();
    socket.take(MAX_STATUS).read_to_end(&mut status).await.map_err(failed)?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => Err(format!("it answers `{line}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn sample(name: &str) -> RunSample {
        let series = SeriesSample {
            group: "a b".into(),
            series: "s".into(),
            operation: "publish",
            attempts: 7,
            acknowledged: 6,
            errors: vec![("ack_timeout", 1)],
            slots: Some([
                ("sent", 7),
                ("missed", 0),
                ("not_connected", 0),
                ("away", 0),
                ("unsent", 0),
            ]),
            response_time: Some(TimeSample { buckets: [0; 14], sum_us: 900, count: 6 }),
            service_time: None,
        };
        RunSample {
            name: name.into(),
            scenario: "x".into(),
            phase: shoal_domain::run::Phase::Running,
            planned: 3,
            connected: 2,
            failed: 0,
            series: vec![series],
        }
    }

    #[test]
    fn a_run_is_a_line_and_each_series_is_one() {
        assert_eq!(
            lines(&[sample("calm-otter")], 5),
            "shoal_run,run=calm-otter,scenario=x phase=\"RUNNING\",devices_planned=3i,devices_connected=2i,devices_failed=0i 5000\n\
             shoal_series,run=calm-otter,scenario=x,group=a\\ b,series=s,operation=publish attempts=7i,acknowledged=6i,errors=1i,slots_sent=7i,slots_missed=0i,slots_not_connected=0i,slots_away=0i,slots_unsent=0i,response_time_count=6i,response_time_sum_us=900i 5000\n"
        );
    }

    #[test]
    fn a_hostile_name_stays_one_tag() {
        assert_eq!(tag("a,b=c d\\\nshoal x=1"), "a\\,b\\=c\\ d\\\\_shoal\\ x\\=1");
    }

    #[test]
    fn an_endpoint_is_an_http_url() {
        let good = Endpoint::new("http://db/api/v2/write?org=o&bucket=b", None).unwrap();
        assert_eq!(
            (good.address.as_str(), good.path.as_str()),
            ("db:8086", "/api/v2/write?org=o&bucket=b")
        );
        for wrong in
            ["https://db/x", "db:8086/write", "http://db", "http://u:p@db/x", "http://db/a b"]
        {
            assert!(Endpoint::new(wrong, None).is_err(), "{wrong}");
        }
        assert!(Endpoint::new("http://db/x", Some("a\r\nb".into())).is_err());
    }

    #[tokio::test]
    async fn points_are_posted_with_the_token_and_a_refusal_is_told() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/write?db=d", listener.local_addr().unwrap());
        let endpoint = Endpoint::new(&url, Some("secret".into())).unwrap();
        for (answer, is_taken) in
            [("HTTP/1.1 204 No Content\r\n\r\n", true), ("HTTP/1.1 401 No\r\n\r\n", false)]
        {
            let server = async {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut got = vec![0; 4096];
                let mut n = 0;
                while !String::from_utf8_lossy(&got[..n]).ends_with("x y=1i 5\n") {
                    n += socket.read(&mut got[n..]).await.unwrap();
                }
                socket.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8_lossy(&got[..n]).into_owned()
            };
            let (sent, got) = tokio::join!(post(&endpoint, "x y=1i 5\n"), server);
            assert_eq!(sent.is_ok(), is_taken, "{sent:?}");
            assert!(got.starts_with("POST /write?db=d HTTP/1.1\r\n"), "{got}");
            assert!(got.contains("Authorization: Token secret\r\n"), "{got}");
        }
    }
}
