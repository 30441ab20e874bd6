//! Watching a run until it is over: progress down, beats up, through broken connections.
//!
//! The owner's beat is what keeps an owned run alive, so it goes out every 5 s whatever the screen
//! does. A broken stream is opened again for 45 s, less than the 60 s after which the control plane
//! stops a run without an owner; then this process says that it does not know (exit code 4).

use std::time::Duration;

use shoal_proto::v1::{RunProgress, StartRunResponse, StopRunRequest, WatchBeat};
use shoal_service_kit::Backoff;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::client::is_passing;
use crate::error::Error;
use crate::place::Place;
use crate::render::live::Live;

const BEAT_EVERY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(45);

/// What a signal means to whom.
#[derive(Debug)]
pub(super) enum Role {
    /// First signal: graceful stop. Second: abort.
    Owner { token: String, signals: u32 },
    /// A signal ends the watching and nothing else.
    Onlooker,
}

#[derive(Debug)]
pub(super) struct Watching<'a> {
    place: &'a mut Place,
    run: String,
    name: String,
    role: Role,
    live: Live,
    interrupt: Signal,
    terminate: Signal,
    heard: Instant,
}

/// How one stream ended.
enum End {
    Over(i32),
    Broken(Option<Status>),
}

impl<'a> Watching<'a> {
    pub(super) fn own(
        place: &'a mut Place,
        run: &StartRunResponse,
        live: Live,
    ) -> Result<Self, Error> {
        let role = Role::Owner { token: run.owner_token.clone(), signals: 0 };
        Self::new(place, run.run_id.clone(), run.name.clone(), role, live)
    }

    pub(super) fn look_on(place: &'a mut Place, run: String, live: Live) -> Result<Self, Error> {
        Self::new(place, run.clone(), run, Role::Onlooker, live)
    }

    fn new(
        place: &'a mut Place,
        run: String,
        name: String,
        role: Role,
        live: Live,
    ) -> Result<Self, Error> {
        let handler = |kind: SignalKind| {
            signal(kind).map_err(|error| Error::Here {
                what: "the signal handlers",
                why: error.to_string(),
                code: None,
            })
        };
        Ok(Self {
            place,
            run,
            name,
            role,
            live,
            interrupt: handler(SignalKind::interrupt())?,
            terminate: handler(SignalKind::terminate())?,
            heard: Instant::now(),
        })
    }

    /// Returns the run's exit code as the last progress told it.
    pub(super) async fn until_over(mut self) -> Result<i32, Error> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        let mut told = false;
        let outcome = loop {
            match self.stream().await {
                Ok(End::Over(exit_code)) => break Ok(exit_code),
                Ok(End::Broken(Some(status))) if !is_passing(&status) => {
                    break Err(self.place.refused(&status));
                }
                Ok(End::Broken(_)) => {
                    if self.heard.elapsed() >= PATIENCE {
                        break Err(self.lost());
                    }
                    if !told {
                        told = true;
                        self.live.say(
                            "the connection to the control plane broke; trying again for 45 s",
                        );
                    }
                    if let Err(error) = self.pause(backoff.next()).await {
                        break Err(error);
                    }
                    self.place.dial_again().await;
                }
                Err(error) => break Err(error),
            }
        };
        self.live.finish();
        outcome
    }

    fn lost(&self) -> Error {
        Error::LostSight { run: self.name.clone(), server: self.place.name.clone() }
    }

    fn beat(&self) -> WatchBeat {
        let owner_token = match &self.role {
            Role::Owner { token, .. } => token.clone(),
            Role::Onlooker => String::new(),
        };
        WatchBeat { run: self.run.clone(), owner_token }
    }

    async fn stream(&mut self) -> Result<End, Error> {
        // Room for the first beat and one more: if the connection takes no beats it is broken, and
        // beats that cannot go out are worth nothing later.
        let (beats, outgoing) = mpsc::channel(2);
        let _ = beats.try_send(self.beat());
        let mut client = self.place.client.clone();
        let deadline = self.heard + PATIENCE;
        let opening = client.watch(ReceiverStream::new(outgoing));
        tokio::pin!(opening);
        let mut progress = loop {
            tokio::select! {
                opened = timeout_at(deadline, &mut opening) => match opened {
                    Err(_) => return Ok(End::Broken(None)),
                    Ok(Err(status)) => return Ok(End::Broken(Some(status))),
                    Ok(Ok(answer)) => break answer.into_inner(),
                },
                _ = self.interrupt.recv() => self.signalled().await?,
                _ = self.terminate.recv() => self.signalled().await?,
            }
        };
        let mut pace = interval(BEAT_EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => self.signalled().await?,
                _ = self.terminate.recv() => self.signalled().await?,
                _ = pace.tick() => {
                    let _ = beats.try_send(self.beat());
                }
                next = next(&mut progress, self.heard + PATIENCE) => match next {
                    Ok(progress) => {
                        self.heard = Instant::now();
                        progress.name.clone_into(&mut self.name);
                        self.live.show(&progress);
                        if progress.over {
                            return Ok(End::Over(progress.exit_code));
                        }
                    }
                    Err(status) => return Ok(End::Broken(status)),
                },
            }
        }
    }

    /// Waits before the next attempt, still listening to the person.
    async fn pause(&mut self, delay: Duration) -> Result<(), Error> {
        let wait = sleep(delay);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return Ok(()),
                _ = self.interrupt.recv() => self.signalled().await?,
                _ = self.terminate.recv() => self.signalled().await?,
            }
        }
    }

    async fn signalled(&mut self) -> Result<(), Error> {
        let Role::Owner { signals, .. } = &mut self.role else {
            return Err(Error::Detached { run: self.name.clone() });
        };
        *signals += 1;
        let abort = *signals > 1;
        self.live.say(if abort {
            "aborting: sockets are closed now, the run will not be judged"
        } else {
            "stopping: no new sends, open replies are waited for, the run is judged (again: abort)"
        });
        let request = StopRunRequest { run: self.run.clone(), abort };
        let mut client = self.place.client.clone();
        let answer = timeout_at(Instant::now() + BEAT_EVERY, client.stop_run(request)).await;
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) if !is_passing(&status) => Err(self.place.refused(&status)),
            // The wish could not be delivered; without our beats the run stops by itself.
            _ => {
                let name = &self.name;
                self.live.say(&format!("cannot reach the control plane to stop run {name}"));
                if abort { Err(self.lost()) } else { Ok(()) }
            }
        }
    }
}

/// Silence of a stream that is still open counts like a broken one.
async fn next(
    progress: &mut Streaming<RunProgress>,
    deadline: Instant,
) -> Result<RunProgress, Option<Status>> {
    match timeout_at(deadline, progress.message()).await {
        Ok(Ok(Some(progress))) => Ok(progress),
        Ok(Ok(None)) | Err(_) => Err(None),
        Ok(Err(status)) => Err(Some(status)),
    }
}
