//! The part of the Kafka protocol that a reader of given partitions needs, without a socket.
//!
//! Five requests (versions, login, metadata, offsets, fetch), in the last versions before the
//! protocol grew tagged fields: every broker from 0.11 to the present knows them, and so do Redpanda
//! and Event Hubs. No groups: which partitions are read from where is decided by the control plane.
//! A response to a fetch is read while it comes in, batch by batch, so that no broker decides how much
//! memory it takes. Invariant: whatever the bytes are, they are read to their end or refused.

mod batch;
mod fetch;
mod login;
mod request;
mod unpack;
mod wire;

pub(crate) use self::batch::{Headers, Record, Stamped};
pub(crate) use self::fetch::{FetchReader, Fetched};
pub(crate) use self::login::{Hash, Scram};
pub(crate) use self::request::{
    Api, Leader, Listed, Metadata, OLDEST, Versions, api_versions, authenticate, fetch, handshake,
    list_offsets, metadata, read_authenticate, read_handshake, read_list_offsets, read_metadata,
    read_versions, sentence,
};
pub(crate) use self::wire::{Malformed, frame_length};

#[cfg(test)]
mod tests;
