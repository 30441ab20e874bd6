//! The uplink: deltas up, acks down, over a connection of its own.
//!
//! What is sent when is decided by [`queue::UplinkQueue`]; here is the socket around it. The stream
//! may come and go as it likes: the queue keeps what has no ack. Invariant: the task ends only when
//! nobody can push any more and everything pushed is stored or unwanted (or on a hard stop).

use std::pin::Pin;
use std::time::Duration;

use futures::{Future, FutureExt};
use shoal_domain::delta::Delta;
use shoal_proto::v1;
use shoal_service_kit::Backoff;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::connection::{Dialer, answer, sentence};

use self::queue::{Acked, Closing, Key, UplinkQueue, run_of};

pub(crate) mod queue;

/// Deltas on their way into the queue. When full the runner waits, and the cores coalesce.
const PUSHES: usize = 16;
/// Messages between queue and socket; the queue's own window is the real bound.
const OUTGOING: usize = queue::MAX_IN_FLIGHT;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// A control plane that takes the stream but never commits is left after this.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);

/// Gives deltas to the uplink; cheap to clone. The uplink ends when the last one is gone.
#[derive(Debug, Clone)]
pub(crate) struct Uplink {
    pushes: mpsc::Sender<Box<Push>>,
}

#[derive(Debug)]
struct Push {
    key: Key,
    delta: Delta,
    closing: Option<Closing>,
}

impl Uplink {
    /// Waits while the uplink is busy; not cancel safe.
    pub(crate) async fn push(&self, key: &Key, delta: Delta) {
        self.give(Push { key: key.clone(), delta, closing: None }).await;
    }

    /// The last delta of an assignment.
    pub(crate) async fn close(&self, key: &Key, delta: Delta, closing: Closing) {
        self.give(Push { key: key.clone(), delta, closing: Some(closing) }).await;
    }

    async fn give(&self, push: Push) {
        // The uplink is gone only after a hard stop, which drops what is left on purpose.
        let _ = self.pushes.send(Box::new(push)).await;
    }
}

pub(crate) struct Actor {
    dialer: Dialer,
    pushes: mpsc::Receiver<Box<Push>>,
    queue: UplinkQueue,
    link: Link,
    backoff: Backoff,
    /// Of the outage that goes on: said once.
    is_outage_logged: bool,
    /// Since when the control plane owes an ack.
    waits_since: Instant,
}

type Opening = Pin<Box<dyn Future<Output = Result<Box<Open>, String>> + Send>>;

enum Link {
    /// Nothing to do: a connection is opened with the first delta.
    Idle,
    Opening(Opening),
    Open(Box<Open>),
}

struct Open {
    outgoing: mpsc::Sender<v1::UploadDelta>,
    acks: Streaming<v1::UploadAck>,
}

/// What woke the actor.
enum Event {
    Pushed(Option<Box<Push>>),
    Opened(Result<Box<Open>, String>),
    Ack(Result<Option<v1::UploadAck>, Status>),
    /// There is room for one more message.
    Room(bool),
    NoAck,
}

pub(crate) fn new(dialer: Dialer) -> (Uplink, Actor) {
    let (sender, pushes) = mpsc::channel(PUSHES);
    let actor = Actor {
        dialer,
        pushes,
        queue: UplinkQueue::new(),
        link: Link::Idle,
        backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
        is_outage_logged: false,
        waits_since: Instant::now(),
    };
    (Uplink { pushes: sender }, actor)
}

impl Actor {
    pub(crate) async fn run(mut self) {
        let mut can_come = true;
        while can_come || !self.queue.is_idle() {
            if matches!(self.link, Link::Idle) && self.queue.has_something_to_send() {
                self.link = Link::Opening(open(self.dialer.clone(), Duration::ZERO));
            }
            match self.next(can_come).await {
                Event::Pushed(Some(push)) => {
                    let Push { key, delta, closing } = *push;
                    if self.queue.is_idle() {
                        self.waits_since = Instant::now();
                    }
                    self.queue.push(&key, &delta, closing.as_ref());
                }
                Event::Pushed(None) => can_come = false,
                Event::Opened(Ok(open)) => {
                    self.link = Link::Open(open);
                    self.waits_since = Instant::now();
                }
                Event::Opened(Err(why)) => self.lost(&why),
                Event::Ack(Ok(Some(ack))) => self.acked(&ack),
                Event::Ack(Ok(None)) => self.lost("the control plane ended the stream"),
                Event::Ack(Err(status)) => self.lost(&answer(&status)),
                Event::Room(true) => self.send_one(),
                Event::Room(false) => self.lost("the stream was cut"),
                Event::NoAck => self.lost("no delta was acknowledged for 60 s"),
            }
        }
        if self.queue.n_coalesced() > 0 {
            let n = self.queue.n_coalesced();
            tracing::warn!(n_coalesced = n, "memory for deltas ran short: windows were merged");
        }
    }

    /// Every branch is cancel safe: a message, ack or permit that is not taken now is taken later.
    async fn next(&mut self, can_come: bool) -> Event {
        let has_more = self.queue.has_something_to_send();
        let waits_for_ack = !self.queue.is_idle();
        let give_up = self.waits_since + ACK_TIMEOUT;
        let pushes = &mut self.pushes;
        match &mut self.link {
            Link::Idle => Event::Pushed(pushes.recv().await),
            Link::Opening(opening) => tokio::select! {
                opened = opening => Event::Opened(opened),
                pushed = pushes.recv(), if can_come => Event::Pushed(pushed),
            },
            Link::Open(open) => tokio::select! {
                ack = open.acks.message() => Event::Ack(ack),
                pushed = pushes.recv(), if can_come => Event::Pushed(pushed),
                room = open.outgoing.reserve(), if has_more => Event::Room(room.is_ok()),
                () = tokio::time::sleep_until(give_up), if waits_for_ack => Event::NoAck,
            },
        }
    }

    fn send_one(&mut self) {
        let Link::Open(open) = &self.link else { return };
        if let Some(message) = self.queue.next_to_send()
            && open.outgoing.try_send(message).is_err()
        {
            self.lost("the stream was cut");
        }
    }

    fn acked(&mut self, ack: &v1::UploadAck) {
        self.backoff.reset();
        self.is_outage_logged = false;
        self.waits_since = Instant::now();
        match self.queue.ack(ack) {
            Acked::Stored | Acked::Unexpected => {}
            Acked::Finished => {
                tracing::info!(
                    run = run_of(&ack.assignment_id),
                    assignment = ack.assignment_id,
                    epoch = ack.epoch,
                    "all deltas stored"
                );
            }
            Acked::Dropped { sent, waiting, run_over } => tracing::warn!(
                run = run_of(&ack.assignment_id),
                assignment = ack.assignment_id,
                epoch = ack.epoch,
                sent,
                waiting,
                run_over,
                "the control plane takes no more deltas of this assignment: they are dropped"
            ),
        }
    }

    fn lost(&mut self, why: &str) {
        self.queue.disconnected();
        if !self.is_outage_logged {
            tracing::warn!(why, "upload stream lost: deltas are kept and sent again");
            self.is_outage_logged = true;
        }
        self.link = Link::Opening(open(self.dialer.clone(), self.backoff.next()));
    }
}

fn open(dialer: Dialer, delay: Duration) -> Opening {
    async move {
        tokio::time::sleep(delay).await;
        let mut client = dialer.dial().await.map_err(|error| sentence(&error))?;
        let (outgoing, receiver) = mpsc::channel(OUTGOING);
        // A server may answer only after the first message; the acks' time-out covers the rest.
        let call = client.upload(dialer.request(ReceiverStream::new(receiver)));
        let called = tokio::time::timeout(Duration::from_secs(10), call).await;
        let called = called.map_err(|_| "no answer to Upload within 10 s".to_owned())?;
        let acks = called.map_err(|status| answer(&status))?.into_inner();
        Ok(Box::new(Open { outgoing, acks }))
    }
    .boxed()
}
