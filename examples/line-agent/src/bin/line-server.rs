//! `line-server [ADDRESS]`: something for the agents of this example to talk with.

use std::io::{self, Write as _};

use line_agent::server::Meters;
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
    let listener = TcpListener::bind(&address).await?;
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    Meters::default().serve(listener).await
}
