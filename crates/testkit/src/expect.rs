//! Waiting for a condition with a deadline: the one place where tests may sleep.
//!
//! A fixed sleep is either too short on a busy machine or too long everywhere else.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Between two looks. Short enough not to be felt, long enough to let others work.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns as soon as `holds` is true. Panics with `message` when it is not within `deadline`.
#[track_caller]
pub fn eventually<F, Fut>(
    deadline: Duration,
    message: &str,
    mut holds: F,
) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + deadline;
        while !holds().await {
            assert!(Instant::now() < end, "not within {deadline:?}: {message} ({caller})");
            sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_returns_once_the_condition_holds() {
        let mut looks = 0;
        eventually(Duration::from_secs(1), "three looks", || {
            looks += 1;
            std::future::ready(looks == 3)
        })
        .await;
        assert_eq!(looks, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not within 1s: pigs fly")]
    async fn it_says_what_did_not_happen() {
        eventually(Duration::from_secs(1), "pigs fly", || async { false }).await;
    }
}
