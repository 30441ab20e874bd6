//! The agent as it ships: MQTT and HTTP, and no protocol of anybody's own.

use std::process::ExitCode;

use shoal_agent::protocol::Protocols;

fn main() -> ExitCode {
    shoal_agent::daemon::main(Protocols::default())
}
