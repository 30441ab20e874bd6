//! How busy the intake of deltas is, and what it therefore asks of agents.
//!
//! Time in which the database was away is nobody's work: an outage makes agents wait, and asks nothing of them.

use std::time::Duration;

use shoal_domain::stretch;
use tokio::time::Instant;

/// How long is looked before anything changes; what was asked for must have had its effect by then.
const LOOK: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Pace {
    windows: u64,
    since: Instant,
    busy: Duration,
    began: Instant,
}

impl Pace {
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self { windows: 1, since: now, busy: Duration::ZERO, began: now }
    }

    /// Windows that agents are to put into one delta.
    pub(super) fn windows(&self) -> u64 {
        self.windows
    }

    pub(super) fn works(&mut self) {
        self.began = Instant::now();
    }

    /// What was tried until now did not work.
    pub(super) fn was_away(&mut self) {
        self.began = Instant::now();
    }

    pub(super) fn rests(&mut self) {
        let now = Instant::now();
        self.busy += now - self.began;
        let looked = now - self.since;
        if looked < LOOK {
            return;
        }
        let busy = self.busy.as_secs_f64() / looked.as_secs_f64();
        (self.since, self.busy) = (now, Duration::ZERO);
        let windows = stretch::next(self.windows, busy);
        if windows != self.windows {
            tracing::warn!(busy, windows, "agents are to report so many seconds at once");
            self.windows = windows;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For so many seconds, of each `busy` milliseconds of work.
    async fn pass(pace: &mut Pace, seconds: u64, busy: u64) {
        for _ in 0..seconds {
            pace.works();
            tokio::time::advance(Duration::from_millis(busy)).await;
            pace.rests();
            tokio::time::advance(Duration::from_millis(1_000 - busy)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_keep_up_asks_for_longer_deltas_and_for_short_ones_when_it_can() {
        let mut pace = Pace::start();
        pass(&mut pace, 30, 500).await;
        assert_eq!(pace.windows(), 1);
        pass(&mut pace, 60, 950).await;
        assert_eq!(pace.windows(), 5);
        pass(&mut pace, 60, 50).await;
        assert_eq!(pace.windows(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_is_away_asks_nothing_of_agents() {
        let mut pace = Pace::start();
        pace.works();
        tokio::time::advance(Duration::from_secs(60)).await;
        pace.was_away();
        pace.rests();
        assert_eq!(pace.windows(), 1);
    }
}
