//! MQTT 3.1.1 as a device speaks it: no sockets, no clock.
//!
//! The packets of every message (PUBLISH out, PUBACK in, PINGREQ, PINGRESP) are written and read by
//! hand, because they decide what a message costs; the two of every connection use rumqttc's codec,
//! which is also the oracle of the tests. [`Session`] holds what a connection remembers. Invariant:
//! bytes from the peer never panic and never make us allocate more than one small packet.

pub(crate) mod encode;
pub(crate) mod incoming;
pub(crate) mod session;

pub(crate) use self::incoming::Refusal;
pub(crate) use self::session::{Event, Open, Session};

#[cfg(test)]
mod tests;
