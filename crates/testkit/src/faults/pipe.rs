//! One direction of one connection.
//!
//! Bytes wait in a queue until they are due, so a delay costs time and not throughput; the queue is
//! bounded, and a full one stops the reading, as a real network would.

use std::collections::VecDeque;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Weather;

/// Bytes under way in one direction. Full: reading waits.
const UNDER_WAY: usize = 4 * 1024 * 1024;

/// The connection is of no use any more.
pub(super) struct Broken;

/// Ends well when the reading side was closed and all that came before was passed on. `passes` sees what was read before it
/// goes on, and may break the connection there.
pub(super) async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    is_silent: fn(&Weather) -> bool,
    mut passes: impl FnMut(&[u8]) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut bytes_waiting = 0;
    let mut ended = false;
    let mut buffer = vec![0; 16 * 1024];
    while !ended || !waiting.is_empty() {
        let (is_silent, delay) = {
            let now = weather.borrow_and_update();
            (is_silent(&now), now.delay)
        };
        let due = waiting.front().map(|(due, _)| *due);
        tokio::select! {
            // The weather first: a byte written after a verb must feel it.
            biased;
            changed = weather.changed() => changed.map_err(|_| Broken)?,
            read = from.read(&mut buffer), if !is_silent && !ended && bytes_waiting < UNDER_WAY => {
                match read {
                    Ok(0) => ended = true,
                    Ok(read) => {
                        passes(&buffer[..read])?;
                        bytes_waiting += read;
                        waiting.push_back((Instant::now() + delay, buffer[..read].to_vec()));
                    }
                    Err(_) => return Err(Broken),
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if !is_silent && due.is_some() => {
                if let Some((_, bytes)) = waiting.pop_front() {
                    bytes_waiting -= bytes.len();
                    to.write_all(&bytes).await.map_err(|_| Broken)?;
                }
            }
        }
    }
    to.shutdown().await.map_err(|_| Broken)
}
