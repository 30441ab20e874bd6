//! A sample is a fair share that everybody agrees on; a log keeps its bound and counts the rest.

use proptest::prelude::*;

use super::*;

fn key(series: u32, device: u64, number: u64) -> RequestKey {
    RequestKey { series: SeriesId(series), device, incarnation: 0, number }
}

#[derive(Debug, Clone)]
struct Owned {
    device: String,
    text: String,
    numbers: (u64, Option<u64>, Option<u64>, u64, Option<u16>),
    end: usize,
}

impl Owned {
    fn request(&self) -> Request<'_> {
        let (sent_us, lag_us, service_us, bytes, status) = self.numbers;
        let end = match self.end {
            0 => End::Acked,
            1 => End::Sent,
            n => End::Failed(ErrorClass::ALL[n % ErrorClass::ALL.len()], &self.text),
        };
        let (series, stage) = (SeriesId(self.end as u32), StageId(3));
        let device = &self.device;
        Request { series, stage, device, sent_us, lag_us, service_us, bytes, status, end }
    }
}

fn any_request() -> impl Strategy<Value = Owned> {
    let time = || proptest::option::of(any::<u64>());
    let numbers = (any::<u64>(), time(), time(), any::<u64>(), proptest::option::of(any::<u16>()));
    ("[a-z0-9ü-]{0,40}", "\\PC{0,30}", numbers, 0usize..40)
        .prop_map(|(device, text, numbers, end)| Owned { device, text, numbers, end })
}

fn log_of(requests: &[Owned]) -> RequestLog {
    let mut log = RequestLog::default();
    requests.iter().for_each(|request| log.push(&request.request()));
    log
}

proptest! {
    #[test]
    fn what_a_small_share_takes_a_greater_one_takes_too(
        seed in any::<u64>(), small in 1u32..=1_000_000, great in 1u32..=1_000_000,
        key in (0u32..50, any::<u64>(), any::<u64>()),
    ) {
        let (small, great) = (small.min(great), small.max(great));
        let [small, great] = [small, great].map(|share| Sampling::from_millionths(share).unwrap());
        let key = self::key(key.0, key.1, key.2);
        prop_assert!(!small.takes(seed, key) || great.takes(seed, key));
        prop_assert!(Sampling::ALL.takes(seed, key));
    }

    /// Over devices, over the messages of one device, for each seed: about the share, with five
    /// standard deviations of room.
    #[test]
    fn a_share_is_one_of_devices_and_of_messages_alike(seed in any::<u64>(), percent in 1u32..60) {
        const N: u64 = 20_000;
        let sampling = Sampling::from_millionths(percent * 10_000).unwrap();
        let share = sampling.ratio();
        let room = 5.0 * (N as f64 * share * (1.0 - share)).sqrt();
        let over_devices = (0..N).filter(|n| sampling.takes(seed, key(0, *n, 7))).count();
        let over_numbers = (0..N).filter(|n| sampling.takes(seed, key(1, 3, *n))).count();
        for taken in [over_devices, over_numbers] {
            prop_assert!((taken as f64 - N as f64 * share).abs() < room, "{} of {}", taken, N);
        }
    }

    #[test]
    fn requests_survive_their_encoding(requests in proptest::collection::vec(any_request(), 0..30)) {
        let log = log_of(&requests);
        let again = RequestLog::from_bytes(log.as_bytes().to_vec(), 0).unwrap();
        prop_assert_eq!(again.rows(), requests.len() as u64);
        let read: Vec<Request<'_>> = again.iter().collect();
        let written: Vec<Request<'_>> = requests.iter().map(Owned::request).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn garbage_is_refused_or_reads_to_its_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(log) = RequestLog::from_bytes(bytes, 0) {
            prop_assert_eq!(log.iter().count() as u64, log.rows());
        }
    }

    /// However logs are joined, every request is kept or counted, and none is too long.
    #[test]
    fn a_joined_log_keeps_its_bound_and_counts_the_rest(
        logs in proptest::collection::vec((any_request(), 1usize..4_000), 1..12),
    ) {
        let (mut joined, mut n) = (RequestLog::default(), 0);
        for (request, times) in logs {
            let log = log_of(&vec![request; times]);
            n += times as u64;
            prop_assert_eq!(log.rows() + log.dropped(), times as u64);
            joined.absorb(log);
            prop_assert!(joined.as_bytes().len() <= MAX_BYTES);
            prop_assert_eq!(joined.rows() + joined.dropped(), n);
        }
        prop_assert_eq!(joined.iter().count() as u64, joined.rows());
        joined.drop_rows();
        prop_assert_eq!((joined.rows(), joined.dropped()), (0, n));
    }
}

#[test]
fn a_share_is_written_with_its_unit() {
    let share = |text| Sampling::parse(text).map(Sampling::millionths);
    assert_eq!(share("1%"), Some(10_000));
    assert_eq!(share("0.05%"), Some(500));
    assert_eq!(share("100%"), Some(1_000_000));
    for wrong in ["0%", "101%", "1", "0.01", "-1%", "", "0.00001%", "1 %"] {
        assert_eq!(share(wrong), None, "{wrong}");
    }
}

#[test]
fn a_usual_row_takes_some_thirty_bytes() {
    let mut log = RequestLog::default();
    for n in 0..1_000 {
        log.push(&Request {
            series: SeriesId(3),
            stage: StageId(1),
            device: "sensors-004711",
            sent_us: 1_800_000_000 + n,
            lag_us: Some(n),
            service_us: Some(1_500 + n),
            bytes: 180,
            status: None,
            end: End::Acked,
        });
    }
    assert!(log.as_bytes().len() < 35_000, "{}", log.as_bytes().len());
}
