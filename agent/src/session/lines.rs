//! What this agent logs, told to the control plane as it is said.
//!
//! One message at a time is on its way, and only over a connection that has room: beats and states
//! never wait for lines. What is not acknowledged is sent again, under the same numbers.

use std::sync::Arc;
use std::time::Duration;

use shoal_domain::logs::MOST_LINES;
use shoal_proto::v1;
use shoal_service_kit::logs::{Book, Line};
use tokio::time::Instant;

/// A message with lines is not much longer than this.
const MOST_BYTES: usize = 32 * 1024;
/// Without an ack lines are sent again after this.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Lines {
    book: Arc<Book>,
    /// The last number on its way, and since when.
    waits: Option<(u64, Instant)>,
}

impl Lines {
    pub(crate) fn of(book: Arc<Book>) -> Self {
        Self { book, waits: None }
    }

    pub(super) fn can_go(&self) -> bool {
        self.waits.is_none()
    }

    /// Resolves when something was said that is not on its way; cancel safe.
    pub(super) fn said(&self) -> impl Future<Output = Vec<Line>> + use<> {
        let book = Arc::clone(&self.book);
        async move { book.lines(MOST_LINES).await }
    }

    /// All that one message holds now.
    pub(super) fn now(&self) -> Vec<Line> {
        self.book.now(MOST_LINES)
    }

    /// `offset_us`: from this machine's clock to control-plane time.
    pub(super) fn message(&mut self, lines: Vec<Line>, offset_us: i64) -> v1::LogLines {
        let mut bytes = 0;
        let fits = |line: &Line| {
            bytes += line.text.len() + line.fields.len();
            bytes <= MOST_BYTES
        };
        let n = lines.iter().map(fits).take_while(|fits| *fits).count().max(1);
        let lines: Vec<v1::LogLine> =
            lines.into_iter().take(n).map(|line| to_wire(line, offset_us)).collect();
        self.waits = lines.last().map(|last| (last.number, Instant::now()));
        v1::LogLines { lines }
    }

    pub(super) fn acked(&mut self, through: u64) {
        if self.waits.is_some_and(|(sent, _)| sent == through) {
            self.waits = None;
            self.book.forget(through);
        }
    }

    /// Nobody will acknowledge what was sent before.
    pub(super) fn disconnected(&mut self) {
        self.waits = None;
    }

    pub(super) fn tick(&mut self) {
        self.waits = self.waits.filter(|(_, since)| since.elapsed() < PATIENCE);
    }
}

fn to_wire(line: Line, offset_us: i64) -> v1::LogLine {
    v1::LogLine {
        number: line.number,
        at_us: line.boot_us.saturating_add_signed(offset_us),
        level: line.level.as_str().to_owned(),
        target: line.target.to_owned(),
        run_id: line.run.as_deref().unwrap_or_default().to_owned(),
        text: line.text,
        fields: line.fields,
        dropped: line.dropped,
    }
}
