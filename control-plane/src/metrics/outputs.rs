//! Where runs are also written while they go on: InfluxDB, Prometheus, an OTLP collector.
//!
//! What is sent is what a scrape would show, so a lost batch costs resolution and no count: the next
//! one has the sums again. Nothing waits: a server that is slow or gone costs points, which are
//! counted, and never a run. A run's last point goes out after its end.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_service_kit::{Clock, Lifecycle};

use super::otlp::Collector;
use super::post::Endpoint;
use super::{Process, RunSample, families, influx, otlp, remote_write};
use crate::clock::ControlClock;
use crate::fleet::Fleet;
use crate::orchestrator::Runs;

const EVERY: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(4);

/// One place to write to.
#[derive(Debug, Clone)]
pub struct Output(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Influx(Endpoint),
    RemoteWrite(Endpoint),
    Otlp(Collector),
}

impl Output {
    /// `http://host[:8086]/api/v2/write?org=o&bucket=b`, or `/write?db=d`.
    pub fn influx(url: &str, token: Option<&str>) -> Result<Self, String> {
        let authorization = token.map(|token| format!("Token {token}"));
        Ok(Self(Kind::Influx(Endpoint::new(url, 8086, authorization)?)))
    }

    /// `http://host[:9090]/api/v1/write`.
    pub fn remote_write(url: &str, token: Option<&str>) -> Result<Self, String> {
        let authorization = token.map(|token| format!("Bearer {token}"));
        Ok(Self(Kind::RemoteWrite(Endpoint::new(url, 9090, authorization)?)))
    }

    /// `http://host:4317`.
    pub fn otlp(url: &str) -> Result<Self, String> {
        Ok(Self(Kind::Otlp(otlp::collector(url)?)))
    }

    fn name(&self) -> &'static str {
        match self.0 {
            Kind::Influx(_) => "InfluxDB",
            Kind::RemoteWrite(_) => "Prometheus",
            Kind::Otlp(_) => "the OTLP collector",
        }
    }

    /// How many points were sent, taken or not, and why they were not.
    async fn send(
        &mut self,
        runs: &[RunSample],
        process: Process,
        now_us: u64,
    ) -> (u64, Result<(), String>) {
        match &mut self.0 {
            Kind::Influx(endpoint) => {
                let body = influx::lines(runs, now_us);
                let n = body.lines().count() as u64;
                (n, in_time(endpoint.post(influx::HEADERS, body.as_bytes())).await)
            }
            Kind::RemoteWrite(endpoint) => {
                match remote_write::body(&families::of(runs, process), now_us) {
                    Ok((body, n)) => {
                        (n, in_time(endpoint.post(remote_write::HEADERS, &body)).await)
                    }
                    Err(why) => (0, Err(why)),
                }
            }
            Kind::Otlp(collector) => {
                let (request, n) = otlp::request(&families::of(runs, process), now_us);
                let export = async {
                    let answer = collector.export(request).await;
                    answer.map(|_| ()).map_err(|status| status.message().to_owned())
                };
                (n, in_time(export).await)
            }
        }
    }
}

async fn in_time(sent: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let sent = tokio::time::timeout(LIMIT, sent).await;
    sent.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// Writes until the process ends, and then once more: a run that ended a moment ago is told.
pub fn keep(runs: Runs, fleet: Fleet, mut output: Output, lifecycle: &Lifecycle) {
    let soft = lifecycle.soft();
    lifecycle.spawn(output.name(), async move {
        let mut told = BTreeSet::new();
        let (mut dropped, mut is_last) = (0, false);
        while !is_last {
            is_last = tokio::select! {
                () = soft.cancelled() => true,
                () = tokio::time::sleep(EVERY) => false,
            };
            let now_us = ControlClock.unix_us();
            let mut samples = runs.samples();
            let process = Process::of(&samples, &fleet);
            let ended = runs.ended().recent(now_us);
            told.retain(|name| ended.iter().any(|run| run.name == *name));
            samples.extend(ended.into_iter().filter(|run| !told.contains(&run.name)));
            if samples.is_empty() {
                continue;
            }
            let to = output.name();
            match output.send(&samples, process, now_us).await {
                (_, Ok(())) => {
                    if dropped > 0 {
                        tracing::info!(to, dropped, "points are taken again");
                        dropped = 0;
                    }
                    let over = samples.into_iter().filter(|run| run.phase.is_over());
                    told.extend(over.map(|run| run.name));
                }
                (n, Err(why)) => {
                    // Once for a stretch of failures; how many, when it is over.
                    if dropped == 0 {
                        tracing::warn!(to, why, "points are not taken; runs go on");
                    }
                    dropped += n;
                }
            }
        }
        if dropped > 0 {
            tracing::warn!(to = output.name(), dropped, "points were not taken");
        }
    });
}
