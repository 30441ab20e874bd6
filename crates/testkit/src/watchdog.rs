//! Cleans up after a test process, however that ends.
//!
//! Statics are never dropped, and a killed process runs nothing at all, so the cleaning is done by a
//! small shell that waits for the end of a pipe which only this process holds open. It has its own
//! process group, so that a Ctrl-C for the tests does not end it first, and no output, so that nobody
//! waits for it. Invariant: after [`Watchdog::release`] it does nothing.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Runs the shell script `on_death`, with `arguments` as `$1`.., when this process has ended.
    pub(crate) fn guard(on_death: &str, arguments: &[&str]) -> std::io::Result<Self> {
        let script = format!("read -r word; [ \"$word\" = done ] && exit 0\n{on_death}");
        let shell = Command::new("/bin/sh")
            .args(["-c", &script, "watchdog"])
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }

    /// There is nothing left to clean.
    pub(crate) fn release(&mut self) {
        if let Some(mut pipe) = self.shell.stdin.take() {
            // If it is gone already, it has nothing to be told.
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.shell.wait();
    }
}
