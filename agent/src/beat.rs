//! What the beats teach: how far the control plane's clock is from ours, and which acks are real.
//!
//! Each acknowledged beat gives four time stamps. The sample with the shortest way there and back
//! bounds the error best (half of that way), so the best one of the last five minutes counts. Acks
//! are matched with beats that were really sent: a lease can never be renewed from an invented time.

use std::collections::VecDeque;

/// Samples older than this are forgotten: clocks drift.
const KEEP_US: u64 = 300_000_000;
/// Beats whose ack may still come; two minutes' worth.
const MAX_OPEN: usize = 64;
/// What two clocks may drift apart in a second, in microseconds.
const DRIFT_PPM: u64 = 50;

/// The four time stamps of one beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamps {
    /// Our boot time.
    pub(crate) sent_us: u64,
    /// The control plane's time.
    pub(crate) received_us: u64,
    pub(crate) replied_us: u64,
    /// Our boot time.
    pub(crate) back_us: u64,
}

/// Control-plane time minus our boot time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offset {
    pub(crate) us: i64,
    /// The true offset differs by at most this.
    pub(crate) error_us: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Beats {
    open: VecDeque<u64>,
    samples: VecDeque<(u64, Offset)>,
}

impl Beats {
    /// Sent times must be distinct; a clock that stands still is helped along.
    pub(crate) fn sent(&mut self, now_us: u64) -> u64 {
        let sent_us = self.open.back().map_or(now_us, |last| now_us.max(last + 1));
        if self.open.len() == MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back(sent_us);
        sent_us
    }

    /// Whether the ack answers a beat of ours; each is believed once.
    pub(crate) fn acked(&mut self, stamps: Stamps) -> bool {
        let Some(at) = self.open.iter().position(|sent_us| *sent_us == stamps.sent_us) else {
            return false;
        };
        self.open.remove(at);
        if let Some(offset) = offset(stamps) {
            self.samples.push_back((stamps.back_us, offset));
        }
        self.samples.retain(|(at_us, _)| at_us + KEEP_US >= stamps.back_us);
        true
    }

    /// The connection is gone and with it the acks that were on their way.
    pub(crate) fn disconnected(&mut self) {
        self.open.clear();
    }

    /// As of the newest sample; `None` before the first good ack. An older sample bounds the error
    /// less well, because clocks drift.
    pub(crate) fn offset(&self) -> Option<Offset> {
        let now_us = self.samples.back()?.0;
        let aged = |(at_us, offset): &(u64, Offset)| {
            let drift_us = now_us.saturating_sub(*at_us) * DRIFT_PPM / 1_000_000;
            Offset { error_us: offset.error_us + drift_us, ..*offset }
        };
        self.samples.iter().map(aged).min_by_key(|offset| offset.error_us)
    }
}

/// `None` for stamps that no two honest clocks can have made.
fn offset(stamps: Stamps) -> Option<Offset> {
    let Stamps { sent_us, received_us, replied_us, back_us } = stamps;
    let [t0, t1, t2, t3] = [sent_us, received_us, replied_us, back_us].map(i128::from);
    let way = (t3 - t0) - (t2 - t1);
    if t2 < t1 || t3 < t0 || way < 0 {
        return None;
    }
    let us = i64::try_from(((t1 - t0) + (t2 - t3)).div_euclid(2)).ok()?;
    Some(Offset { us, error_us: u64::try_from(way).ok()?.div_ceil(2) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_true_offset_is_within_the_bound(
            truth in 0u64..1_000_000_000_000, there in 0u64..1_000_000, back in 0u64..1_000_000,
            work in 0u64..100_000, sent_us in 0u64..1_000_000_000,
        ) {
            let received_us = sent_us + there + truth;
            let replied_us = received_us + work;
            let back_us = replied_us - truth + back;
            let found = offset(Stamps { sent_us, received_us, replied_us, back_us }).unwrap();
            prop_assert!(found.us.abs_diff(truth as i64) <= found.error_us);
        }

        #[test]
        fn garbage_never_panics(t in any::<[u64; 4]>()) {
            let mut beats = Beats::default();
            beats.sent(t[0]);
            let [sent_us, received_us, replied_us, back_us] = t;
            beats.acked(Stamps { sent_us, received_us, replied_us, back_us: back_us / 2 });
            let _ = beats.offset();
        }
    }

    fn ack(sent_us: u64, way_us: u64) -> Stamps {
        let back_us = sent_us + way_us;
        Stamps { sent_us, received_us: 5_000_000, replied_us: 5_000_000, back_us }
    }

    #[test]
    fn an_ack_counts_once_and_only_for_a_beat_that_was_sent() {
        let mut beats = Beats::default();
        let sent_us = beats.sent(100);
        assert!(!beats.acked(ack(sent_us + 1, 10)));
        assert!(beats.acked(ack(sent_us, 10)));
        assert!(!beats.acked(ack(sent_us, 10)));
    }

    #[test]
    fn the_shortest_way_counts_until_it_is_old() {
        let mut beats = Beats::default();
        for (at_us, way_us) in [(0, 50_000), (1_000_000, 10_000), (2_000_000, 90_000)] {
            let sent_us = beats.sent(at_us);
            beats.acked(ack(sent_us, way_us));
        }
        // One second more of drift, and the way of the newest sample itself.
        assert_eq!(beats.offset().unwrap().error_us, 5_000 + 54);
        let sent_us = beats.sent(KEEP_US + 1_500_000);
        beats.acked(ack(sent_us, 70_000));
        assert_eq!(beats.offset().unwrap().error_us, 35_000);
    }
}
