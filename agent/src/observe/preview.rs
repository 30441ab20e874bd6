//! One observer without a run: connected as in one, so that a person sees what it would see.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_domain::fields::Reading;
use shoal_domain::ids::{ObserverId, RunId, SeriesId};
use shoal_domain::plan::Plan;
use shoal_domain::stamp::Stamp;
use shoal_service_kit::{Clock as _, SystemClock};

use super::finding::Finder;
use super::reading::Reader;
use super::{Enqueued, Event, Heard, ObserverJob, reader_of};

const TICK: Duration = Duration::from_millis(500);
/// More of an event is not kept.
const MAX_KEPT: usize = 4 * 1024;

pub struct Preview {
    reader: Reader,
    finder: Finder,
    observer: ObserverId,
    of: SeriesId,
    mark: String,
}

/// One event, as it was seen.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Topic, key or path.
    pub place: Vec<u8>,
    /// Its beginning.
    pub value: Vec<u8>,
    pub n_bytes: usize,
    pub is: Is,
    /// By the platform's clock.
    pub enqueued: Option<AppendedAt>,
    pub read_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// Of this run and the series that is observed.
    Ours(Stamp),
    /// Of another run or series.
    Foreign,
    Unparsed,
}

#[derive(Debug, Clone, Copy)]
pub struct AppendedAt {
    pub partition: u32,
    /// `None`: the topic keeps its writers' times.
    pub us: Option<u64>,
}

impl Preview {
    /// Connects; everything that is wrong is one sentence.
    pub async fn open(
        plan: Arc<Plan>,
        observer: ObserverId,
        (run, seed): (RunId, u64),
        secrets: Arc<BTreeMap<String, String>>,
        builtin: Option<SocketAddr>,
    ) -> Result<Self, String> {
        let of = plan.observers[observer.index()].of;
        let job = ObserverJob { secrets, builtin, ..ObserverJob::alone(plan, observer, run, seed) };
        let mut reader = reader_of(&job).await.map_err(|refusal| refusal.why)?;
        reader.open().await?;
        Ok(Self { reader, finder: Finder::new(&job), observer, of, mark: run.mark() })
    }

    /// By partition: the number of the next event. Empty where a source has none.
    pub fn positions(&self) -> Vec<(u32, u64)> {
        let positions = self.reader.positions(self.observer);
        positions.iter().map(|(_, partition, next)| (partition, next)).collect()
    }

    /// Waits for what comes next. Cancel safe.
    pub async fn look(&mut self) -> Result<Vec<Sight>, String> {
        let mut seen = Vec::new();
        let Self { reader, finder, of, mark, .. } = self;
        let read = reader.read(|heard| {
            if let Heard::Event(event) = heard {
                seen.push(sight(&event, finder.find(&event), *of, mark));
            }
        });
        match tokio::time::timeout(TICK, read).await {
            Ok(read) => read?,
            Err(_) => reader.keep_alive().await?,
        }
        Ok(seen)
    }

    pub async fn close(mut self) {
        self.reader.close().await;
    }
}

fn sight(event: &Event<'_>, reading: Reading, of: SeriesId, mark: &str) -> Sight {
    let is_ours = |stamp: &Stamp| stamp.series == of && format!("{:08x}", stamp.run) == mark;
    let is = match reading {
        Reading::Message(stamp) if is_ours(&stamp) => Is::Ours(stamp),
        Reading::Message(_) | Reading::Foreign => Is::Foreign,
        Reading::Unparsed => Is::Unparsed,
    };
    let enqueued = match event.enqueued {
        Enqueued::Never => None,
        Enqueued::Unstamped => Some(AppendedAt { partition: 0, us: None }),
        Enqueued::At { us, partition, .. } => Some(AppendedAt { partition, us: Some(us) }),
    };
    Sight {
        place: event.place.to_vec(),
        value: event.payload[..event.payload.len().min(MAX_KEPT)].to_vec(),
        n_bytes: event.payload.len(),
        is,
        enqueued,
        read_us: SystemClock.unix_us(),
    }
}
