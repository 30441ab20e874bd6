//! What arrives adds up to what was pushed, whatever happens on the way.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shoal_domain::delta::{Tally, merge_cells};
use shoal_domain::ids::{SeriesId, StageId};
use shoal_domain::requests::{End, Request, RequestLog};

use super::*;

fn key() -> Key {
    Key { assignment: "a1".into(), epoch: 3 }
}

fn delta(window: u64, series: u32, sent: u64) -> Delta {
    let mut tally = Tally { sent, ..Tally::default() };
    tally.response_time.record(window * 1_000 + sent);
    let cells = Cells::from([((SeriesId(series), StageId(0)), tally)]);
    Delta { first_window: window, last_window: window, cells, ..Delta::default() }
}

/// With so many of its requests logged.
fn logged(mut delta: Delta, n: u64) -> Delta {
    let request = Request {
        series: SeriesId(0),
        stage: StageId(0),
        device: &"d".repeat(100),
        sent_us: 1,
        lag_us: None,
        service_us: None,
        bytes: 0,
        status: None,
        end: End::Sent,
    };
    (0..n).for_each(|_| delta.requests.push(&request));
    delta
}

fn ack(seq: u64, outcome: v1::UploadOutcome) -> v1::UploadAck {
    let key = key();
    let outcome = outcome.into();
    v1::UploadAck { assignment_id: key.assignment, epoch: key.epoch, seq, outcome, windows: 0 }
}

/// Keeps each number once, as the control plane does.
#[derive(Default)]
struct Server {
    stored: BTreeMap<u64, v1::UploadDelta>,
    /// What it asks for.
    windows: u32,
}

impl Server {
    fn take(&mut self, message: v1::UploadDelta) -> v1::UploadAck {
        let seq = message.seq;
        if let Some(known) = self.stored.get(&seq) {
            assert_eq!(known, &message, "a repeated delta is unchanged");
        }
        self.stored.insert(seq, message);
        v1::UploadAck { windows: self.windows, ..ack(seq, v1::UploadOutcome::Stored) }
    }

    fn sum(&self) -> Cells {
        let mut sum = Cells::new();
        for message in self.stored.values() {
            merge_cells(&mut sum, &metrics::decode(&message.body).unwrap().cells);
        }
        sum
    }
}

impl Server {
    /// Rows of all logs, and those that found no room.
    fn logged(&self) -> (u64, u64) {
        let logs = self.stored.values().map(|message| {
            let bytes = message.requests.clone();
            RequestLog::from_bytes(bytes, message.requests_dropped).unwrap()
        });
        logs.fold((0, 0), |sum, log| (sum.0 + log.rows(), sum.1 + log.dropped()))
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        series: u32,
        sent: u64,
    },
    /// The message reaches the server; its ack stays on the way.
    Deliver,
    /// The message is lost with the connection that follows.
    Lose,
    AckOldest,
    AckNewest,
    Reconnect,
    /// The control plane wants so many windows in one delta from now on.
    Stretch(u32),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u32..6, 1u64..50).prop_map(|(series, sent)| Step::Push { series, sent }),
        3 => Just(Step::Deliver),
        1 => Just(Step::Lose),
        2 => Just(Step::AckOldest),
        1 => Just(Step::AckNewest),
        1 => Just(Step::Reconnect),
        1 => prop::sample::select(vec![0, 1, 2, 5]).prop_map(Step::Stretch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_stored_once_adds_up_to_what_was_pushed(
        steps in proptest::collection::vec(any_step(), 1..60),
        budget in prop_oneof![Just(300usize), Just(2_000), Just(BUDGET)],
        max_body in prop_oneof![Just(100usize), Just(MAX_BODY)],
    ) {
        let mut queue = UplinkQueue::with_limits(budget, max_body);
        let mut server = Server::default();
        let mut acks: VecDeque<v1::UploadAck> = VecDeque::new();
        let mut pushed = Delta::default();
        let mut window = 0;
        for step in steps {
            match step {
                Step::Push { series, sent } => {
                    let delta = logged(delta(window, series, sent), sent);
                    queue.push(&key(), &delta, None);
                    pushed.absorb(delta);
                    window += 1;
                }
                Step::Deliver => {
                    if let Some(message) = queue.next_to_send() { acks.push_back(server.take(message)); }
                }
                Step::Lose => {
                    drop(queue.next_to_send());
                    acks.clear();
                    queue.disconnected();
                }
                Step::AckOldest => { if let Some(ack) = acks.pop_front() { queue.ack(&ack); } }
                Step::AckNewest => { if let Some(ack) = acks.pop_back() { queue.ack(&ack); } }
                Step::Reconnect => { acks.clear(); queue.disconnected(); }
                Step::Stretch(windows) => server.windows = windows,
            }
            let n_in_flight = queue.lanes.values().map(|lane| lane.in_flight.len()).max();
            prop_assert!(n_in_flight.unwrap_or(0) <= MAX_IN_FLIGHT);
        }
        let last = delta(window, 0, 1);
        pushed.absorb(last.clone());
        let closing = Closing { closed_at_us: 9, totals: pushed.clone() };
        queue.push(&key(), &last, Some(&closing));
        queue.disconnected();
        while let Some(message) = queue.next_to_send() {
            let ack = server.take(message);
            queue.ack(&ack);
        }
        prop_assert!(queue.is_idle());
        prop_assert_eq!(server.sum(), pushed.cells.clone());
        prop_assert_eq!(server.logged(), (pushed.requests.rows(), 0));
        let n = server.stored.len() as u64;
        prop_assert!(server.stored.keys().copied().eq(0..n), "numbers have no holes");
        let closings: Vec<u64> =
            server.stored.values().filter(|m| m.closing.is_some()).map(|m| m.seq).collect();
        prop_assert_eq!(closings, vec![n - 1], "the last delta, and only it, closes");
        let totals = &server.stored[&(n - 1)].closing.as_ref().unwrap().totals;
        prop_assert_eq!(metrics::decode(totals).unwrap().cells, pushed.cells);
    }
}

#[test]
fn told_to_stretch_it_sends_aligned_stretches_and_the_rest_at_the_end() {
    let mut queue = UplinkQueue::new();
    let mut server = Server { windows: 5, ..Server::default() };
    let (mut spans, mut pushed) = (Vec::new(), Delta::default());
    for window in 0..18 {
        let delta = delta(window, 0, 1);
        pushed.absorb(delta.clone());
        let closing = Closing { closed_at_us: 18_000_000, totals: pushed.clone() };
        queue.push(&key(), &delta, Some(&closing).filter(|_| window == 17));
        while let Some(message) = queue.next_to_send() {
            spans.push((message.first_window, message.last_window));
            let ack = server.take(message);
            queue.ack(&ack);
        }
    }
    assert_eq!(spans, [(0, 0), (1, 4), (5, 9), (10, 14), (15, 17)]);
    assert_eq!(server.sum(), pushed.cells);
    assert!(queue.is_idle());
}

#[test]
fn deltas_that_were_never_sent_coalesce_when_memory_runs_short() {
    let mut queue = UplinkQueue::with_limits(1_000, MAX_BODY);
    for window in 0..100 {
        queue.push(&key(), &delta(window, 0, 1), None);
    }
    assert!(queue.n_coalesced() > 0);
    assert!(queue.waiting_bytes() <= 1_000);
    let first = queue.next_to_send().unwrap();
    assert!(first.first_window == 0 && first.last_window > 0, "the span is named");
}

#[test]
fn a_request_log_that_memory_has_no_room_for_is_counted() {
    let mut queue = UplinkQueue::with_limits(1_000, MAX_BODY);
    for window in 0..20 {
        queue.push(&key(), &logged(delta(window, 0, 1), 500), None);
    }
    let mut server = Server::default();
    while let Some(message) = queue.next_to_send() {
        assert!(message.requests.len() <= requests::MAX_BYTES);
        let ack = server.take(message);
        queue.ack(&ack);
    }
    let (rows, dropped) = server.logged();
    assert_eq!(rows + dropped, 20 * 500);
    assert!(rows >= 2_000 && dropped > 0, "{rows} {dropped}");
}

#[test]
fn a_large_delta_is_cut_by_series_and_says_its_other_facts_once() {
    let mut large = delta(7, 0, 1);
    for series in 1..40 {
        large.absorb(delta(7, series, 1));
    }
    large.health.stalled_us = 5;
    let mut queue = UplinkQueue::with_limits(BUDGET, 300);
    queue.push(&key(), &large, None);
    let mut server = Server::default();
    while let Some(message) = queue.next_to_send() {
        assert!(message.body.len() <= 300);
        assert_eq!((message.first_window, message.last_window), (7, 7));
        let ack = server.take(message);
        assert_eq!(queue.ack(&ack), Acked::Stored);
    }
    assert!(server.stored.len() > 1);
    assert_eq!(server.sum(), large.cells);
    let decoded = server.stored.values().map(|m| metrics::decode(&m.body).unwrap());
    assert_eq!(decoded.map(|d| d.health.stalled_us).collect::<Vec<_>>()[..2], [5, 0]);
}

#[test]
fn a_run_that_is_over_takes_nothing_more() {
    for outcome in [v1::UploadOutcome::RunOver, v1::UploadOutcome::Unknown] {
        let mut queue = UplinkQueue::new();
        queue.push(&key(), &delta(0, 0, 1), None);
        queue.push(&key(), &delta(1, 0, 1), None);
        queue.next_to_send().unwrap();
        let run_over = outcome == v1::UploadOutcome::RunOver;
        let dropped = Acked::Dropped { sent: 1, waiting: 1, run_over };
        assert_eq!(queue.ack(&ack(0, outcome)), dropped);
        queue.push(&key(), &delta(2, 0, 1), None);
        assert!(queue.is_idle() && queue.next_to_send().is_none());
    }
}

#[test]
fn acks_for_what_was_never_sent_change_nothing() {
    let mut queue = UplinkQueue::new();
    assert_eq!(queue.ack(&ack(0, v1::UploadOutcome::Stored)), Acked::Unexpected);
    queue.push(&key(), &delta(0, 0, 1), None);
    assert_eq!(queue.ack(&ack(0, v1::UploadOutcome::Stored)), Acked::Unexpected);
    assert_eq!(queue.ack(&ack(0, v1::UploadOutcome::Unspecified)), Acked::Unexpected);
    let garbage = v1::UploadAck { outcome: 77, ..ack(0, v1::UploadOutcome::Stored) };
    assert_eq!(queue.ack(&garbage), Acked::Unexpected);
    assert!(queue.next_to_send().is_some());
}
