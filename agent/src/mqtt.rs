//! MQTT 3.1.1 and 5 as a device speaks it: no sockets, no clock.
//!
//! The packets of every message (PUBLISH and its acks, PINGREQ, PINGRESP) are written and read by
//! hand, because they decide what a message costs. What comes from a peer is read without copying
//! by one bounded reader; what a connection says once is written by rumqttc's codec, which is also
//! the oracle of the tests. [`Session`] holds what a session remembers. Invariant: bytes from the
//! peer never panic and never make us allocate more than one bounded packet.

pub(crate) mod encode;
pub(crate) mod filter;
pub(crate) mod incoming;
mod reader;
mod reason;
pub(crate) mod session;

pub(crate) use self::incoming::{Broken, Message, Rules, Step, Welcome};
pub(crate) use self::reader::UserProperties;
pub(crate) use self::reason::Refusal;
pub(crate) use self::session::{Event, Open, Session, What};

#[cfg(test)]
mod tests;
