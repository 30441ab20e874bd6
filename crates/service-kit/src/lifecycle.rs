//! Who owns the tasks of a process, and how they stop.
//!
//! Two stops: *soft* means take no new work, finish, flush, tell the peer; *hard* means drop
//! everything now. Every task is tracked under a name, so a stop that hangs can say who hangs.
//! Invariant: a hard stop implies a soft one, and this is the only file that calls `tokio::spawn`.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    tasks: TaskTracker,
    soft: CancellationToken,
    hard: CancellationToken,
    /// How many tasks run under each name. Taken for a few instructions, never over an await.
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// How a wait for the tasks ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Every task finished by itself.
    Clean,
    /// The limit passed or a hard stop came; these tasks were dropped.
    Dropped(Vec<&'static str>),
}

impl Lifecycle {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a tracked task on the current runtime. A hard stop drops it at its next await.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let entry = Entry::new(name, Arc::clone(&self.running));
        let hard = self.hard.clone();
        let tracked = self.tasks.track_future(async move {
            let _entry = entry;
            tokio::select! {
                // A hard stop wins even over a task that is always ready.
                biased;
                () = hard.cancelled() => {}
                () = task => {}
            }
        });
        #[expect(clippy::disallowed_methods, reason = "this is the one door for tasks")]
        drop(tokio::spawn(tracked));
    }

    /// Like [`Lifecycle::spawn`], for a task the process cannot live without: an error is logged
    /// once, here, and stops the process softly.
    pub fn spawn_fallible<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let soft = self.soft.clone();
        self.spawn(name, async move {
            if let Err(error) = task.await {
                let error: Box<dyn StdError + Send + Sync> = error.into();
                tracing::error!(task = name, error = %chain(error.as_ref()), "a task failed, stopping");
                soft.cancel();
            }
        });
    }

    /// Cancelled when the process should finish what it does.
    pub fn soft(&self) -> CancellationToken {
        self.soft.clone()
    }

    /// Cancelled when the process should drop what it does.
    pub fn hard(&self) -> CancellationToken {
        self.hard.clone()
    }

    pub fn stop_softly(&self) {
        self.soft.cancel();
    }

    pub fn stop_hard(&self) {
        // In this order: nobody who is dropped begins to say goodbye.
        self.hard.cancel();
        self.soft.cancel();
    }

    /// First SIGINT or SIGTERM: soft stop. Second: hard stop.
    ///
    /// The handlers are in place when this returns, so a signal right after it is not lost. Returns
    /// the operating system's error when a handler cannot be installed.
    pub fn listen_for_signals(&self) -> std::io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let this = self.clone();
        // Not tracked: it waits for a signal for ever and must not hold up the end.
        #[expect(clippy::disallowed_methods, reason = "this is the one door for tasks")]
        drop(tokio::spawn(async move {
            for which in ["soft", "hard"] {
                // Both receives are cancel safe: a signal not taken here is taken next time.
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                tracing::info!(stop = which, "signal received");
                if which == "soft" { this.stop_softly() } else { this.stop_hard() }
            }
        }));
        Ok(())
    }

    /// Waits for the soft stop, then for the tasks, at most `limit`; then stops hard and warns with
    /// the names of the tasks that had to be dropped.
    pub async fn wait(&self, limit: Duration) -> Stopped {
        self.soft.cancelled().await;
        self.tasks.close();
        tokio::select! {
            biased;
            () = self.tasks.wait() => return Stopped::Clean,
            () = self.hard.cancelled() => {}
            () = tokio::time::sleep(limit) => {}
        }
        let left = self.running_tasks();
        self.hard.cancel();
        tracing::warn!(tasks = ?left, "tasks were still running and are dropped");
        Stopped::Dropped(left)
    }

    /// The names of the tasks that run now.
    pub fn running_tasks(&self) -> Vec<&'static str> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.keys().copied().collect()
    }
}

/// An error with its causes on one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Keeps a task's name in the list for as long as its future lives, also when it panics.
struct Entry {
    name: &'static str,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Entry {
    fn new(name: &'static str, running: Arc<Mutex<BTreeMap<&'static str, usize>>>) -> Self {
        *running.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        Self { name, running }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_soft_stop_lets_every_task_finish() {
        let lifecycle = Lifecycle::new();
        let soft = lifecycle.soft();
        lifecycle.spawn("flusher", async move { soft.cancelled().await });
        lifecycle.stop_softly();
        assert_eq!(lifecycle.wait(LIMIT).await, Stopped::Clean);
        assert!(!lifecycle.hard().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_hangs_is_named_and_dropped_at_the_limit() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("hanger", std::future::pending());
        lifecycle.stop_softly();
        assert_eq!(lifecycle.wait(LIMIT).await, Stopped::Dropped(vec!["hanger"]));
        assert!(lifecycle.hard().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_task_stops_the_process_softly() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn_fallible("reader", async { Err(std::io::Error::other("disk gone")) });
        assert_eq!(lifecycle.wait(LIMIT).await, Stopped::Clean);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hard_stop_ends_the_wait_at_once() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("hanger", std::future::pending());
        lifecycle.stop_hard();
        lifecycle.wait(Duration::from_secs(3600)).await;
        lifecycle.tasks.wait().await;
        assert!(lifecycle.running_tasks().is_empty());
    }
}
