//! Requests and the small responses.

use std::collections::BTreeMap;

use super::wire::{Cursor, Malformed, put_count, put_text};

/// What is asked of a broker, with the versions that are written and read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Fetch,
    ListOffsets,
    Metadata,
    SaslHandshake,
    Versions,
    SaslAuthenticate,
}

impl Api {
    /// Key, oldest and newest version.
    const fn facts(self) -> (i16, i16, i16) {
        match self {
            Self::Fetch => (1, 4, 11),
            Self::ListOffsets => (2, 1, 3),
            Self::Metadata => (3, 4, 7),
            Self::SaslHandshake => (17, 1, 1),
            Self::Versions => (18, 0, 0),
            Self::SaslAuthenticate => (36, 0, 0),
        }
    }
}

/// What a broker must be at least, for sentences.
pub(crate) const OLDEST: &str = "Kafka 0.11";

/// The versions that both sides know, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Versions(BTreeMap<i16, (i16, i16)>);

impl Versions {
    /// The newest version in common.
    pub(crate) fn of(&self, api: Api) -> Option<i16> {
        let (key, oldest, newest) = api.facts();
        let (low, high) = self.0.get(&key)?;
        let version = newest.min(*high);
        (version >= oldest.max(*low)).then_some(version)
    }
}

/// Appends a message with this body; its correlation is what its response begins with.
fn message(
    out: &mut Vec<u8>,
    (api, version, correlation): (Api, i16, i32),
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(api.facts().0.to_be_bytes());
    out.extend(version.to_be_bytes());
    out.extend(correlation.to_be_bytes());
    put_text(out, "shoal");
    body(out);
    let length = (out.len() - start - 4) as i32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

pub(crate) fn api_versions(out: &mut Vec<u8>, correlation: i32) {
    message(out, (Api::Versions, 0, correlation), |_| {});
}

pub(crate) fn read_versions(body: &[u8]) -> Result<Versions, Malformed> {
    let mut body = Cursor::new(body);
    // An error still says which versions there are.
    body.i16()?;
    let mut versions = BTreeMap::new();
    for _ in 0..body.count()? {
        versions.insert(body.i16()?, (body.i16()?, body.i16()?));
    }
    Ok(Versions(versions))
}

pub(crate) fn handshake(out: &mut Vec<u8>, correlation: i32, mechanism: &str) {
    message(out, (Api::SaslHandshake, 1, correlation), |out| put_text(out, mechanism));
}

/// `Err`: the mechanisms that the broker knows instead.
pub(crate) fn read_handshake(body: &[u8]) -> Result<Result<(), String>, Malformed> {
    let mut body = Cursor::new(body);
    let error = body.i16()?;
    let mut known = Vec::new();
    for _ in 0..body.count()? {
        known.push(body.text()?.to_owned());
    }
    Ok(if error == 0 { Ok(()) } else { Err(known.join(", ")) })
}

pub(crate) fn authenticate(out: &mut Vec<u8>, correlation: i32, token: &[u8]) {
    message(out, (Api::SaslAuthenticate, 0, correlation), |out| {
        put_count(out, token.len());
        out.extend(token);
    });
}

/// What the broker says to the token; `Err`: why it refuses.
pub(crate) fn read_authenticate(body: &[u8]) -> Result<Result<Vec<u8>, String>, Malformed> {
    let mut body = Cursor::new(body);
    let error = body.i16()?;
    let why = body.text()?;
    let token = body.bytes()?;
    Ok(match error {
        0 => Ok(token.to_vec()),
        error if why.is_empty() => Err(sentence(error)),
        _ => Err(why.to_owned()),
    })
}

pub(crate) fn metadata(out: &mut Vec<u8>, version: i16, correlation: i32, topic: &str) {
    message(out, (Api::Metadata, version, correlation), |out| {
        put_count(out, 1);
        put_text(out, topic);
        // A topic that does not exist is a mistake, not an order.
        out.push(0);
    });
}

/// Who leads which partitions of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) error: i16,
    pub(crate) partitions: BTreeMap<u32, Leader>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leader {
    At {
        host: String,
        port: u16,
    },
    /// There is none just now; the code says why.
    Missing(i16),
}

pub(crate) fn read_metadata(body: &[u8], version: i16, topic: &str) -> Result<Metadata, Malformed> {
    let mut body = Cursor::new(body);
    let body = &mut body;
    body.i32()?;
    let mut brokers = BTreeMap::new();
    for _ in 0..body.count()? {
        let (id, host, port) = (body.i32()?, body.text()?.to_owned(), body.i32()?);
        let port = u16::try_from(port).map_err(|_| Malformed::Bad("a port is out of range"))?;
        body.text()?;
        brokers.insert(id, Leader::At { host, port });
    }
    body.text()?;
    body.i32()?;
    let mut found = Metadata::default();
    for _ in 0..body.count()? {
        let error = body.i16()?;
        let is_meant = body.text()? == topic;
        body.i8()?;
        if is_meant {
            found.error = error;
        }
        for _ in 0..body.count()? {
            let (error, partition, leader) = (body.i16()?, body.i32()?, body.i32()?);
            if version >= 7 {
                body.i32()?;
            }
            // Replicas, those in sync, those that are away.
            for _ in 0..if version >= 5 { 3 } else { 2 } {
                let n = body.count()?;
                body.take(n.saturating_mul(4))?;
            }
            let partition =
                u32::try_from(partition).map_err(|_| Malformed::Bad("a partition below 0"))?;
            if is_meant {
                let leader = brokers.get(&leader).cloned();
                found.partitions.insert(partition, leader.unwrap_or(Leader::Missing(error)));
            }
        }
    }
    Ok(found)
}

/// Which offset of a partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    Earliest,
    Latest,
}

pub(crate) fn list_offsets(
    out: &mut Vec<u8>,
    version: i16,
    correlation: i32,
    topic: &str,
    partitions: &[(u32, Listed)],
) {
    message(out, (Api::ListOffsets, version, correlation), |out| {
        out.extend((-1_i32).to_be_bytes());
        if version >= 2 {
            out.push(READ_COMMITTED);
        }
        put_count(out, 1);
        put_text(out, topic);
        put_count(out, partitions.len());
        for (partition, listed) in partitions {
            out.extend(partition.to_be_bytes());
            let at: i64 = if *listed == Listed::Latest { -1 } else { -2 };
            out.extend(at.to_be_bytes());
        }
    });
}

/// By partition: the offset, or the code of an error.
pub(crate) fn read_list_offsets(
    body: &[u8],
    version: i16,
) -> Result<BTreeMap<u32, Result<u64, i16>>, Malformed> {
    let mut body = Cursor::new(body);
    if version >= 2 {
        body.i32()?;
    }
    let mut found = BTreeMap::new();
    for _ in 0..body.count()? {
        body.text()?;
        for _ in 0..body.count()? {
            let (partition, error) = (body.u32()?, body.i16()?);
            body.i64()?;
            let offset = u64::try_from(body.i64()?);
            let offset = match (error, offset) {
                (0, Ok(offset)) => Ok(offset),
                (0, Err(_)) => return Err(Malformed::Bad("an offset below 0")),
                (error, _) => Err(error),
            };
            found.insert(partition, offset);
        }
    }
    Ok(found)
}

/// Events of transactions that are not committed are nobody's to see.
const READ_COMMITTED: u8 = 1;

/// How long a broker holds a fetch back while there is nothing new.
const MAX_WAIT_MS: i32 = 500;
const MAX_BYTES: i32 = 16 * 1024 * 1024;
const MAX_PARTITION_BYTES: i32 = 1024 * 1024;

pub(crate) fn fetch(
    out: &mut Vec<u8>,
    version: i16,
    correlation: i32,
    topic: &str,
    partitions: impl ExactSizeIterator<Item = (u32, u64)>,
) {
    message(out, (Api::Fetch, version, correlation), |out| {
        out.extend((-1_i32).to_be_bytes());
        out.extend(MAX_WAIT_MS.to_be_bytes());
        out.extend(1_i32.to_be_bytes());
        out.extend(MAX_BYTES.to_be_bytes());
        out.push(READ_COMMITTED);
        if version >= 7 {
            // No session: each fetch says everything.
            out.extend(0_i32.to_be_bytes());
            out.extend((-1_i32).to_be_bytes());
        }
        put_count(out, 1);
        put_text(out, topic);
        put_count(out, partitions.len());
        for (partition, offset) in partitions {
            out.extend(partition.to_be_bytes());
            if version >= 9 {
                out.extend((-1_i32).to_be_bytes());
            }
            out.extend((offset as i64).to_be_bytes());
            if version >= 5 {
                out.extend((-1_i64).to_be_bytes());
            }
            out.extend(MAX_PARTITION_BYTES.to_be_bytes());
        }
        if version >= 7 {
            put_count(out, 0);
        }
        if version >= 11 {
            put_text(out, "");
        }
    });
}

/// What an error code of a broker says.
pub(crate) fn sentence(code: i16) -> String {
    let text = match code {
        1 => "the offset is out of range",
        3 => "there is no such topic or partition",
        5 => "the partition has no leader just now",
        6 => "the broker does not lead the partition any more",
        7 => "the broker ran out of time",
        9 => "a replica is not there",
        29 => "no permission to read the topic",
        31 => "no permission in the cluster",
        33 => "the broker does not know the SASL mechanism",
        34 => "the broker wants another login first",
        35 => "the broker does not know this version of the request",
        54 => "the login is refused",
        58 => "the login is refused: check username and password",
        76 => "the topic is compressed in a way that this version of the protocol cannot ask for",
        _ => return format!("the broker answered with error code {code}"),
    };
    text.to_owned()
}
