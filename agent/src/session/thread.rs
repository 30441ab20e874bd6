//! The session's thread: a runtime that has nothing else to do.
//!
//! Invariant: the thread ends when its session is drained or the process stops hard.

use std::io;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Session;

/// The receiver resolves when the thread is about to end, however it ends.
pub(crate) fn start(
    session: Session,
    hard: CancellationToken,
    span: tracing::Span,
) -> io::Result<oneshot::Receiver<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (alive, ended) = oneshot::channel::<()>();
    std::thread::Builder::new().name("session".to_owned()).spawn(move || {
        // Dropped with the thread, also when it panics.
        let _alive = alive;
        let _in = span.entered();
        runtime.block_on(async move {
            tokio::select! {
                () = hard.cancelled() => {}
                () = session.run() => {}
            }
        });
    })?;
    Ok(ended)
}
