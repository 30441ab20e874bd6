//! The open model over HTTP: slots wait for the connection, and are sent as soon as it takes them.
//!
//! HTTP/1.1 has one request on its way, HTTP/2 up to `max_in_flight`. A server that closes an idle
//! connection is no loss: slots wait while the device connects again, and are not_connected only
//! once that has failed.

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use shoal_domain::schedule::Presence;

use super::super::book::Due;
use super::Standing;
use super::life::Life;
use crate::recorder::SlotClass;

impl Life {
    pub(super) async fn keep_slots(&self) {
        let (core, device) = (&self.core, &self.device);
        let mut running = FuturesUnordered::new();
        loop {
            device.fall_due(core, core.now_us());
            if self.is_over() {
                break;
            }
            let connection = self.connection();
            if connection.is_none() && running.is_empty() && device.book.borrow().has_waiting() {
                self.connect_again().await;
                continue;
            }
            let room = connection.map_or(0, |one| one.capacity(self.group().max_in_flight));
            while running.len() < room {
                let Some(due) = device.book.borrow_mut().take(|_| true) else { break };
                running.push(self.slot(due));
            }
            device.book.borrow_mut().settle();
            tokio::select! {
                biased;
                Some(()) = running.next() => {}
                () = self.wait_until(device.next_due_us(core)) => {}
            }
        }
        // What is due may still leave where there is room for it; the rest the target delayed, or a
        // storm has classed it.
        let room = self.connection().map_or(0, |one| one.capacity(self.group().max_in_flight));
        while running.len() < room {
            let Some(due) = device.book.borrow_mut().take(|_| true) else { break };
            running.push(self.slot(due));
        }
        if !matches!(device.presence.get(), Presence::Away(_)) {
            device.drain(core, SlotClass::Unsent);
        }
        while running.next().await.is_some() {}
    }

    async fn slot(&self, due: Due) {
        let send = &self.group().sends()[due.send];
        let Some(request) = send.http() else { return };
        let recipe = &self.recipes().sends[due.send];
        self.request(send.series, request, recipe, due.slot, Some(due)).await;
    }

    /// One attempt, while slots go on falling due.
    async fn connect_again(&self) {
        let (core, device) = (&self.core, &self.device);
        let attempt = self.ensure_connection();
        let mut attempt = std::pin::pin!(attempt);
        loop {
            device.book.borrow_mut().settle();
            tokio::select! {
                biased;
                result = &mut attempt => {
                    if result.is_err() {
                        device.standing.set(Standing::Away);
                        device.drain(core, SlotClass::NotConnected);
                        self.stay_away().await;
                    }
                    return;
                }
                () = self.wait_until(device.next_due_us(core)) => {
                    if self.is_over() {
                        return;
                    }
                    device.fall_due(core, core.now_us());
                }
            }
        }
    }

    /// Until the back-off is over, whatever falls due is not_connected.
    async fn stay_away(&self) {
        let (core, device) = (&self.core, &self.device);
        while !self.is_over() && core.now_us() < self.rest_until_us.get() {
            let next_us = device.next_due_us(core);
            self.wait_until(next_us.min(self.rest_until_us.get())).await;
            device.fall_due(core, core.now_us());
        }
        device.standing.set(Standing::Known);
    }
}
