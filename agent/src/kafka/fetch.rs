//! The response to a fetch, read while it comes in.
//!
//! A broker sends at least one batch per partition, however large, and some send all they have. So
//! the response is a stream of batches of which one at a time is held; a batch above [`MAX_BATCH`] is
//! counted by its head and passed over. Events of transactions that were aborted are left out.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Buf, BytesMut};

use super::batch::{HEAD, Head, PREFIX, Record, records};
use super::wire::{Cursor, Malformed, frame_length};

pub(super) const MAX_BATCH: usize = 32 * 1024 * 1024;

/// A part of a response.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fetched<'b> {
    /// A broker's word on a partition: 0, or the code of an error.
    Partition { partition: u32, error: i16, end: u64 },
    /// Also one before the offset that was asked for: a batch comes as a whole.
    Record(Record<'b>),
    /// So many records are there, and nobody can read them.
    Unreadable { n: u64 },
    /// Everything below is handed on or passed over.
    Through { partition: u32, next: u64 },
}

#[derive(Debug)]
pub(crate) struct FetchReader {
    version: i16,
    state: State,
    /// Bytes of the message that are not taken yet.
    left: usize,
    n_topics: usize,
    n_partitions: usize,
    partition: u32,
    /// Bytes of the partition's records that are not taken yet.
    records: usize,
    /// Bytes to pass over.
    skip: usize,
    aborted: Aborted,
    scratch: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Topic,
    Partition,
    Records,
    Rest,
    Done,
}

impl FetchReader {
    /// For one response of this version, from the length of the message on.
    pub(crate) fn new(version: i16) -> Self {
        Self {
            version,
            state: State::Head,
            left: 0,
            n_topics: 0,
            n_partitions: 0,
            partition: 0,
            records: 0,
            skip: 0,
            aborted: Aborted::default(),
            scratch: Vec::new(),
        }
    }

    /// Takes from `bytes` what is whole, and hands it on. Whether the response has ended.
    pub(crate) fn read(
        &mut self,
        bytes: &mut BytesMut,
        each: &mut impl FnMut(Fetched<'_>),
    ) -> Result<bool, Malformed> {
        loop {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                bytes.advance(n);
                self.skip -= n;
                if self.skip > 0 {
                    return Ok(false);
                }
            }
            if self.state == State::Done {
                return Ok(true);
            }
            match self.step(bytes, each) {
                Ok(taken) => bytes.advance(taken),
                Err(Malformed::Short) => return Ok(false),
                Err(bad) => return Err(bad),
            }
        }
    }

    /// How many bytes the next whole part took.
    fn step(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Fetched<'_>),
    ) -> Result<usize, Malformed> {
        let taken = match self.state {
            State::Head => return self.head(bytes),
            State::Topic => self.topic(bytes)?,
            State::Partition => self.partition(bytes, each)?,
            State::Records => self.batch(bytes, each)?,
            State::Rest => {
                self.skip = self.left;
                self.left = 0;
                self.state = State::Done;
                return Ok(0);
            }
            State::Done => 0,
        };
        self.within(taken)?;
        Ok(taken)
    }

    fn within(&mut self, taken: usize) -> Result<(), Malformed> {
        const BEYOND: Malformed = Malformed::Bad("a response is longer than it says");
        self.left = self.left.checked_sub(taken).ok_or(BEYOND)?;
        Ok(())
    }

    fn head(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let length = frame_length(bytes)?;
        let mut body = Cursor::new(&bytes[4..]);
        let before = body.rest.len();
        // Correlation and throttling.
        body.take(8)?;
        if self.version >= 7 {
            let error = body.i16()?;
            body.i32()?;
            if error != 0 {
                return Err(Malformed::Bad("the broker refuses the fetch"));
            }
        }
        self.n_topics = body.count()?;
        self.left = length;
        let taken = before - body.rest.len();
        self.within(taken)?;
        self.state = State::Topic;
        Ok(4 + taken)
    }

    fn topic(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let Some(n_topics) = self.n_topics.checked_sub(1) else {
            self.state = State::Rest;
            return Ok(0);
        };
        let mut body = Cursor::new(bytes);
        // Only one was asked for.
        body.text()?;
        self.n_partitions = body.count()?;
        self.n_topics = n_topics;
        self.state = State::Partition;
        Ok(bytes.len() - body.rest.len())
    }

    fn partition(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Fetched<'_>),
    ) -> Result<usize, Malformed> {
        let Some(n_partitions) = self.n_partitions.checked_sub(1) else {
            self.state = State::Topic;
            return Ok(0);
        };
        let mut body = Cursor::new(bytes);
        let (partition, error, _high, stable) =
            (body.u32()?, body.i16()?, body.i64()?, body.i64()?);
        if self.version >= 5 {
            body.i64()?;
        }
        let mut aborted = Aborted::default();
        for _ in 0..body.count()? {
            aborted.waiting.push_back((body.i64()?, body.i64()?));
        }
        if self.version >= 11 {
            body.i32()?;
        }
        self.records = body.count()?;
        aborted.waiting.make_contiguous().sort_by_key(|(_, first)| *first);
        (self.partition, self.aborted, self.n_partitions) = (partition, aborted, n_partitions);
        self.state = State::Records;
        each(Fetched::Partition { partition, error, end: u64::try_from(stable).unwrap_or(0) });
        Ok(bytes.len() - body.rest.len())
    }

    fn batch(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Fetched<'_>),
    ) -> Result<usize, Malformed> {
        if self.records == 0 {
            self.state = State::Partition;
            return Ok(0);
        }
        let length = match self.records >= PREFIX {
            true => {
                let mut prefix = Cursor::new(bytes);
                prefix.i64()?;
                let length = usize::try_from(prefix.i32()?);
                PREFIX + length.map_err(|_| Malformed::Bad("a batch with a length below 0"))?
            }
            false => usize::MAX,
        };
        if length > self.records {
            // The end of the answer cuts a batch off; it comes again with the next fetch.
            return self.pass_over(self.records);
        }
        let partition = self.partition;
        let is_held = length <= MAX_BATCH;
        let needs = if is_held { length } else { HEAD };
        let bytes = bytes.get(..needs).ok_or(Malformed::Short)?;
        // A batch that is shorter than its head is none.
        let head = Head::read(bytes).map_err(|_| Malformed::Bad("a batch without a head"))?;
        if !head.is_readable() || !is_held {
            each(Fetched::Unreadable { n: head.n_records });
        } else if !self.aborted.hides(&head) && !head.is_control() {
            let n = records(partition, &head, bytes, &mut self.scratch, |record| {
                each(Fetched::Record(record));
            });
            if n < head.n_records {
                each(Fetched::Unreadable { n: head.n_records - n });
            }
        }
        each(Fetched::Through { partition, next: head.next() });
        match is_held {
            true => {
                self.records -= length;
                Ok(length)
            }
            false => self.pass_over(length),
        }
    }

    fn pass_over(&mut self, n: usize) -> Result<usize, Malformed> {
        self.records -= n;
        self.within(n)?;
        self.skip = n;
        Ok(0)
    }
}

/// Transactions of a partition that came to nothing.
#[derive(Debug, Default)]
struct Aborted {
    /// Producer and first offset, ascending by that.
    waiting: VecDeque<(i64, i64)>,
    open: BTreeSet<i64>,
}

impl Aborted {
    /// Whether the batch belongs to one. Its end is a marker of the same producer.
    fn hides(&mut self, head: &Head) -> bool {
        while let Some((producer, first)) = self.waiting.front().copied()
            && u64::try_from(first).is_ok_and(|first| first < head.next())
        {
            self.waiting.pop_front();
            self.open.insert(producer);
        }
        if head.is_control() {
            self.open.remove(&head.producer);
        }
        head.is_transactional() && self.open.contains(&head.producer)
    }
}
