//! The part of the NATS protocol that a reader of one stream needs, without a socket: what a server
//! says, and where a message of JetStream stands.
//!
//! Invariant: whatever the bytes are, they are read to the end of what they say or refused.

use thiserror::Error;

/// A server names its whole cluster in one line.
const MAX_LINE: usize = 1024 * 1024;
/// The most that a server can be configured for.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
const VERSION_LINE: &[u8] = b"NATS/1.0";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Malformed {
    #[error("what answers does not speak NATS")]
    NotNats,
    #[error("a line of more than a mebibyte")]
    Line,
    #[error("a message of more than 64 MiB")]
    Message,
    #[error("a message whose lengths do not fit")]
    Length,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said<'b> {
    Info(&'b [u8]),
    Ok,
    Ping,
    Pong,
    Error(String),
    Message(Message<'b>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message<'b> {
    pub(crate) subject: &'b [u8],
    /// The number of the subscription that it is for.
    pub(crate) sid: u64,
    pub(crate) reply: &'b [u8],
    pub(crate) headers: Headers<'b>,
    pub(crate) payload: &'b [u8],
}

/// Lines behind the version line, which may carry a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Headers<'b>(&'b [u8]);

impl<'b> Headers<'b> {
    pub(crate) fn iter(self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> {
        self.0.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b':')?;
            Some((line[..at].trim_ascii(), line[at + 1..].trim_ascii()))
        })
    }

    pub(crate) fn get(self, name: &str) -> Option<&'b [u8]> {
        self.iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Of a message that says something of its own: code and words.
    pub(crate) fn status(self) -> Option<(u16, String)> {
        let line = self.0.split(|byte| *byte == b'\n').next()?.strip_prefix(VERSION_LINE)?;
        let line = String::from_utf8_lossy(line.trim_ascii()).into_owned();
        let (code, words) = line.split_once(' ').unwrap_or((&line, ""));
        Some((code.parse().ok()?, words.to_owned()))
    }
}

/// The first thing in `bytes` and its length; `None` while it is not all there.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, Malformed> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() >= MAX_LINE { Err(Malformed::Line) } else { Ok(None) };
    };
    let (line, begun) = (bytes[..end].trim_ascii(), end + 1);
    let at = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (word, rest) = (line[..at].to_ascii_uppercase(), line[at..].trim_ascii());
    let said = match word.as_slice() {
        b"INFO" => Said::Info(rest),
        b"+OK" => Said::Ok,
        b"PING" => Said::Ping,
        b"PONG" => Said::Pong,
        b"-ERR" => {
            let words = String::from_utf8_lossy(rest);
            Said::Error(words.trim_matches('\'').chars().take(200).collect())
        }
        b"MSG" | b"HMSG" => return message(bytes, rest, begun, word[0] == b'H'),
        _ => return Err(Malformed::NotNats),
    };
    Ok(Some((said, begun)))
}

fn message<'b>(
    bytes: &'b [u8],
    line: &'b [u8],
    begun: usize,
    has_headers: bool,
) -> Result<Option<(Said<'b>, usize)>, Malformed> {
    let words: Vec<&[u8]> =
        line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let n_lengths = if has_headers { 2 } else { 1 };
    let (names, lengths) =
        words.split_at_checked(words.len().saturating_sub(n_lengths)).ok_or(Malformed::Length)?;
    let (subject, sid, reply): (&[u8], &[u8], &[u8]) = match names {
        [subject, sid] => (subject, sid, b""),
        [subject, sid, reply] => (subject, sid, reply),
        _ => return Err(Malformed::Length),
    };
    let number = |word: &[u8]| -> Result<usize, Malformed> {
        let text = std::str::from_utf8(word).map_err(|_| Malformed::Length)?;
        text.parse().map_err(|_| Malformed::Length)
    };
    let total = number(lengths[lengths.len() - 1])?;
    let head = if has_headers { number(lengths[0])? } else { 0 };
    if total > MAX_MESSAGE {
        return Err(Malformed::Message);
    }
    if head > total {
        return Err(Malformed::Length);
    }
    let Some(all) = bytes.get(begun..begun + total + 2) else { return Ok(None) };
    if !all.ends_with(b"\r\n") {
        return Err(Malformed::Length);
    }
    let message = Message {
        subject,
        sid: number(sid)? as u64,
        reply,
        headers: Headers(&all[..head]),
        payload: &all[head..total],
    };
    Ok(Some((Said::Message(message), begun + total + 2)))
}

/// Where a message stands: what its reply subject says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) stream: u64,
    /// Counted by the consumer, from 1, without holes.
    pub(crate) consumer: u64,
    /// Nanoseconds of the server's clock.
    pub(crate) at_ns: u64,
}

impl Standing {
    /// `$JS.ACK.<stream>.<consumer>.<tries>.<stream's number>.<consumer's number>.<time>.<waiting>`; newer
    /// servers put a domain and an account before the stream, and may add to the end.
    pub(crate) fn read(reply: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(reply).ok()?;
        let tokens: Vec<&str> = text.strip_prefix("$JS.ACK.")?.split('.').collect();
        let from = match tokens.len() {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let number = |at: usize| tokens.get(from + at)?.parse().ok();
        Some(Self { stream: number(0)?, consumer: number(1)?, at_ns: number(2)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_server_says_is_read_in_portions() {
        let bytes = b"INFO {\"headers\":true}\r\nPING\r\n-ERR 'Authorization Violation'\r\n\
            MSG a.b 2 $JS.ACK.S.C.1.17.3.1700000000000000001.4 5\r\nhello\r\n\
            HMSG _INBOX.x 2 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n\
            HMSG a.b 2 re 21 23\r\nNATS/1.0\r\nName: v\r\n\r\n..\r\n";
        let mut rest = &bytes[..];
        let mut all = Vec::new();
        while let Some((said, n)) = read(rest).unwrap() {
            for cut in 0..n {
                assert_eq!(read(&rest[..cut]), Ok(None));
            }
            all.push(said);
            rest = &rest[n..];
        }
        assert!(rest.is_empty());
        assert_eq!(all[0], Said::Info(b"{\"headers\":true}"));
        assert_eq!(all[1], Said::Ping);
        assert_eq!(all[2], Said::Error("Authorization Violation".to_owned()));
        let message = |said: &Said<'static>| match said {
            Said::Message(message) => *message,
            other => panic!("{other:?}"),
        };
        let first = message(&all[3]);
        assert_eq!((first.subject, first.sid, first.payload), (&b"a.b"[..], 2, &b"hello"[..]));
        let standing = Standing::read(first.reply).unwrap();
        assert_eq!((standing.stream, standing.consumer), (17, 3));
        assert_eq!(standing.at_ns, 1_700_000_000_000_000_001);
        let status = message(&all[4]).headers.status();
        assert_eq!(status, Some((404, "No Messages".to_owned())));
        let last = message(&all[5]);
        assert_eq!((last.headers.get("name"), last.payload), (Some(&b"v"[..]), &b".."[..]));
        assert_eq!(last.headers.status(), None);
    }

    #[test]
    fn newer_servers_name_a_domain_and_an_account() {
        let reply = b"$JS.ACK.hub.ACCOUNT.S.C.1.17.3.5.4.random";
        assert_eq!(Standing::read(reply), Some(Standing { stream: 17, consumer: 3, at_ns: 5 }));
        assert_eq!(Standing::read(b"_INBOX.a"), None);
    }

    proptest! {
        #[test]
        fn garbage_is_read_or_refused(
            head in "(MSG|HMSG|INFO|-ERR|PING)?[ a-z0-9.]{0,40}(\r\n)?",
            tail in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let bytes = [head.as_bytes(), &tail].concat();
            if let Ok(Some((said, n))) = read(&bytes) {
                prop_assert!(n <= bytes.len());
                if let Said::Message(message) = said {
                    let _ = (message.headers.iter().count(), message.headers.status());
                    let _ = Standing::read(message.reply);
                }
            }
        }
    }
}
