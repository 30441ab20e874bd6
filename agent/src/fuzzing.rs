//! What a hostile peer can reach, for `fuzz/` only (`--features fuzzing`).

use bytes::BytesMut;
use shoal_domain::plan::Protocol;

use crate::kafka::{self, FetchReader, Fetched};
use crate::mqtt::{Rules, Session};
use crate::nats::{self, Said, Standing};
use crate::sparkplug;
use crate::websocket::Unwrapper;

/// A broker's bytes, in pieces of any size; the first byte chooses what the device expects.
pub fn mqtt(data: &[u8]) {
    let Some((&[choice, piece], bytes)) = data.split_first_chunk() else { return };
    let protocol = if choice & 1 == 0 { Protocol::V3 } else { Protocol::V5 };
    let rules = Rules { protocol, max_packet: 1_000, expects_messages: choice & 2 == 0 };
    let (mut session, mut answers) = (Session::new(rules), Vec::new());
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        if session.receive(piece, &mut answers, |_| {}).is_err() {
            return;
        }
    }
}

/// Frames of a server, in pieces of any size.
pub fn web_socket(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let mut unwrapper = Unwrapper::default();
    for piece in bytes.chunks(usize::from(*piece).max(1)) {
        if unwrapper.unwrap(&mut piece.to_vec(), [1; 4], &mut Vec::new()).is_err() {
            return;
        }
    }
}

/// A command to an edge node.
pub fn sparkplug(data: &[u8]) {
    let _ = sparkplug::asks_for_rebirth(data);
}

/// What a Kafka broker answers, whatever was asked.
pub fn kafka(data: &[u8]) {
    let mut nobody = |_: Fetched<'_>| {};
    for version in 4..=11 {
        let _ = FetchReader::new(version).read(&mut BytesMut::from(data), &mut nobody);
    }
    let _ = (kafka::read_versions(data), kafka::read_metadata(data, 7, "out"));
    let _ = (kafka::read_list_offsets(data, 2), kafka::read_handshake(data));
    let _ = kafka::read_authenticate(data);
}

/// What a NATS server says, one thing after the other.
pub fn nats(mut data: &[u8]) {
    while let Ok(Some((said, n))) = nats::read(data) {
        if let Said::Message(message) = said {
            let _ = (message.headers.iter().count(), message.headers.status());
            let _ = (message.headers.get("name"), Standing::read(message.reply));
        }
        data = &data[n..];
    }
}
