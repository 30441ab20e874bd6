//! `shoal-agent` with one protocol more; flags, settings and everything else are the same.

use std::process::ExitCode;
use std::sync::Arc;

use line_agent::Lines;
use shoal_agent::protocol::Protocols;

fn main() -> ExitCode {
    shoal_agent::daemon::main(Protocols::of([Arc::new(Lines) as _]))
}
