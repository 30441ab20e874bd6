//! The connection of a device: what it waits for and what moves it on.
//!
//! Each attempt is one `sent` of the group's connect series at its TCP connect; how it ends is in
//! `ending.rs`. Polling stops only where the task is registered for the link's next event.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use shoal_domain::outcome::ErrorClass;
use shoal_domain::schedule::Presence;

use super::super::certificates;
use super::super::core::Core;
use super::super::dial::Route;
use super::super::gate::Ticket;
use super::super::transport::Transport;
use super::renewing::renewal_us;
use super::{Device, Heard, Lost, Standing};
use crate::mqtt::encode;

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
        dial: Pin<Box<dyn Future<Output = Result<Transport, Lost>>>>,
    },
    /// CONNECT is sent.
    Greeting {
        attempt: Attempt,
        transport: Transport,
    },
    Up(Transport),
    /// For good.
    Down,
}

pub(super) struct Attempt {
    pub(super) intended_us: u64,
    pub(super) began_us: u64,
    _ticket: Ticket,
}

impl Device {
    /// Does what the link is ready for, until it is registered for its next event.
    pub(super) fn drive_link(&mut self, core: &Rc<Core>, cx: &mut Context<'_>) -> Heard {
        // What every read so far has brought, if anything was read and nothing else was done.
        let mut heard = None;
        loop {
            match &mut self.link {
                Link::Resting { .. } | Link::Down => return Heard::Other,
                Link::Queued { intended_us, turn } => {
                    let intended_us = *intended_us;
                    let Poll::Ready(ticket) = turn.as_mut().poll(cx) else { return Heard::Other };
                    self.begin_attempt(core, intended_us, ticket);
                }
                Link::Dialing { dial, .. } => match dial.as_mut().poll(cx) {
                    Poll::Pending => return Heard::Other,
                    Poll::Ready(Ok(transport)) => self.greet(core, transport),
                    Poll::Ready(Err(lost)) => self.attempt_failed(core, lost, false),
                },
                Link::Greeting { transport, .. } | Link::Up(transport) => {
                    if self.blocked && transport.poll_write_ready(cx).is_ready() {
                        self.flush(core);
                        heard = Some(Heard::Other);
                        continue;
                    }
                    let mut buffer = core.read_buffer.borrow_mut();
                    let result = match transport.poll_read(cx, &mut buffer) {
                        Poll::Pending => return heard.unwrap_or(Heard::Other),
                        Poll::Ready(Ok(0)) => Err(Lost {
                            class: ErrorClass::ConnectionLost,
                            text: "the peer closed the connection".to_owned(),
                        }),
                        Poll::Ready(Ok(n)) => self.received(core, &buffer[..n]),
                        Poll::Ready(Err(error)) => Err(Lost::broken(&error)),
                    };
                    drop(buffer);
                    match result {
                        Ok(Heard::AcksOnly) if !self.awaits_an_ack() => {
                            heard.get_or_insert(Heard::AcksOnly);
                        }
                        Ok(_) => {
                            heard = Some(Heard::Other);
                            self.pump(core);
                        }
                        Err(lost) => {
                            heard = Some(Heard::Other);
                            self.lost(core, lost);
                        }
                    }
                }
            }
        }
    }

    /// Whether something other than time may come with the next ack: a slot's turn, or its leave.
    fn awaits_an_ack(&self) -> bool {
        self.book.has_waiting() || self.leave_by_us.is_some()
    }

    /// Deadlines of the link. Whether it was replaced.
    pub(super) fn link_on_time(&mut self, core: &Rc<Core>, now: u64) -> bool {
        let is_awaited = self.standing == Standing::Starting && self.presence == Presence::In;
        if is_awaited && now >= self.connect_by_us(core) {
            self.too_late(core);
            return true;
        }
        if now >= self.renew_us {
            self.renew(core, now);
        }
        if self.leave_on_time(core, now) {
            return true;
        }
        match &self.link {
            Link::Resting { until_us } if now >= *until_us => {
                let intended_us = *until_us;
                self.queue(core, intended_us);
                true
            }
            Link::Dialing { attempt, .. } | Link::Greeting { attempt, .. }
                if now >= attempt.began_us + self.target(core).connect_timeout_us =>
            {
                let patience = Duration::from_micros(self.target(core).connect_timeout_us);
                let text = format!("no CONNACK within {patience:?}");
                let lost = Lost { class: ErrorClass::ConnectTimeout, text };
                self.attempt_failed(core, lost, true);
                true
            }
            Link::Up(_) => self.keep_alive(core, now),
            _ => false,
        }
    }

    pub(super) fn link_wake_us(&self, core: &Core) -> u64 {
        let by = match (self.standing, self.presence) {
            (Standing::Starting, Presence::In) => self.connect_by_us(core),
            _ => u64::MAX,
        };
        by.min(match &self.link {
            Link::Resting { until_us } => *until_us,
            Link::Dialing { attempt, .. } | Link::Greeting { attempt, .. } => {
                attempt.began_us + self.target(core).connect_timeout_us
            }
            Link::Up(_) => self.keep_alive_wake_us(core).min(self.renew_us),
            Link::Queued { .. } | Link::Down => u64::MAX,
        })
    }

    fn connect_by_us(&self, core: &Core) -> u64 {
        self.since_us.saturating_add(core.plan.groups[self.group].connect_within_us)
    }

    fn queue(&mut self, core: &Rc<Core>, intended_us: u64) {
        if core.closing.get() || self.leaving || core.control.is_cut() {
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
        if began_us >= self.end_us(core) || !core.control.may_send(boot_us) {
            self.link = Link::Down;
            return;
        }
        let group = &core.plan.groups[self.group];
        let stage = core.plan.stage_of(self.group, intended_us);
        core.recorder.borrow_mut().tally(group.connect, stage).sent += 1;
        core.opened();
        self.n_attempts += 1;
        let attempt = Attempt { intended_us, began_us, _ticket: ticket };
        let route = &core.routes[&group.target];
        let dial: Pin<Box<dyn Future<Output = Result<Transport, Lost>>>> =
            match self.own_tls(core, route) {
                Ok(own) => Box::pin(route.dial(self.ordinal, own)),
                Err(text) => {
                    let lost = Lost { class: ErrorClass::Tls, text };
                    Box::pin(std::future::ready(Err(lost)))
                }
            };
        self.link = Link::Dialing { attempt, dial };
    }

    /// Made once: all connections of a device show the same certificate.
    fn own_tls(&mut self, core: &Core, route: &Route) -> Result<Option<Arc<ClientConfig>>, String> {
        let Some(secure) = &route.secure else { return Ok(None) };
        if self.tls.is_none() {
            let group = &core.plan.groups[self.group];
            let wanted = group.credentials.as_ref().and_then(|login| login.certificate.as_ref());
            let scope = super::scope(core.seed, &core.mark, self.group, &core.secrets);
            let scope = self.identity.scope(group, &scope, self.index);
            let signer = core.signers.get(&self.group);
            let shown = wanted
                .map(|wanted| certificates::of_device(&core.plan, wanted, signer, &scope))
                .transpose()?;
            self.tls = secure.own_config(shown);
        }
        Ok(self.tls.clone())
    }

    /// The transport is up: says CONNECT.
    fn greet(&mut self, core: &Rc<Core>, transport: Transport) {
        let packet = self.hello(core);
        let Link::Dialing { attempt, .. } = std::mem::replace(&mut self.link, Link::Down) else {
            unreachable!("only a dialing device gets a transport")
        };
        self.link = Link::Greeting { attempt, transport };
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

    fn hello(&mut self, core: &Core) -> Result<Vec<u8>, String> {
        let group = &core.plan.groups[self.group];
        let target = self.target(core);
        let scope = super::scope(core.seed, &core.mark, self.group, &core.secrets);
        let boot_us = core.boot_us();
        let unix_s = core.control.control_unix_us(boot_us) / 1_000_000;
        let (username, password) = self
            .identity
            .credentials(group, &scope, self.index, unix_s)
            .map_err(|error| error.to_string())?;
        let will = match &mut self.edge {
            Some(node) => Some(node.will(&self.identity.id, unix_s * 1_000)),
            None => {
                self.identity.will(group, &scope, self.index).map_err(|error| error.to_string())?
            }
        };
        self.renew_us = renewal_us(group, core.run_us(boot_us));
        // Only a session that this device has had in this run is taken up again.
        let is_back = target.keeps_session() && self.standing == Standing::Known;
        encode::connect(&encode::Hello {
            protocol: target.protocol,
            client_id: &self.identity.id,
            keep_alive_s: target.keep_alive_us.div_ceil(1_000_000).min(u64::from(u16::MAX)) as u16,
            clean_start: target.clean_start && !is_back,
            session_expiry_s: target.session_expiry_s,
            max_packet: super::MAX_PACKET,
            username: username.as_deref(),
            password: password.as_deref(),
            will,
        })
        .map_err(|error| error.to_string())
    }
}
