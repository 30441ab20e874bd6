//! The other half of `scenario try`: what each observer sees of the messages that were sent.
//!
//! Unlike the devices' half it is the agents' own code: whether a platform's output is understood is
//! the question, not whether something understands it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_agent::observe::preview::{Is, Preview, Sight};
use shoal_domain::ids::{ObserverId, RunId};
use shoal_domain::plan::{Plan, Source};
use shoal_domain::stamp::Stamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::try_out::Steps;
use crate::render::device::payload_text;

/// After the last message was sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen by one observer.
pub(super) struct Seen {
    pub(super) observer: ObserverId,
    pub(super) steps: Steps,
    pub(super) through: bool,
}

/// All observers of a plan, from before the first message on.
pub(super) struct Watching {
    tasks: JoinSet<Seen>,
    /// Whether messages are still to come.
    is_sending: watch::Sender<bool>,
}

impl Watching {
    pub(super) async fn start(
        plan: &Arc<Plan>,
        run: (RunId, u64),
        secrets: &BTreeMap<String, String>,
        builtin: Option<SocketAddr>,
    ) -> Self {
        let (is_sending, sending) = watch::channel(true);
        let mut tasks = JoinSet::new();
        let secrets = Arc::new(secrets.clone());
        for observer in (0..plan.observers.len()).map(|n| ObserverId(n as u32)) {
            let opened =
                Preview::open(Arc::clone(plan), observer, run, Arc::clone(&secrets), builtin).await;
            let mut steps = Steps::default();
            match opened {
                Ok(preview) => {
                    steps.add("reads", place(&plan.observers[observer.index()].source, &preview));
                    tasks.spawn(watch(preview, observer, steps, sending.clone()));
                }
                Err(why) => {
                    steps.add("failed", why);
                    tasks.spawn(async move { Seen { observer, steps, through: false } });
                }
            }
        }
        Self { tasks, is_sending }
    }

    /// Everything was sent. What was seen, in the order of the file.
    pub(super) async fn finish(mut self) -> Vec<Seen> {
        self.is_sending.send_replace(false);
        let mut all = Vec::new();
        while let Some(seen) = self.tasks.join_next().await {
            // One that panicked has said so itself.
            all.extend(seen);
        }
        all.sort_by_key(|seen| seen.observer.0);
        all
    }
}

fn place(source: &Source, preview: &Preview) -> String {
    match source {
        Source::Mqtt(mqtt) => format!("subscribed to {}", mqtt.filter),
        Source::Webhook(webhook) => format!("listens on {}{}", webhook.listen, webhook.path),
        Source::Kafka(kafka) => format!("topic {}, {}", kafka.topic, partitions(preview)),
        Source::Nats(nats) => {
            let from = preview.positions().first().map_or(0, |(_, next)| *next);
            format!("subject {}, from {from}", nats.subject)
        }
        Source::EventHubs(hub) => {
            format!("consumer group {}, {}", hub.consumer_group, partitions(preview))
        }
    }
}

fn partitions(preview: &Preview) -> String {
    let all = preview.positions();
    let each = all.iter().map(|(partition, next)| format!("{partition} from {next}"));
    format!("{} partitions: {}", all.len(), each.collect::<Vec<_>>().join(", "))
}

async fn watch(
    mut preview: Preview,
    observer: ObserverId,
    mut steps: Steps,
    mut sending: watch::Receiver<bool>,
) -> Seen {
    let mut limit: Option<Instant> = None;
    let (mut n_foreign, mut n_unparsed, mut unparsed) = (0_u64, 0_u64, None);
    let through = loop {
        let end = limit.unwrap_or_else(|| Instant::now() + PATIENCE);
        let looked = tokio::select! {
            looked = preview.look() => looked,
            _ = sending.changed(), if limit.is_none() => {
                limit = Some(Instant::now() + PATIENCE);
                continue;
            }
            () = sleep_until(end), if limit.is_some() => {
                let why = format!("none of the messages came out within {PATIENCE:?}");
                steps.add("failed", why);
                break false;
            }
        };
        let seen = match looked {
            Ok(seen) => seen,
            Err(why) => {
                steps.add("failed", why);
                break false;
            }
        };
        for sight in &seen {
            match sight.is {
                Is::Foreign => n_foreign += 1,
                Is::Unparsed => {
                    n_unparsed += 1;
                    unparsed.get_or_insert_with(|| sight.clone());
                }
                Is::Ours(_) => {}
            }
        }
        let ours = |sight: &Sight| match sight.is {
            Is::Ours(stamp) => Some((sight.clone(), stamp)),
            _ => None,
        };
        if let Some((sight, stamp)) = seen.iter().find_map(ours) {
            show(&sight, stamp, &mut steps);
            break true;
        }
    };
    if n_foreign > 0 {
        steps.add("foreign", format!("{n_foreign} events of other runs or series"));
    }
    if let Some(sight) = unparsed {
        let value = payload_text(&sight.value);
        steps.add("unparsed", format!("{n_unparsed} events, like {value}"));
    }
    preview.close().await;
    Seen { observer, steps, through }
}

fn show(sight: &Sight, stamp: Stamp, steps: &mut Steps) {
    let place = payload_text(&sight.place);
    let partition = sight.enqueued.and_then(|at| at.us.map(|_| at.partition));
    let partition = partition.map(|n| format!(", partition {n}")).unwrap_or_default();
    steps.add("event", format!("{} bytes at {place}{partition}", sight.n_bytes));
    steps.add("value", payload_text(&sight.value));
    let Stamp { run, device, incarnation, n, .. } = stamp;
    let found = format!("run {run:08x}, device {device}, incarnation {incarnation}, number {n}");
    steps.add("found", found);
    let apart = |from: u64, to: u64| millis(i128::from(to) - i128::from(from));
    let mut delay = format!("end to end {}", apart(stamp.sent_us, sight.read_us));
    match sight.enqueued.map(|at| at.us) {
        Some(Some(at_us)) => {
            delay += &format!(
                ", by the platform's clock: ingest {}, delivery {}",
                apart(stamp.sent_us, at_us),
                apart(at_us, sight.read_us)
            );
        }
        Some(None) => delay += "; the topic keeps its writers' times: no ingest and delivery delay",
        None => {}
    }
    steps.add("delay", delay);
}

fn millis(us: i128) -> String {
    format!("{}{}.{} ms", if us < 0 { "-" } else { "" }, us.abs() / 1_000, us.abs() % 1_000 / 100)
}
