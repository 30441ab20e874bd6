//! What this machine can tell apart, tried once as the agent starts: how late a timer wakes a thread of the
//! engine's kind, and how long an echo over loopback takes. No result below these says anything of a target.
//!
//! Once in a process, on a thread of its own, in a fifth of a second. Invariant: whatever fails, the agent
//! starts; it only cannot say.

use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::Duration;

use shoal_domain::delta::Samples;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};

const ROUNDS: u32 = 200;
const EVERY: Duration = Duration::from_millis(1);
/// On a machine that is this slow it is given up.
const PATIENCE: Duration = Duration::from_secs(3);
/// About a small telemetry message.
const MESSAGE: usize = 128;

/// In µs; 0: not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Noise {
    pub(crate) timer_p99_us: u64,
    pub(crate) echo_p50_us: u64,
    pub(crate) echo_p99_us: u64,
}

/// Measured at the first call.
pub(crate) fn noise() -> Noise {
    static NOISE: OnceLock<Noise> = OnceLock::new();
    *NOISE.get_or_init(|| {
        let thread = std::thread::Builder::new().name("calibration".to_owned()).spawn(measure);
        let measured = thread.ok().and_then(|thread| thread.join().ok()).flatten();
        measured.unwrap_or_else(|| {
            tracing::warn!("this machine could not be calibrated");
            Noise::default()
        })
    })
}

/// On a runtime like a core's.
fn measure() -> Option<Noise> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async { timeout(PATIENCE, rounds()).await }).ok()?.ok()
}

async fn rounds() -> std::io::Result<Noise> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let dial = TcpStream::connect(listener.local_addr()?);
    let (mut near, (mut far, _)) = tokio::try_join!(dial, listener.accept())?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = async {
        let mut message = [0; MESSAGE];
        loop {
            far.read_exact(&mut message).await?;
            far.write_all(&message).await?;
        }
    };
    let probe = async {
        let (mut lag, mut trip) = (Samples::default(), Samples::default());
        let (begin, mut message) = (Instant::now(), [7; MESSAGE]);
        for round in 1..=ROUNDS {
            let due = begin + EVERY * round;
            sleep_until(due).await;
            lag.record(micros(due.elapsed()));
            let sent = Instant::now();
            near.write_all(&message).await?;
            near.read_exact(&mut message).await?;
            trip.record(micros(sent.elapsed()));
        }
        Ok(Noise {
            timer_p99_us: lag.quantile_us(0.99).unwrap_or(0),
            echo_p50_us: trip.quantile_us(0.5).unwrap_or(0),
            echo_p99_us: trip.quantile_us(0.99).unwrap_or(0),
        })
    };
    tokio::select! { ended = echo => ended, done = probe => done }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_says_what_it_can_tell_apart_and_says_it_once() {
        let noise = noise();
        assert!(noise.echo_p50_us > 0 && noise.echo_p50_us <= noise.echo_p99_us, "{noise:?}");
        assert!(noise.timer_p99_us > 0, "no timer is exact: {noise:?}");
        assert_eq!(super::noise(), noise);
    }
}
