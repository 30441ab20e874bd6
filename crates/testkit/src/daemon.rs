//! A program under test as a process of its own: the only way to see what a kill -9 leaves behind.
//!
//! What it says goes to a file, so that it is never held up by a reader. Invariant: the process ends
//! with this handle, and with the test process when that is killed.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

pub use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::expect::eventually;
use crate::watchdog::Watchdog;

/// A busy machine included; a daemon says or does these things within milliseconds on an idle one.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Daemon {
    process: Child,
    watchdog: Watchdog,
    log: PathBuf,
}

impl Daemon {
    /// Panics when the program cannot be started. `log` gets everything that it prints.
    #[track_caller]
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        let file = std::fs::File::create(&log)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", log.display()));
        let also = file.try_clone().expect("a file that was just opened has a second handle");
        let process = command
            .stdin(Stdio::null())
            .stdout(also)
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let watchdog = Watchdog::guard("kill -KILL \"$1\"", &[&process.id().to_string()])
            .unwrap_or_else(|error| panic!("cannot start /bin/sh: {error}"));
        Self { process, watchdog, log }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// All that it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the first line with `text` in it, as soon as it is printed.
    pub async fn says(&self, text: &str) -> String {
        let line = || self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
        eventually(PATIENCE, &format!("{} has `{text}`", self.log.display()), || {
            std::future::ready(line().is_some())
        })
        .await;
        line().expect("a log only grows")
    }

    /// Ends it without any goodbye.
    pub fn kill(&mut self) {
        self.watchdog.release();
        // Both fail only when it is gone already, which is what was asked for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Sends it a signal while it runs.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("process ids fit an i32");
        kill(Pid::from_raw(pid), signal).expect("it is our child and not yet waited for");
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually(PATIENCE, &format!("the process of {} ends", self.log.display()), || {
            status = self.process.try_wait().ok().flatten();
            std::future::ready(status.is_some())
        })
        .await;
        self.watchdog.release();
        status.expect("waited for it")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let mut out = std::io::stderr();
            // A test that fails is read with the logs of its parts; nobody to tell if that fails.
            let _ = std::io::Write::write_fmt(
                &mut out,
                format_args!("--- {}\n{}\n", self.log.display(), self.log()),
            );
        }
    }
}
