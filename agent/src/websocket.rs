//! WebSocket as MQTT needs it: a client's handshake and frames, without sockets.
//!
//! What frames carry is one stream of bytes, so nothing is kept of a frame but its header and how
//! much of it is still to come. Bytes are unwrapped where they were read to. Invariant: whatever a
//! peer sends, we hold at most one header and one control frame.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};

/// A longer head is no answer to our handshake.
pub(crate) const MAX_HEAD: usize = 8 * 1024;
/// RFC 6455, 5.5.
const MAX_CONTROL: usize = 125;
/// RFC 6455, 1.3.
const ACCEPT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the peer did not answer the WebSocket handshake with HTTP")]
    NoHttp,
    #[error("the peer answered the WebSocket handshake with {0}")]
    Status(String),
    #[error("the peer sends WebSocket connections elsewhere: {0}")]
    Elsewhere(String),
    #[error("the peer's WebSocket handshake lacks a valid {0}")]
    Header(&'static str),
    #[error("the peer sent a WebSocket frame that is not allowed here: {0}")]
    Frame(&'static str),
}

/// The handshake's request; `key` is drawn for each connection.
pub(crate) fn request(host: &str, path: &str, key: [u8; 16]) -> Vec<u8> {
    let key = BASE64.encode(key);
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
    .into_bytes()
}

/// The length of the handshake's answer; `None` while it is not complete.
pub(crate) fn answer(bytes: &[u8], key: [u8; 16]) -> Result<Option<usize>, Broken> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        let is_hopeless = bytes.len() > MAX_HEAD || !b"HTTP/1.1 ".starts_with(first(bytes, 9));
        return if is_hopeless { Err(Broken::NoHttp) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| Broken::NoHttp)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.ok_or(Broken::NoHttp)?;
    let header = |name: &str| {
        let named = |line: &&str| {
            line.split_once(':').is_some_and(|(found, _)| found.trim().eq_ignore_ascii_case(name))
        };
        head.split("\r\n").skip(1).find(named).and_then(|line| Some(line.split_once(':')?.1.trim()))
    };
    if !status.starts_with("101") {
        return Err(match header("location") {
            Some(location) if status.starts_with('3') => Broken::Elsewhere(short(location)),
            _ => Broken::Status(short(status)),
        });
    }
    if !header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Err(Broken::Header("Upgrade"));
    }
    if header("sec-websocket-accept") != Some(&*accepted(&BASE64.encode(key))) {
        return Err(Broken::Header("Sec-WebSocket-Accept"));
    }
    if header("sec-websocket-protocol").is_some_and(|value| value != "mqtt") {
        return Err(Broken::Header("Sec-WebSocket-Protocol"));
    }
    Ok(Some(end + 4))
}

fn accepted(key: &str) -> String {
    BASE64.encode(Sha1::new().chain_update(key).chain_update(ACCEPT).finalize())
}

/// What a server says that takes a handshake with this key.
#[cfg(test)]
pub(crate) fn accepting(key: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        accepted(key)
    )
}

fn first(bytes: &[u8], n: usize) -> &[u8] {
    &bytes[..n.min(bytes.len())]
}

fn short(text: &str) -> String {
    text.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Appends `payload` as one binary frame.
pub(crate) fn frame(out: &mut Vec<u8>, payload: &[u8], mask: [u8; 4]) {
    wrap(out, BINARY, payload, mask);
}

fn wrap(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: [u8; 4]) {
    out.push(0x80 | opcode);
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=65_535 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    for (byte, mask) in out[start..].iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// The frames of a server, in whatever pieces they come.
#[derive(Debug, Default)]
pub(crate) struct Unwrapper {
    /// The beginning of a header.
    header: [u8; 10],
    n_header: u8,
    opcode: u8,
    /// Of the payload of the present frame.
    still: u64,
    control: Vec<u8>,
}

/// What came out of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unwrapped {
    /// Bytes of payload, now at the beginning of the buffer.
    pub(crate) n: usize,
    pub(crate) is_closed: bool,
}

impl Unwrapper {
    /// Moves the payload in `bytes` to their beginning; `answers` gets what pings demand.
    pub(crate) fn unwrap(
        &mut self,
        bytes: &mut [u8],
        mask: [u8; 4],
        answers: &mut Vec<u8>,
    ) -> Result<Unwrapped, Broken> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() {
            if self.still == 0 {
                self.header[usize::from(self.n_header)] = bytes[from];
                self.n_header += 1;
                from += 1;
                if !self.begin()? {
                    continue;
                }
            }
            let n = usize::try_from(self.still).unwrap_or(usize::MAX).min(bytes.len() - from);
            if self.opcode >= CLOSE {
                self.control.extend_from_slice(&bytes[from..from + n]);
            } else {
                bytes.copy_within(from..from + n, to);
                to += n;
            }
            from += n;
            self.still -= n as u64;
            if self.still == 0 && self.opcode >= CLOSE {
                let control = std::mem::take(&mut self.control);
                match self.opcode {
                    CLOSE => {
                        wrap(answers, CLOSE, first(&control, 2), mask);
                        return Ok(Unwrapped { n: to, is_closed: true });
                    }
                    PING => wrap(answers, PONG, &control, mask),
                    _ => {}
                }
            }
        }
        Ok(Unwrapped { n: to, is_closed: false })
    }

    /// Whether the header is complete; then the frame begins.
    fn begin(&mut self) -> Result<bool, Broken> {
        let header = &self.header[..usize::from(self.n_header)];
        let [first, second, length @ ..] = header else { return Ok(false) };
        if second & 0x80 != 0 {
            return Err(Broken::Frame("a masked one"));
        }
        if first & 0x70 != 0 {
            return Err(Broken::Frame("one of an extension"));
        }
        let still = match (second & 0x7f, length) {
            (126, [a, b, ..]) => u64::from(u16::from_be_bytes([*a, *b])),
            (127, [a, b, c, d, e, f, g, h]) => u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
            (126 | 127, _) => return Ok(false),
            (n, _) => u64::from(n),
        };
        self.opcode = first & 0x0f;
        match self.opcode {
            CONTINUATION | BINARY => {}
            TEXT => return Err(Broken::Frame("one of text")),
            CLOSE..=PONG if still > MAX_CONTROL as u64 || first & 0x80 == 0 => {
                return Err(Broken::Frame("a long or divided one of control"));
            }
            CLOSE..=PONG => {}
            _ => return Err(Broken::Frame("one of an unknown kind")),
        }
        self.still = still;
        self.n_header = 0;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 16] = *b"the sample nonce";

    fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0x80 | opcode];
        match payload.len() {
            n @ 0..=125 => out.push(n as u8),
            n => {
                out.push(126);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
        }
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn the_handshake_of_the_standard_is_accepted() {
        // RFC 6455, 1.3: this key belongs to this answer.
        assert!(request("h", "/mqtt", KEY).windows(24).any(|w| w == b"dGhlIHNhbXBsZSBub25jZQ=="));
        let good = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
        assert_eq!(answer(good, KEY), Ok(Some(good.len())));
        assert_eq!(answer(&good[..40], KEY), Ok(None));
        assert_eq!(answer(good, [0; 16]), Err(Broken::Header("Sec-WebSocket-Accept")));
        let refused = answer(b"HTTP/1.1 403 Forbidden\r\n\r\n", KEY).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the peer answered the WebSocket handshake with 403 Forbidden"
        );
        let moved = answer(b"HTTP/1.1 302 Found\r\nLocation: wss://b/\r\n\r\n", KEY);
        assert_eq!(moved, Err(Broken::Elsewhere("wss://b/".to_owned())));
        assert_eq!(answer(&[0x20, 2, 0, 1], KEY), Err(Broken::NoHttp));
        assert_eq!(
            answer(&b"HTTP/1.1 ".iter().copied().chain([b'x'; MAX_HEAD]).collect::<Vec<_>>(), KEY),
            Err(Broken::NoHttp)
        );
    }

    #[test]
    fn pings_are_answered_and_a_close_ends_the_stream() {
        let mut bytes =
            [server_frame(PING, b"hi"), server_frame(BINARY, b"x"), server_frame(CLOSE, &[3, 232])]
                .concat();
        let mut answers = Vec::new();
        let unwrapped = Unwrapper::default().unwrap(&mut bytes, [0; 4], &mut answers).unwrap();
        assert_eq!(unwrapped, Unwrapped { n: 1, is_closed: true });
        assert_eq!(bytes[0], b'x');
        assert_eq!(answers, [0x8a, 0x82, 0, 0, 0, 0, b'h', b'i', 0x88, 0x82, 0, 0, 0, 0, 3, 232]);
    }

    #[test]
    fn frames_that_mqtt_does_not_have_are_refused() {
        for bytes in [
            &[0x81, 1][..],
            &[0x82, 0x81],
            &[0xc2, 1],
            &[0x89, 126, 0, 126],
            &[0x83, 0],
            &[0x09, 1],
        ] {
            let unwrapped =
                Unwrapper::default().unwrap(&mut bytes.to_vec(), [0; 4], &mut Vec::new());
            assert!(unwrapped.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn wherever_the_bytes_are_cut_the_same_stream_comes_out(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            cuts in proptest::collection::vec(1usize..40, 1..30),
        ) {
            let bytes: Vec<u8> = payloads.iter()
                .flat_map(|payload| [server_frame(BINARY, payload), server_frame(PONG, b"")].concat()).collect();
            let (mut unwrapper, mut stream, mut rest) = (Unwrapper::default(), Vec::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                let mut now = now.to_vec();
                let n = unwrapper.unwrap(&mut now, [0; 4], &mut Vec::new()).unwrap().n;
                stream.extend_from_slice(&now[..n]);
                rest = later;
            }
            prop_assert_eq!(stream, payloads.concat());
        }

        #[test]
        fn our_frames_carry_what_they_should(payload in proptest::collection::vec(any::<u8>(), 0..70_000), mask in any::<[u8; 4]>()) {
            let mut out = Vec::new();
            frame(&mut out, &payload, mask);
            let header = match payload.len() { 0..=125 => 2, 126..=65_535 => 4, _ => 10 };
            prop_assert_eq!(out[0], 0x82);
            prop_assert_eq!(&out[header..header + 4], &mask[..]);
            let plain: Vec<u8> = out[header + 4..].iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
            prop_assert_eq!(plain, payload);
        }

        #[test]
        fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..400), pieces in 1usize..50) {
            let mut unwrapper = Unwrapper::default();
            let _ = answer(&garbage, KEY);
            for piece in garbage.chunks(pieces) {
                if unwrapper.unwrap(&mut piece.to_vec(), [1; 4], &mut Vec::new()).is_err() { break }
                prop_assert!(unwrapper.control.len() <= MAX_CONTROL);
            }
        }
    }
}
