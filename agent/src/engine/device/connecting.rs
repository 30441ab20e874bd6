//! The connection of a device: attempts, their outcome, the loss of what was up.
//!
//! Each attempt is one `sent` of the group's connect series at its TCP connect; it ends in exactly
//! one of accepted, an error, or open at the end.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use shoal_domain::outcome::ErrorClass;
use shoal_service_kit::Backoff;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::super::core::Core;
use super::super::{dial, gate::Ticket};
use super::{Device, Lost, Standing};
use crate::mqtt::{Event, Refusal, encode};
use crate::recorder::SlotClass;

/// An attempt that takes longer is given up and counted as a time-out.
const ATTEMPT_US: u64 = 10_000_000;

pub(super) enum Link {
    /// No attempt before this run time.
    Resting {
        until_us: u64,
    },
    /// Waiting for the core's connect pace.
    Queued {
        intended_us: u64,
        turn: Pin<Box<dyn Future<Output = Ticket>>>,
    },
    Dialing {
        attempt: Attempt,
        tcp: Pin<Box<dyn Future<Output = std::io::Result<TcpStream>>>>,
    },
    /// CONNECT is sent.
    Greeting {
        attempt: Attempt,
        stream: TcpStream,
    },
    Up(TcpStream),
    /// For good.
    Down,
}

pub(super) struct Attempt {
    intended_us: u64,
    began_us: u64,
    _ticket: Ticket,
}

impl Device {
    /// Does what the link is ready for, until it is registered for its next event.
    pub(super) fn drive_link(&mut self, core: &Rc<Core>, cx: &mut Context<'_>) {
        loop {
            match &mut self.link {
                Link::Resting { .. } | Link::Down => return,
                Link::Queued { intended_us, turn } => {
                    let intended_us = *intended_us;
                    let Poll::Ready(ticket) = turn.as_mut().poll(cx) else { return };
                    self.begin_attempt(core, intended_us, ticket);
                }
                Link::Dialing { tcp, .. } => match tcp.as_mut().poll(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Ok(stream)) => self.greet(core, stream),
                    Poll::Ready(Err(error)) => {
                        let class = dial::class_of(&error);
                        let text = format!("cannot connect: {error}");
                        self.attempt_failed(core, Lost { class, text }, false);
                    }
                },
                Link::Greeting { stream, .. } | Link::Up(stream) => {
                    if self.blocked && stream.poll_write_ready(cx).is_ready() {
                        self.flush(core);
                        continue;
                    }
                    let mut buffer = core.read_buffer.borrow_mut();
                    let mut read = ReadBuf::new(&mut buffer);
                    let result = match Pin::new(stream).poll_read(cx, &mut read) {
                        Poll::Pending => return,
                        Poll::Ready(Ok(())) if read.filled().is_empty() => Err(Lost {
                            class: ErrorClass::ConnectionLost,
                            text: "the peer closed the connection".to_owned(),
                        }),
                        Poll::Ready(Ok(())) => self.received(core, read.filled()),
                        Poll::Ready(Err(error)) => Err(Lost {
                            class: ErrorClass::ConnectionLost,
                            text: format!("the connection broke: {error}"),
                        }),
                    };
                    drop(buffer);
                    match result {
                        Ok(()) => self.pump(core),
                        Err(lost) => self.lost(core, lost),
                    }
                }
            }
        }
    }

    /// Deadlines of the link. Whether it was replaced.
    pub(super) fn link_on_time(&mut self, core: &Rc<Core>, now: u64) -> bool {
        if self.standing == Standing::Starting && now >= self.connect_by_us(core) {
            self.too_late(core);
            return true;
        }
        match &self.link {
            Link::Resting { until_us } if now >= *until_us => {
                let intended_us = *until_us;
                self.queue(core, intended_us);
                true
            }
            Link::Dialing { attempt, .. } | Link::Greeting { attempt, .. }
                if now >= attempt.began_us + ATTEMPT_US =>
            {
                self.attempt_failed(core, timed_out(), true);
                true
            }
            Link::Up(_) => self.keep_alive(core, now),
            _ => false,
        }
    }

    pub(super) fn link_wake_us(&self, core: &Core) -> u64 {
        let by = match self.standing {
            Standing::Starting => self.connect_by_us(core),
            _ => u64::MAX,
        };
        by.min(match &self.link {
            Link::Resting { until_us } => *until_us,
            Link::Dialing { attempt, .. } | Link::Greeting { attempt, .. } => {
                attempt.began_us + ATTEMPT_US
            }
            Link::Up(_) => self.ack_deadline_us.min(self.keep_alive_wake_us(core)),
            Link::Queued { .. } | Link::Down => u64::MAX,
        })
    }

    fn connect_by_us(&self, core: &Core) -> u64 {
        self.start_us.saturating_add(core.plan.groups[self.group].connect_within_us)
    }

    fn queue(&mut self, core: &Rc<Core>, intended_us: u64) {
        if core.closing.get() || core.control.is_cut() {
            self.link = Link::Down;
            return;
        }
        let core = Rc::clone(core);
        let turn = Box::pin(async move {
            let ticket = core.gate.enter().await;
            core.sleep_until(core.gate.reserve(core.now_us())).await;
            ticket
        });
        self.link = Link::Queued { intended_us, turn };
    }

    fn begin_attempt(&mut self, core: &Rc<Core>, intended_us: u64, ticket: Ticket) {
        let boot_us = core.boot_us();
        let began_us = core.run_us(boot_us);
        if began_us >= core.control.end_us() || !core.control.may_send(boot_us) {
            self.link = Link::Down;
            return;
        }
        let group = &core.plan.groups[self.group];
        let stage = core.plan.stage_at(intended_us);
        core.recorder.borrow_mut().tally(group.connect, stage).sent += 1;
        core.opened();
        self.n_attempts += 1;
        let (addr, source) = core.routes[&group.target].path(self.ordinal);
        let attempt = Attempt { intended_us, began_us, _ticket: ticket };
        self.link = Link::Dialing { attempt, tcp: Box::pin(dial::tcp(addr, source)) };
    }

    /// TCP is up: says CONNECT.
    fn greet(&mut self, core: &Rc<Core>, stream: TcpStream) {
        let group = &core.plan.groups[self.group];
        let scope = super::scope(core.seed, &core.mark, self.group, &core.secrets);
        let hello = self.identity.credentials(group, &scope, self.index);
        let packet =
            hello.map_err(|missing| missing.to_string()).and_then(|(username, password)| {
                let keep_alive_s =
                    core.plan.targets[group.target].keep_alive_us.div_ceil(1_000_000);
                encode::connect(&encode::Hello {
                    client_id: &self.identity.id,
                    keep_alive_s: keep_alive_s.min(u64::from(u16::MAX)) as u16,
                    username: username.as_deref(),
                    password: password.as_deref(),
                })
                .map_err(|error| error.to_string())
            });
        let Link::Dialing { attempt, .. } = std::mem::replace(&mut self.link, Link::Down) else {
            unreachable!("only a dialing device gets a stream")
        };
        self.link = Link::Greeting { attempt, stream };
        self.session.reset();
        self.blocked = false;
        self.ping_us = None;
        self.written_us = core.now_us();
        match packet {
            Ok(packet) => {
                self.rest = packet;
                self.flush(core);
            }
            Err(text) => {
                let lost = Lost { class: ErrorClass::Protocol, text };
                self.attempt_failed(core, lost, false);
            }
        }
    }

    fn received(&mut self, core: &Rc<Core>, bytes: &[u8]) -> Result<(), Lost> {
        let now = core.now_us();
        let sends = &core.plan.groups[self.group].sends;
        let mut answer: Option<Result<(), Refusal>> = None;
        let mut pong = false;
        let result = self.session.receive(bytes, |event| match event {
            Event::Acked(open) => super::sending::acked(core, sends, &open, now),
            Event::Accepted => answer = Some(Ok(())),
            Event::Refused(refusal) => answer = Some(Err(refusal)),
            Event::Pong => pong = true,
        });
        if pong {
            self.ping_us = None;
        }
        match answer {
            Some(Ok(())) => self.accepted(core, now),
            Some(Err(refusal)) => {
                let lost = Lost { class: refusal.class, text: refusal.text.to_owned() };
                self.attempt_failed(core, lost, true);
                // The connection is gone; whatever else came on it means nothing.
                return Ok(());
            }
            None => {}
        }
        result.map_err(|broken| Lost { class: ErrorClass::Protocol, text: broken.to_string() })
    }

    fn accepted(&mut self, core: &Core, now: u64) {
        match std::mem::replace(&mut self.link, Link::Down) {
            Link::Greeting { attempt, stream } => {
                self.link = Link::Up(stream);
                core.answered();
                let connect = core.plan.groups[self.group].connect;
                let stage = core.plan.stage_at(attempt.intended_us);
                let mut recorder = core.recorder.borrow_mut();
                let tally = recorder.tally(connect, stage);
                tally.acked += 1;
                tally.response_time.record(now.saturating_sub(attempt.intended_us));
                tally.service_time.record(now.saturating_sub(attempt.began_us));
                recorder.gauge(self.group).connected += 1;
            }
            other => self.link = other,
        }
        self.standing = Standing::Known;
        self.tries = 0;
    }

    /// The attempt ended in an error. `answered`: by the peer or by our patience, so its time is
    /// a sample.
    pub(super) fn attempt_failed(&mut self, core: &Core, lost: Lost, answered: bool) {
        let now = core.now_us();
        let link = std::mem::replace(&mut self.link, Link::Down);
        if let Link::Dialing { attempt, .. } | Link::Greeting { attempt, .. } = link {
            core.answered();
            self.rest = Vec::new();
            let connect = core.plan.groups[self.group].connect;
            let stage = core.plan.stage_at(attempt.intended_us);
            if answered {
                let mut recorder = core.recorder.borrow_mut();
                let tally = recorder.tally(connect, stage);
                tally.response_time.record(now.saturating_sub(attempt.intended_us));
                tally.service_time.record(now.saturating_sub(attempt.began_us));
            }
            core.stalls.generator_error(lost.class);
            self.failed(core, connect, stage, &lost, now);
        }
        if self.standing == Standing::Starting && lost.class.is_final_refusal() {
            self.give_up(core);
        } else {
            self.rest_for_a_while(core, now);
        }
    }

    /// Not up within `connect_within`: the device has failed.
    fn too_late(&mut self, core: &Core) {
        let group = &core.plan.groups[self.group];
        let within = Duration::from_micros(group.connect_within_us);
        let text = format!("not connected within {within:?} of its start");
        let lost = Lost { class: ErrorClass::ConnectTimeout, text };
        match &self.link {
            Link::Dialing { .. } | Link::Greeting { .. } => self.attempt_failed(core, lost, true),
            _ => {}
        }
        self.give_up(core);
    }

    fn give_up(&mut self, core: &Core) {
        self.link = Link::Down;
        self.standing = Standing::Failed;
        core.recorder.borrow_mut().gauge(self.group).failed += 1;
        self.drain(core, SlotClass::NotConnected);
    }

    /// The connection, up or about to be, is gone.
    pub(super) fn lost(&mut self, core: &Core, lost: Lost) {
        if !matches!(self.link, Link::Up(_)) {
            return self.attempt_failed(core, lost, false);
        }
        let now = core.now_us();
        self.rest = Vec::new();
        self.blocked = false;
        self.ping_us = None;
        self.ack_deadline_us = u64::MAX;
        for open in self.session.reset() {
            core.answered();
            let series = core.plan.groups[self.group].sends[usize::from(open.send)].series;
            self.failed(core, series, core.plan.stage_at(open.intended_us), &lost, now);
        }
        core.recorder.borrow_mut().gauge(self.group).connected -= 1;
        self.tries = 0;
        self.drain(core, SlotClass::NotConnected);
        self.rest_for_a_while(core, now);
    }

    /// Waits for the next attempt: full jitter, from this device's own random numbers.
    fn rest_for_a_while(&mut self, core: &Core, now: u64) {
        if core.closing.get() {
            self.link = Link::Down;
            return;
        }
        let pace = core.plan.groups[self.group].reconnect;
        let first = Duration::from_micros(pace.first_us);
        let backoff = Backoff::new(first, Duration::from_micros(pace.max_us));
        let key = [core.seed, self.group as u64, self.index, self.n_attempts];
        let delay = backoff.delay(self.tries, unit_random(&key));
        self.tries = self.tries.saturating_add(1);
        let until_us = now.saturating_add(delay.as_micros() as u64).max(now + 1);
        self.link = Link::Resting { until_us };
    }

    /// Counts what waits for an answer as open at the end, with its time so far as a lower bound.
    pub(super) fn end_open(&mut self, core: &Core, now: u64) {
        let group = &core.plan.groups[self.group];
        let attempt = match &self.link {
            Link::Dialing { attempt, .. } | Link::Greeting { attempt, .. } => {
                Some((group.connect, attempt.intended_us, attempt.began_us))
            }
            _ => None,
        };
        let messages = self.session.reset();
        let of_message = |open: &crate::mqtt::Open| {
            (group.sends[usize::from(open.send)].series, open.intended_us, open.sent_us)
        };
        for (series, intended_us, began_us) in
            attempt.into_iter().chain(messages.iter().map(of_message))
        {
            core.answered();
            let stage = core.plan.stage_at(intended_us);
            let text = "no answer by the end of the run".to_owned();
            let lost = Lost { class: ErrorClass::OpenAtEnd, text };
            self.failed(core, series, stage, &lost, now);
            let mut recorder = core.recorder.borrow_mut();
            let tally = recorder.tally(series, stage);
            tally.censored += 1;
            tally.response_time.record(now.saturating_sub(intended_us));
            tally.service_time.record(now.saturating_sub(began_us));
        }
    }
}

fn timed_out() -> Lost {
    let text = format!("no CONNACK within {} s", ATTEMPT_US / 1_000_000);
    Lost { class: ErrorClass::ConnectTimeout, text }
}

/// A number in `0.0..1.0` that depends on nothing but its key.
fn unit_random(key: &[u64]) -> f64 {
    let mix = |state: u64, word: &u64| {
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (key.iter().fold(0, mix) >> 11) as f64 / (1u64 << 53) as f64
}
