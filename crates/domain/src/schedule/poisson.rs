//! A Poisson process of one series of one device, that can be asked anywhere at once.
//!
//! Time is cut into blocks of 1,024 mean periods. A block holds Poisson(1,024) slots, drawn by its
//! number. A block is halved ten times: each of its slots falls into the left half by one fair bit
//! of the half's own stream, so a half's count is binomial; in the last piece, one period long,
//! slots lie evenly at random. That is exactly the homogeneous Poisson process (given their number,
//! its points are independent and uniform), and both questions, how many before a moment and when
//! is number r, walk down one path of the tree. Only whole-number draws and the four basic
//! operations are used, so two machines never disagree.
//!
//! Slot numbers are `block · 2048 + rank`: unique and in order, with gaps between blocks.

use std::sync::LazyLock;

use super::part;
use crate::values::Stream;

const BLOCK_PERIODS: u64 = 1 << HALVINGS;
const HALVINGS: u32 = 10;
/// No block holds as many as this allows.
const RANK_BITS: u32 = 11;
const COUNT_DRAW: u64 = 3;
/// Draws inside a block: its pieces in heap order, each with room for the words it needs.
const PIECE_DRAWS: u64 = 1 << 20;
const WORDS_PER_PIECE: u64 = 1 << 8;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Poisson {
    origin_ns: u64,
    period_ns: u64,
    stream: Stream,
}

/// Where a walk down the tree arrived: one period, the slots in it and those before it.
struct Leaf {
    from_ns: u64,
    piece: u64,
    n: u64,
    before: u64,
}

impl Poisson {
    pub(super) const fn new(origin_ns: u64, period_ns: u64, stream: Stream) -> Self {
        Self { origin_ns, period_ns, stream }
    }

    const fn block_ns(&self) -> u64 {
        self.period_ns * BLOCK_PERIODS
    }

    fn n_in(&self, block: u64) -> u64 {
        COUNTS.draw(self.stream.draw(block, COUNT_DRAW))
    }

    /// Of the `n` slots of a piece, those in its left half.
    fn left(&self, block: u64, piece: u64, n: u64) -> u64 {
        let words = n.div_ceil(64);
        let ones = |word: u64| {
            let bits = self.stream.draw(block, PIECE_DRAWS + piece * WORDS_PER_PIECE + word);
            let unused = if word + 1 == words { words * 64 - n } else { 0 };
            u64::from((bits >> unused).count_ones())
        };
        (0..words).map(ones).sum()
    }

    /// Walks to the piece of one period that `goes_left` leads to; it is told the time where the
    /// halves meet (since the block's start) and how many slots lie before it.
    fn descend(&self, block: u64, goes_left: impl Fn(u64, u64) -> bool) -> Leaf {
        let mut leaf = Leaf { from_ns: 0, piece: 1, n: self.n_in(block), before: 0 };
        let mut length_ns = self.block_ns();
        for _ in 0..HALVINGS {
            length_ns /= 2;
            let left = self.left(block, leaf.piece, leaf.n);
            if goes_left(leaf.from_ns + length_ns, leaf.before + left) {
                leaf.n = left;
                leaf.piece *= 2;
            } else {
                leaf.before += left;
                leaf.n -= left;
                leaf.from_ns += length_ns;
                leaf.piece = leaf.piece * 2 + 1;
            }
        }
        leaf
    }

    /// Where in its period slot `k` of a leaf lies, before they are put in order.
    fn offset_ns(&self, block: u64, leaf: &Leaf, k: u64) -> u64 {
        let draw = PIECE_DRAWS + leaf.piece * WORDS_PER_PIECE + k;
        part(self.stream.draw(block, draw), self.period_ns)
    }

    /// Slots of a block before `ns` since its start.
    fn rank(&self, block: u64, ns: u64) -> u64 {
        let leaf = self.descend(block, |middle_ns, _| ns < middle_ns);
        let is_before = |k: &u64| leaf.from_ns + self.offset_ns(block, &leaf, *k) < ns;
        leaf.before + (0..leaf.n).filter(is_before).count() as u64
    }

    pub(super) fn intended_ns(&self, slot: u64) -> u64 {
        let (block, rank) = (slot >> RANK_BITS, slot & ((1 << RANK_BITS) - 1));
        let leaf = self.descend(block, |_, before| rank < before);
        let nth = rank - leaf.before;
        let key = |k: u64| (self.offset_ns(block, &leaf, k), k);
        // A leaf holds one slot on average: comparing all with all needs no memory.
        let is_nth =
            |k: &u64| (0..leaf.n).filter(|other| key(*other) < key(*k)).count() as u64 == nth;
        let offset_ns = (0..leaf.n).find(is_nth).map_or(0, |k| key(k).0);
        self.origin_ns + block * self.block_ns() + leaf.from_ns + offset_ns
    }

    fn place(&self, ns: u64) -> (u64, u64) {
        let since_ns = ns.saturating_sub(self.origin_ns);
        (since_ns / self.block_ns(), since_ns % self.block_ns())
    }

    pub(super) fn count_before(&self, ns: u64) -> u64 {
        let (block, within_ns) = self.place(ns);
        (0..block).map(|block| self.n_in(block)).sum::<u64>() + self.rank(block, within_ns)
    }

    pub(super) fn number_at(&self, ns: u64) -> u64 {
        let (block, within_ns) = self.place(ns);
        self.existing(block, self.rank(block, within_ns))
    }

    pub(super) fn successor(&self, slot: u64) -> u64 {
        self.existing(slot >> RANK_BITS, (slot & ((1 << RANK_BITS) - 1)) + 1)
    }

    fn existing(&self, mut block: u64, mut rank: u64) -> u64 {
        while rank >= self.n_in(block) {
            block += 1;
            rank = 0;
        }
        block << RANK_BITS | rank
    }
}

/// The distribution of Poisson(1,024) as thresholds for 64-bit draws.
struct Counts {
    least: u64,
    below: Vec<u64>,
}

static COUNTS: LazyLock<Counts> = LazyLock::new(Counts::new);

impl Counts {
    /// Twelve standard deviations to both sides: beyond lies less than a 64-bit draw can tell.
    fn new() -> Self {
        const MEAN: f64 = BLOCK_PERIODS as f64;
        const REACH: u64 = 384;
        let least = BLOCK_PERIODS - REACH;
        // Relative to the weight at the mean; each follows from its neighbour.
        let mut weights = vec![1.0; 2 * REACH as usize + 1];
        for k in 1..=REACH as usize {
            let middle = REACH as usize;
            weights[middle + k] = weights[middle + k - 1] * MEAN / (MEAN + k as f64);
            weights[middle - k] = weights[middle - k + 1] * (MEAN - k as f64 + 1.0) / MEAN;
        }
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let below = weights.iter().map(|weight| {
            sum += weight;
            (sum / total * 18_446_744_073_709_551_616.0) as u64
        });
        Self { least, below: below.collect() }
    }

    fn draw(&self, bits: u64) -> u64 {
        let place = self.below.partition_point(|below| *below <= bits);
        self.least + place.min(self.below.len() - 1) as u64
    }
}
