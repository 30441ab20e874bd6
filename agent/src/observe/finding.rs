//! Which message an event is: by the stamp, wherever the platform may have put it (the value of an
//! event, its topic or key, its headers), or by the platform's own fields.
//!
//! A value that was compressed with gzip on its way is looked into. Invariant: an event costs at most
//! [`MAX_UNZIPPED`] bytes, whatever it claims to hold.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use shoal_domain::fields::{FieldReader, Ids, Reading};
use shoal_domain::stamp::{self, Stamp};

use super::{Event, ObserverJob};

/// What comes later is not found.
const MAX_UNZIPPED: u64 = 1024 * 1024;
const GZIP: &[u8] = b"\x1f\x8b";

#[derive(Debug, Default)]
pub(super) struct Finder {
    /// `None`: by the stamp.
    fields: Option<Box<FieldReader>>,
    unzipped: Vec<u8>,
}

impl Finder {
    /// Renders the ids of all devices where events name them.
    pub(super) fn new(job: &ObserverJob) -> Self {
        let observer = &job.plan.observers[job.observer.index()];
        let group = job.plan.series[observer.of.index()].group;
        let run = job.run.mark();
        let ids = || Ids::of(&job.plan, group, job.seed, &run);
        let fields = observer.read.as_ref();
        let fields =
            fields.map(|fields| Box::new(FieldReader::new(fields, &run, observer.of, ids)));
        Self { fields, unzipped: Vec::new() }
    }

    pub(super) fn find(&mut self, event: &Event<'_>) -> Reading {
        let Self { fields, unzipped } = self;
        match fields {
            None => stamp_in(event, unzipped).map_or(Reading::Unparsed, Reading::Message),
            Some(fields) => match fields.read(event.payload, |name| event.headers.get(name)) {
                Reading::Unparsed => match unzip(event.payload, unzipped) {
                    Some(plain) => fields.read(plain, |name| event.headers.get(name)),
                    None => Reading::Unparsed,
                },
                reading => reading,
            },
        }
    }
}

fn stamp_in(event: &Event<'_>, unzipped: &mut Vec<u8>) -> Option<Stamp> {
    let in_headers = || event.headers.find_map(stamp::find);
    stamp::find(event.payload)
        .or_else(|| stamp::find(unzip(event.payload, unzipped)?))
        .or_else(|| stamp::find(event.place))
        .or_else(in_headers)
}

fn unzip<'u>(payload: &[u8], unzipped: &'u mut Vec<u8>) -> Option<&'u [u8]> {
    if !payload.starts_with(GZIP) {
        return None;
    }
    unzipped.clear();
    // What was there before it broke off is as good as the whole.
    let _ = MultiGzDecoder::new(payload).take(MAX_UNZIPPED).read_to_end(unzipped);
    Some(unzipped)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;
    use crate::observe::{Enqueued, Headers};

    const STAMP: &[u8] = b"sh1.0000002a.1.2.3.4.5";

    fn event(payload: &[u8]) -> Event<'_> {
        let (headers, enqueued) = (Headers::Named(&[]), Enqueued::Never);
        Event { place: b"some/topic", payload, headers, enqueued, is_backlog: false }
    }

    fn zipped(parts: &[&[u8]]) -> Vec<u8> {
        let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
        parts.iter().for_each(|part| zip.write_all(part).unwrap());
        zip.finish().unwrap()
    }

    #[test]
    fn a_stamp_is_found_in_a_compressed_value() {
        let mut finder = Finder::default();
        let found = finder.find(&event(&zipped(&[b"{\"trace\":\"", STAMP, b"\"}"])));
        assert_eq!(found, Reading::Message(stamp::find(STAMP).unwrap()));
        // And in what is left of one.
        let noise: Vec<u8> =
            (0..4_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let mut cut = zipped(&[STAMP, b"\"", &noise]);
        cut.truncate(cut.len() / 2);
        assert!(matches!(finder.find(&event(&cut)), Reading::Message(_)));
    }

    #[test]
    fn a_value_that_unpacks_without_end_costs_a_megabyte() {
        let zeros = vec![0; 64 * 1024 * 1024];
        let mut finder = Finder::default();
        assert_eq!(finder.find(&event(&zipped(&[&zeros, STAMP]))), Reading::Unparsed);
        assert!(finder.unzipped.capacity() <= 4 * MAX_UNZIPPED as usize);
    }

    proptest! {
        #[test]
        fn garbage_holds_nothing(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let payload = [GZIP, tail.as_slice()].concat();
            prop_assert_eq!(Finder::default().find(&event(&payload)), Reading::Unparsed);
        }
    }
}
