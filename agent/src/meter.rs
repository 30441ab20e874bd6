//! What this agent did and what it cost: for `/metrics`, and for the results of its runs.
//!
//! Fed with each window's merged delta, never by the devices, so counting here costs a run nothing.
//! Invariant: the counters of a page are sums of deltas that went to the uplink.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use shoal_domain::delta::{Delta, Health};
use shoal_service_kit::usage::{Usage, of_this_process};
use shoal_service_kit::{Clock, SystemClock};

/// Since the process began, over all its runs.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    attempts: AtomicU64,
    errors: AtomicU64,
    missed: AtomicU64,
    received: AtomicU64,
    stalled_us: AtomicU64,
    shards: AtomicU64,
}

impl Counts {
    /// A shard runs from here on.
    pub(crate) fn begin(&self) {
        self.shards.fetch_add(1, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.shards.fetch_sub(1, Relaxed);
    }

    pub(crate) fn add(&self, delta: &Delta) {
        for tally in delta.cells.values() {
            self.attempts.fetch_add(tally.sent, Relaxed);
            self.errors.fetch_add(tally.n_errors(), Relaxed);
            self.missed.fetch_add(tally.missed, Relaxed);
            self.received.fetch_add(tally.received, Relaxed);
        }
        for arrivals in delta.arrivals.values() {
            self.received.fetch_add(arrivals.received, Relaxed);
        }
        self.stalled_us.fetch_add(delta.health.stalled_us, Relaxed);
    }

    /// Prometheus' text format.
    pub(crate) fn page(&self, is_connected: bool, usage: &Usage) -> String {
        let seconds = |us: u64| format!("{}", us as f64 / 1e6);
        let count = |counter: &AtomicU64| counter.load(Relaxed).to_string();
        let rows = [
            ("connected", "gauge", "1 with an open session", u64::from(is_connected).to_string()),
            ("shards", "gauge", "shards that run", count(&self.shards)),
            ("attempts_total", "counter", "attempts begun", count(&self.attempts)),
            ("errors_total", "counter", "failed attempts", count(&self.errors)),
            ("missed_slots_total", "counter", "slots that it slept through", count(&self.missed)),
            ("messages_received_total", "counter", "messages that came in", count(&self.received)),
            (
                "stalled_seconds_total",
                "counter",
                "time in which its cores did not run",
                seconds(self.stalled_us.load(Relaxed)),
            ),
            ("cpu_seconds_total", "counter", "processor time", seconds(usage.cpu_us)),
            ("memory_bytes", "gauge", "resident memory", usage.memory_bytes.to_string()),
            ("descriptors", "gauge", "open descriptors", usage.descriptors.to_string()),
            (
                "network_received_bytes_total",
                "counter",
                "through all interfaces but loopback",
                usage.received_bytes.to_string(),
            ),
            (
                "network_sent_bytes_total",
                "counter",
                "through all interfaces but loopback",
                usage.sent_bytes.to_string(),
            ),
        ];
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!(
            "# HELP shoal_build_info 1; the label says which release\n\
             # TYPE shoal_build_info gauge\nshoal_build_info{{version=\"{version}\"}} 1\n"
        );
        for (name, kind, help, value) in rows {
            let name = format!("shoal_agent_{name}");
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
        }
        text
    }
}

/// What the process used between two windows.
#[derive(Debug)]
pub(crate) struct Meter {
    before: Usage,
    before_us: u64,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self { before: of_this_process(), before_us: SystemClock.boot_us() }
    }

    /// Adds what was used since the last call.
    pub(crate) fn add_to(&mut self, health: &mut Health) {
        let now = of_this_process();
        let before = std::mem::replace(&mut self.before, now);
        let now_us = SystemClock.boot_us();
        let before_us = std::mem::replace(&mut self.before_us, now_us);
        health.merge(&Health {
            cpu_us: now.cpu_us.saturating_sub(before.cpu_us),
            memory_bytes: now.memory_bytes,
            descriptors: now.descriptors,
            received_bytes: now.received_bytes.saturating_sub(before.received_bytes),
            sent_bytes: now.sent_bytes.saturating_sub(before.sent_bytes),
            wall_us: now_us.saturating_sub(before_us),
            pressure_us: now.pressure_us.saturating_sub(before.pressure_us),
            stolen_us: now.stolen_us.saturating_sub(before.stolen_us),
            throttled_us: now.throttled_us.saturating_sub(before.throttled_us),
            ..Health::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_domain::delta::Tally;
    use shoal_domain::ids::{SeriesId, StageId};

    #[test]
    fn a_page_has_the_sums_of_the_deltas() {
        let counts = Counts::default();
        let tally = Tally { sent: 5, missed: 1, received: 2, ..Tally::default() };
        let mut delta = Delta::default();
        delta.cells.insert((SeriesId(0), StageId(0)), tally);
        counts.begin();
        counts.add(&delta);
        counts.add(&delta);
        let page = counts.page(true, &Usage { cpu_us: 1_500_000, ..Usage::default() });
        for line in [
            "shoal_agent_connected 1\n",
            "shoal_agent_shards 1\n",
            "shoal_agent_attempts_total 10\n",
            "shoal_agent_missed_slots_total 2\n",
            "shoal_agent_messages_received_total 4\n",
            "shoal_agent_cpu_seconds_total 1.5\n",
        ] {
            assert!(page.contains(line), "{line} in {page}");
        }
    }

    #[test]
    fn usage_is_told_once() {
        let mut meter = Meter { before: Usage::default(), before_us: 0 };
        let (mut first, mut second) = (Health::default(), Health::default());
        meter.add_to(&mut first);
        meter.add_to(&mut second);
        assert!(first.memory_bytes > 0 && first.descriptors > 0);
        assert!(second.cpu_us <= first.cpu_us.max(1_000_000), "a difference, not a sum");
    }
}
