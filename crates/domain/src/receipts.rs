//! Receipts: which sequence numbers of a series went out, were acknowledged, or arrived.
//!
//! Loss is a set difference, so numbers must travel and not only totals. Both ends collect marks in
//! the order of their happening; at a window's end they become runs, some bytes per device. The
//! encoded form is the value: it is checked once where it comes in, and read without allocating.
//! Invariant: a [`Runs`] decodes to the end, device by device in ascending order, and the order of
//! the marks of one device is kept.

use crate::ids::{ObserverId, SeriesId};

/// Marks of one device and incarnation that follow each other without a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    pub device: u32,
    pub incarnation: u32,
    pub first: u32,
    /// At least 1.
    pub count: u32,
}

impl Run {
    pub const fn one(device: u32, incarnation: u32, n: u32) -> Self {
        Self { device, incarnation, first: n, count: 1 }
    }

    pub fn numbers(&self) -> std::ops::Range<u64> {
        u64::from(self.first)..u64::from(self.first) + u64::from(self.count)
    }
}

/// What the numbers of a [`Receipt`] say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// Handed to the socket.
    Sent(SeriesId),
    /// The target has confirmed it, in time or late; for QoS 0 a later proof of life.
    Acked(SeriesId),
    /// The same message handed to a socket once more.
    Resent(SeriesId),
    /// Read from the platform's output, in this order.
    Received(ObserverId),
    /// No numbers: what arrived from here to the next receipt of the observer was not seen.
    Blind(ObserverId),
}

/// A part of what one agent saw in some windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub mark: Mark,
    pub runs: Runs,
}

/// Encoded runs; see the module's invariant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Runs(Vec<u8>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("receipts: {0}")]
pub struct BadRuns(&'static str);

/// Runs in one [`Receipt`]: what lets a delta of any size be cut into messages.
pub const MAX_RUNS: usize = 32 * 1024;

impl Runs {
    /// From untrusted bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, BadRuns> {
        let mut reader = Reader::new(&bytes);
        let mut n = 0;
        while !reader.rest.is_empty() {
            reader.next_run()?;
            n += 1;
            if n > MAX_RUNS {
                return Err(BadRuns("more runs than one receipt holds"));
            }
        }
        Ok(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn iter(&self) -> impl Iterator<Item = Run> + '_ {
        let mut reader = Reader::new(&self.0);
        std::iter::from_fn(move || {
            (!reader.rest.is_empty()).then(|| reader.next_run().expect("it was checked"))
        })
    }
}

/// Collects marks of one kind; keeps its memory from window to window.
#[derive(Debug, Default)]
pub struct Collected {
    runs: Vec<Run>,
}

impl Collected {
    /// One mark more; joins the run before it where it goes on.
    pub fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last) if goes_on(last, &run) => last.count += run.count,
            _ => self.runs.push(run),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Runs so far.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Everything since the last call.
    pub fn take(&mut self, mark: Mark, out: &mut Vec<Receipt>) {
        // Stable: the order of one device's marks stays.
        self.runs.sort_by_key(|run| (run.device, run.incarnation));
        let mut joined: Vec<Run> = Vec::with_capacity(self.runs.len().min(MAX_RUNS));
        for run in self.runs.drain(..) {
            match joined.last_mut() {
                Some(last) if goes_on(last, &run) => last.count += run.count,
                _ => {
                    if joined.len() == MAX_RUNS {
                        out.push(Receipt { mark, runs: encode(&joined) });
                        joined.clear();
                    }
                    joined.push(run);
                }
            }
        }
        if !joined.is_empty() {
            out.push(Receipt { mark, runs: encode(&joined) });
        }
    }
}

fn goes_on(last: &Run, run: &Run) -> bool {
    (last.device, last.incarnation) == (run.device, run.incarnation)
        && last.numbers().end == run.numbers().start
        && last.count.checked_add(run.count).is_some()
}

/// Per run: the step from the device before it, twice, plus 1 where the incarnation follows; then
/// the step from the number expected next (with its sign in the last bit) and the count.
fn encode(runs: &[Run]) -> Runs {
    let mut out = Vec::with_capacity(runs.len() * 4);
    let mut state = State::default();
    for run in runs {
        let step = u64::from(run.device - state.device);
        let renews = run.incarnation != state.incarnation;
        push_varint(&mut out, step << 1 | u64::from(renews));
        if renews {
            push_varint(&mut out, u64::from(run.incarnation));
        }
        let ahead = i64::from(run.first) - state.expected(run.device, run.incarnation);
        push_varint(&mut out, (ahead << 1 ^ ahead >> 63) as u64);
        push_varint(&mut out, u64::from(run.count));
        state = State { device: run.device, incarnation: run.incarnation, end: run.numbers().end };
    }
    Runs(out)
}

/// The run before; devices of one series go on at about the same number, so it predicts the next.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    device: u32,
    incarnation: u32,
    end: u64,
}

impl State {
    fn expected(&self, device: u32, incarnation: u32) -> i64 {
        let is_same = (self.device, self.incarnation) == (device, incarnation);
        // Another device has most likely sent as many in this window as the one before it.
        let end = if is_same { self.end } else { self.end.saturating_sub(1) };
        end as i64
    }
}

struct Reader<'b> {
    rest: &'b [u8],
    state: State,
}

impl<'b> Reader<'b> {
    fn new(rest: &'b [u8]) -> Self {
        Self { rest, state: State::default() }
    }

    fn next_run(&mut self) -> Result<Run, BadRuns> {
        let head = self.varint()?;
        let device = u32::try_from(u64::from(self.state.device).saturating_add(head >> 1))
            .map_err(|_| BadRuns("a device number is too great"))?;
        let incarnation = match head & 1 {
            0 => self.state.incarnation,
            _ => self.short("an incarnation is too great")?,
        };
        let coded = self.varint()?;
        let ahead = (coded >> 1) as i64 ^ -((coded & 1) as i64);
        let first = self.state.expected(device, incarnation).checked_add(ahead);
        let first = first
            .and_then(|first| u32::try_from(first).ok())
            .ok_or(BadRuns("a sequence number is out of range"))?;
        let count = self.short("a run is too long")?;
        let run = Run { device, incarnation, first, count };
        if count == 0 || run.numbers().end > u64::from(u32::MAX) {
            return Err(BadRuns("a run is empty or too long"));
        }
        self.state = State { device, incarnation, end: run.numbers().end };
        Ok(run)
    }

    fn short(&mut self, wrong: &'static str) -> Result<u32, BadRuns> {
        u32::try_from(self.varint()?).map_err(|_| BadRuns(wrong))
    }

    fn varint(&mut self) -> Result<u64, BadRuns> {
        take_varint(&mut self.rest).ok_or(BadRuns("cut off, or a number is too long"))
    }
}

pub(crate) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (i, byte) in rest.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if i == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * i);
        if byte & 0x80 == 0 {
            *rest = &rest[i + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARK: Mark = Mark::Sent(SeriesId(3));

    fn each(runs: &[Run]) -> Vec<(u32, u32, u64)> {
        runs.iter()
            .flat_map(|run| run.numbers().map(|n| (run.device, run.incarnation, n)))
            .collect()
    }

    proptest! {
        #[test]
        fn marks_survive_in_the_order_of_each_device(
            marks in proptest::collection::vec((0u32..6, 0u32..3, 0u32..40, 1u32..4), 0..200),
        ) {
            let marks: Vec<Run> = marks
                .into_iter()
                .map(|(device, incarnation, first, count)| Run { device, incarnation, first, count })
                .collect();
            let mut collected = Collected::default();
            marks.iter().for_each(|run| collected.push(*run));
            let mut receipts = Vec::new();
            collected.take(MARK, &mut receipts);
            prop_assert!(collected.is_empty());
            let read: Vec<Run> = receipts
                .iter()
                .flat_map(|receipt| {
                    Runs::from_bytes(receipt.runs.as_bytes().to_vec()).unwrap().iter().collect::<Vec<_>>()
                })
                .collect();
            let mut expected = each(&marks);
            expected.sort_by_key(|(device, incarnation, _)| (*device, *incarnation));
            prop_assert_eq!(each(&read), expected);
        }

        #[test]
        fn garbage_is_refused_or_reads_to_its_end(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(runs) = Runs::from_bytes(bytes) {
                prop_assert!(runs.iter().all(|run| run.count > 0));
            }
        }
    }

    #[test]
    fn a_window_of_many_devices_takes_about_three_bytes_each() {
        let mut collected = Collected::default();
        for device in 0..6_000 {
            collected.push(Run::one(device, 0, 1_000 + device % 2));
        }
        let mut receipts = Vec::new();
        collected.take(MARK, &mut receipts);
        let bytes: usize = receipts.iter().map(|receipt| receipt.runs.as_bytes().len()).sum();
        assert!(bytes < 6_000 * 3 + 10, "{bytes}");
    }

    #[test]
    fn many_runs_are_cut_into_receipts() {
        let mut collected = Collected::default();
        for device in 0..MAX_RUNS as u32 + 5 {
            collected.push(Run::one(device, 0, 7));
        }
        let mut receipts = Vec::new();
        collected.take(MARK, &mut receipts);
        assert_eq!(receipts.len(), 2);
        assert_eq!(receipts.iter().map(|r| r.runs.iter().count()).sum::<usize>(), MAX_RUNS + 5);
    }
}
