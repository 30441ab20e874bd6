//! The life of an HTTP device, from its first connection to its goodbye.
//!
//! Everything here belongs to the device's one task; cells instead of `&mut`, because with HTTP/2
//! several requests of the same device are on their way at once.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use shoal_domain::cookies::CookieJar;
use shoal_domain::ids::SeriesId;
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{Behaviour, Group, HttpTarget, Leave, Step};
use shoal_domain::reply::Captured;
use shoal_domain::schedule::Presence;
use shoal_domain::template::Walks;

use super::super::certificates;
use super::super::core::Core;
use super::super::dial::Route;
use super::connection::Connection;
use super::recipe::{GroupRecipes, Recipe};
use super::{Device, Failed, Phase, Standing};

pub(super) struct Life {
    pub(super) core: Rc<Core>,
    pub(super) device: Rc<Device>,
    pub(super) connection: RefCell<Option<Rc<Connection>>>,
    /// What only this device's TLS connections use.
    own_tls: OnceCell<Option<Arc<ClientConfig>>>,
    /// No attempt to connect before this run time.
    pub(super) rest_until_us: Cell<u64>,
    /// Only one of its requests connects at a time.
    pub(super) connecting: tokio::sync::Mutex<()>,
    /// Attempts since the connection was last up, for the back-off.
    pub(super) tries: Cell<u32>,
    /// All attempts so far: what the random part of the back-off depends on.
    pub(super) n_attempts: Cell<u64>,
    /// Requests that were handed to a connection.
    pub(super) n_sent: Cell<u64>,
    /// Tasks that it has begun.
    pub(super) round: Cell<u64>,
    /// It has not logged in yet, or said goodbye since.
    is_new: Cell<bool>,
    pub(super) captured: RefCell<Vec<Option<Captured>>>,
    pub(super) cookies: RefCell<CookieJar>,
    pub(super) streams: RefCell<Vec<Stream>>,
}

/// What a device remembers of one of its series.
pub(super) struct Stream {
    pub(super) series: SeriesId,
    /// Requests handed to a connection.
    pub(super) n: u32,
    pub(super) walks: Walks,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Done {
    Passed,
    Failed(Failed),
}

impl Life {
    pub(super) fn new(core: Rc<Core>, device: Rc<Device>) -> Self {
        let captures = core.plan.groups[device.group].captures.len();
        Self {
            own_tls: OnceCell::new(),
            connection: RefCell::new(None),
            rest_until_us: Cell::new(0),
            connecting: tokio::sync::Mutex::default(),
            tries: Cell::new(0),
            n_attempts: Cell::new(0),
            n_sent: Cell::new(0),
            round: Cell::new(0),
            is_new: Cell::new(true),
            captured: RefCell::new(vec![None; captures]),
            cookies: RefCell::default(),
            streams: RefCell::default(),
            core,
            device,
        }
    }

    pub(super) fn group(&self) -> &Group {
        &self.core.plan.groups[self.device.group]
    }

    pub(super) fn target(&self) -> &HttpTarget {
        let target = &self.core.plan.targets[self.group().target];
        target.http().expect("an HTTP device is for an HTTP target")
    }

    /// Made once: all connections of a device show the same certificate.
    pub(super) fn own_tls(&self, route: &Route) -> Result<Option<Arc<ClientConfig>>, String> {
        let Some(secure) = &route.secure else { return Ok(None) };
        if let Some(made) = self.own_tls.get() {
            return Ok(made.clone());
        }
        let core = &self.core;
        let wanted = self.group().credentials.as_ref();
        let wanted = wanted.and_then(|login| login.certificate.as_ref());
        let signer = core.signers.get(&self.device.group);
        let scope = self.scope(&[]);
        let shown = wanted
            .map(|wanted| certificates::of_device(&core.plan, wanted, signer, &scope))
            .transpose()?;
        Ok(self.own_tls.get_or_init(|| secure.own_config(shown)).clone())
    }

    pub(super) fn recipes(&self) -> &GroupRecipes {
        self.core.kitchen.of(self.device.group)
    }

    /// Visit after visit, as its calendar says, until its load has ended.
    pub(super) async fn live(&self) {
        while self.visit_begins().await {
            let by_us = std::cell::Cell::new(u64::MAX);
            tokio::select! {
                biased;
                () = self.visit() => {}
                () = self.is_taken(&by_us) => {
                    let failed = Failed::new(ErrorClass::OpenAtEnd, "no answer before its device left");
                    self.device.end_all(&self.core, &failed);
                }
            }
            if self.device.phase.get() >= Phase::Closing {
                break;
            }
            self.device.set_connected(&self.core, false);
            self.drop_connection();
        }
        self.device.fall_due(&self.core, self.core.now_us());
        self.device.drain(&self.core, crate::recorder::SlotClass::Unsent);
    }

    /// Ready when a visit must end whatever is open: a storm has cut the connection, or those
    /// that the load lets go have had their time.
    async fn is_taken(&self, by_us: &Cell<u64>) {
        loop {
            self.visit_ends().await;
            if self.device.phase.get() >= Phase::Closing {
                // The core's close has a deadline of its own.
                std::future::pending::<()>().await;
            }
            if self.device.presence.get() == Presence::Away(Leave::Cut) {
                return;
            }
            let now = self.core.now_us();
            by_us.set(by_us.get().min(now.saturating_add(self.core.plan.stop_timeout_us)));
            if now >= by_us.get() {
                return;
            }
            self.wait_until(by_us.get()).await;
        }
    }

    /// From its connection to its goodbye.
    async fn visit(&self) {
        if self.device.standing.get() == Standing::Failed || !self.arrive().await {
            return self.class_slots_until_the_end().await;
        }
        if self.is_new.get() {
            if !self.start().await {
                self.drop_connection();
                return self.class_slots_until_the_end().await;
            }
            self.is_new.set(false);
        }
        match &self.group().behaviour {
            Behaviour::Open(_) => self.keep_slots().await,
            Behaviour::Closed(closed) => self.keep_rounds(closed).await,
        }
        let is_storm = matches!(self.device.presence.get(), Presence::Away(_));
        if !is_storm && !self.device.moves.get() {
            self.stop().await;
            self.is_new.set(true);
        }
    }

    /// The first connection of a visit. `false`: there was none in time, or the visit is over.
    async fn arrive(&self) -> bool {
        let within_us = self.group().connect_within_us;
        let by_us = match self.device.standing.get() {
            Standing::Starting => self.device.since_us.get().saturating_add(within_us),
            _ => u64::MAX,
        };
        self.rest_until_us.set(self.rest_until_us.get().max(self.device.since_us.get()));
        let first = async {
            while let Err(failed) = self.ensure_connection().await {
                let is_final = failed.class.is_final_refusal();
                if is_final && self.device.standing.get() == Standing::Starting {
                    return false;
                }
            }
            true
        };
        let in_time = async {
            while self.core.now_us() < by_us {
                self.core.sleep_until(by_us.min(self.device.next_look_us(&self.core))).await;
            }
        };
        // Slots wait for the first connection, but they fall due.
        let slots = async {
            loop {
                self.device.fall_due(&self.core, self.core.now_us());
                self.device.book.borrow_mut().settle();
                self.core.sleep_until(self.device.next_due_us(&self.core)).await;
            }
        };
        tokio::select! {
            biased;
            () = self.visit_ends() => false,
            arrived = first => {
                if !arrived {
                    self.device.give_up(&self.core);
                }
                arrived
            }
            () = in_time => {
                let within = Duration::from_micros(within_us);
                let text = format!("not connected within {within:?} of its start");
                let failed = Failed::answered(ErrorClass::ConnectTimeout, text);
                // An attempt that is on its way ends here.
                self.device.end_all(&self.core, &failed);
                self.device.give_up(&self.core);
                false
            }
            () = slots => false,
        }
    }

    /// `on_start`: a step that fails makes this a failed device.
    async fn start(&self) -> bool {
        let group = self.group();
        for (step, recipe) in group.on_start.iter().zip(&self.recipes().on_start) {
            if self.is_over() {
                return false;
            }
            if let Done::Failed(_) = self.step(step, recipe, 0).await {
                self.device.give_up(&self.core);
                return false;
            }
        }
        true
    }

    /// `on_stop`, after the load; what fails there changes nothing for the device.
    async fn stop(&self) {
        let group = self.group();
        for (step, recipe) in group.on_stop.iter().zip(&self.recipes().on_stop) {
            self.step(step, recipe, 0).await;
        }
    }

    /// One step of a sequence; one whose condition does not hold is passed over.
    pub(super) async fn step(&self, step: &Step, recipe: &Recipe, slot: u64) -> Done {
        if step.when.is_some_and(|index| self.captured.borrow()[index].is_none()) {
            return Done::Passed;
        }
        self.request(step.series, &step.request, recipe, slot, None).await
    }

    /// What a device that has nothing to do still owes: a class for each of its slots.
    async fn class_slots_until_the_end(&self) {
        let device = &self.device;
        while !self.is_over() {
            device.fall_due(&self.core, self.core.now_us());
            self.wait_until(device.next_due_us(&self.core)).await;
        }
    }
}
