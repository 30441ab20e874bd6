//! The lines that a part of this process logs, kept for whoever ships or stores them: what happened
//! must be readable elsewhere after the process is gone.
//!
//! A [`Book`] belongs to one part of the process: an agent, a control plane. A line goes into the book
//! whose span it was logged in; outside of all of them into the books of the crate that said it, and
//! what shared code says into every book. Lines stay until the reader has passed them on, so a reader
//! that is cut off loses none that still fits. Invariant: logging never waits and never grows: when a
//! book is full its oldest line goes, and the next one says how many went before it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;
use tracing::Level;

use crate::clock::{Clock, SystemClock};

pub(crate) use self::capture::{SPAN, layer};

mod capture;

/// Lines of a book; more than any part says while its reader is away for a minute.
const MOST_LINES: usize = 2_000;
/// Bytes of a book, text and fields.
const MOST_BYTES: usize = 1024 * 1024;
/// A text or a set of fields is cut here.
pub const MOST_TEXT: usize = 4 * 1024;

/// One thing that was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Counts from 0 in its book.
    pub number: u64,
    /// On CLOCK_BOOTTIME.
    pub boot_us: u64,
    pub level: Level,
    pub target: &'static str,
    /// The field `run` of the line, or of the nearest span that has one.
    pub run: Option<Arc<str>>,
    pub text: String,
    /// The other fields, as a JSON object.
    pub fields: String,
    /// Lines that went unread right before this one.
    pub dropped: u64,
}

impl Line {
    fn bytes(&self) -> usize {
        self.text.len() + self.fields.len()
    }
}

/// All that are open in this process, as there is one logging in it.
static BOOKS: RwLock<Vec<Arc<Shared>>> = RwLock::new(Vec::new());
static IDS: AtomicU64 = AtomicU64::new(1);

/// Closed when it is dropped: later lines are not kept.
#[derive(Debug)]
pub struct Book {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: u64,
    /// Lines of this crate belong here, when no span says otherwise.
    of_crate: &'static str,
    lines: Mutex<Lines>,
    written: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<Line>,
    bytes: usize,
    next: u64,
}

impl Book {
    /// Of a part of `of_crate`, as in the targets of its lines (`shoal_agent`).
    pub fn open(of_crate: &'static str) -> Self {
        let shared = Arc::new(Shared {
            id: IDS.fetch_add(1, Relaxed),
            of_crate,
            lines: Mutex::default(),
            written: Notify::new(),
        });
        BOOKS.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&shared));
        Self { shared }
    }

    /// What is logged inside it is this book's, whoever else has one. Nobody sees the span itself.
    pub fn span(&self) -> tracing::Span {
        tracing::info_span!(target: capture::SPAN, "book", book = self.shared.id)
    }

    /// Says something of its own, past the logging of the process.
    pub fn say(&self, text: &str) {
        let words = capture::Words::of(text);
        self.shared.write(said(Level::INFO, self.shared.of_crate, None, words));
    }

    /// The oldest lines, at most `most`; waits until there is one. They stay: see [`Self::forget`].
    /// Cancel safe.
    pub async fn lines(&self, most: usize) -> Vec<Line> {
        loop {
            let written = self.shared.written.notified();
            let lines = self.now(most);
            if !lines.is_empty() {
                return lines;
            }
            written.await;
        }
    }

    /// Like [`Self::lines`], without waiting.
    pub fn now(&self, most: usize) -> Vec<Line> {
        self.shared.lock().kept.iter().take(most).cloned().collect()
    }

    /// Lines up to this number have been passed on.
    pub fn forget(&self, through: u64) {
        let mut lines = self.shared.lock();
        while lines.kept.front().is_some_and(|line| line.number <= through) {
            lines.pop();
        }
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        let mut books = BOOKS.write().unwrap_or_else(PoisonError::into_inner);
        books.retain(|book| book.id != self.shared.id);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A panic while it was held leaves a list behind: it is still good.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `said` has no number yet.
    fn write(&self, said: Line) {
        self.lock().push(said);
        self.written.notify_one();
    }
}

impl Lines {
    fn push(&mut self, said: Line) {
        let line = Line { number: self.next, ..said };
        self.next += 1;
        self.bytes += line.bytes();
        self.kept.push_back(line);
        while self.kept.len() > MOST_LINES || (self.bytes > MOST_BYTES && self.kept.len() > 1) {
            let Some(gone) = self.pop() else { break };
            if let Some(next) = self.kept.front_mut() {
                next.dropped += gone.dropped + 1;
            }
        }
    }

    fn pop(&mut self) -> Option<Line> {
        let line = self.kept.pop_front()?;
        self.bytes -= line.bytes();
        Some(line)
    }
}

/// A line as it is said, without its place in a book.
fn said(level: Level, target: &'static str, run: Option<Arc<str>>, words: capture::Words) -> Line {
    let capture::Words { text, fields, .. } = words;
    Line { number: 0, boot_us: SystemClock.boot_us(), level, target, run, text, fields, dropped: 0 }
}

#[cfg(test)]
mod tests;
