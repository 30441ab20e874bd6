//! Recorded traffic: a table of `offset`, `payload` or `payload_base64`, and perhaps `topic`.
//!
//! Invariant: there is at least one message, and offsets never go back.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::rows::{Mistake, mistake, table};
use super::{File, csv::Cells};
use crate::units;

/// More mistakes of one recording would only repeat themselves.
const MAX_MISTAKES: usize = 5;
/// As long as a load may be.
const MAX_OFFSET_NS: u64 = 30 * 24 * 3_600 * 1_000_000_000;

#[derive(Clone, PartialEq)]
pub struct Recording(Arc<Messages>);

#[derive(PartialEq)]
struct Messages {
    path: String,
    /// Since the start of the recording.
    offsets_ns: Vec<u64>,
    topics: Option<Vec<Box<str>>>,
    payloads: Vec<Box<[u8]>>,
}

/// The plan's files say what is in it.
impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording({:?}, {})", self.0.path, self.0.offsets_ns.len())
    }
}

impl Recording {
    pub(crate) fn read(file: &File) -> Result<Self, Vec<Mistake>> {
        let (columns, cells) = table(file.bytes().unwrap_or_default())?;
        let column = |name: &str| columns.iter().position(|column| column == name);
        let (offset, topic) = (column("offset"), column("topic"));
        let (text, base64) = (column("payload"), column("payload_base64"));
        let Some(offset) = offset else {
            return Err(vec![mistake(Some(1), "a column `offset` is expected")]);
        };
        let (payload, is_base64) = match (text, base64) {
            (Some(payload), None) => (payload, false),
            (None, Some(payload)) => (payload, true),
            _ => {
                let why = "one column `payload` or `payload_base64` is expected";
                return Err(vec![mistake(Some(1), why)]);
            }
        };
        let mut read = Messages {
            path: file.path.clone(),
            offsets_ns: Vec::new(),
            topics: topic.map(|_| Vec::new()),
            payloads: Vec::new(),
        };
        let mut mistakes = Vec::new();
        let n_rows = cells.len() / columns.len();
        for row in 0..n_rows {
            let cell = |column: usize| cell(&cells, row * columns.len() + column);
            let before = read.offsets_ns.last().copied().unwrap_or_default();
            match message(cell(offset), before, cell(payload), is_base64) {
                Ok((offset_ns, payload)) => {
                    read.offsets_ns.push(offset_ns);
                    read.payloads.push(payload);
                }
                Err(why) => {
                    // A cell may hold line breaks, so the number of the row is what is known.
                    mistakes.push(mistake(None, format!("message {}: {why}", row + 1)));
                }
            }
            if let (Some(topics), Some(topic)) = (&mut read.topics, topic) {
                let topic = cell(topic);
                let is_one = !topic.is_empty() && !topic.contains(['+', '#', '\0']);
                if !is_one || topic.len() > 65_535 {
                    let why = format!("message {}: `{topic}` is no topic", row + 1);
                    mistakes.push(mistake(None, why));
                }
                topics.push(topic.into());
            }
            if mistakes.len() >= MAX_MISTAKES {
                break;
            }
        }
        if n_rows == 0 {
            mistakes.push(mistake(None, "it holds no message"));
        }
        if mistakes.is_empty() { Ok(Self(Arc::new(read))) } else { Err(mistakes) }
    }

    pub fn offsets_ns(&self) -> &[u64] {
        &self.0.offsets_ns
    }

    pub fn has_topics(&self) -> bool {
        self.0.topics.is_some()
    }

    /// Of the message that a slot sends; each time round they are the same.
    pub(crate) fn topic(&self, slot: u64) -> &str {
        let at = (slot % self.0.offsets_ns.len() as u64) as usize;
        self.0.topics.as_ref().map_or("", |topics| &topics[at])
    }

    pub(crate) fn payload(&self, slot: u64) -> &[u8] {
        &self.0.payloads[(slot % self.0.offsets_ns.len() as u64) as usize]
    }
}

fn cell(cells: &Cells, at: usize) -> &str {
    cells.get(at).unwrap_or_default()
}

fn message(
    offset: &str,
    before_ns: u64,
    payload: &str,
    is_base64: bool,
) -> Result<(u64, Box<[u8]>), String> {
    let offset = offset.trim();
    // Seconds, unless a unit stands there.
    let read = units::duration_ns(offset).or_else(|| units::duration_ns(&format!("{offset}s")));
    let Some(offset_ns) = read else {
        return Err(format!("`{offset}` is no offset like 1.5 (seconds) or 250ms"));
    };
    if offset_ns > MAX_OFFSET_NS {
        return Err(format!("`{offset}` is later than 30 days: offsets are since its start"));
    }
    if offset_ns < before_ns {
        return Err(format!("`{offset}` is before the message above it"));
    }
    let payload = match is_base64 {
        false => payload.as_bytes().into(),
        true => match BASE64.decode(payload) {
            Ok(bytes) => bytes.into(),
            Err(_) => return Err("its payload is no base64 with padding".to_owned()),
        },
    };
    Ok((offset_ns, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(csv: &str) -> Vec<String> {
        let read = Recording::read(&File::new("t.csv", csv.as_bytes()));
        read.unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_recording_is_read_with_its_times() {
        let csv = "offset,topic,payload\n0,a,x\n0.25,b,\"{\"\"n\"\": 1}\"\n1500ms,a,\n";
        let read = Recording::read(&File::new("t.csv", csv.as_bytes())).unwrap();
        assert_eq!(read.offsets_ns(), [0, 250_000_000, 1_500_000_000]);
        assert_eq!((read.topic(4), read.payload(4)), ("b", b"{\"n\": 1}".as_slice()));
        let csv = "payload_base64,offset\nAP8=,1\n";
        let read = Recording::read(&File::new("t.csv", csv.as_bytes())).unwrap();
        assert_eq!((read.has_topics(), read.payload(0)), (false, [0, 255].as_slice()));
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        assert_eq!(mistakes("topic,payload\n"), ["line 1: a column `offset` is expected"]);
        assert!(mistakes("offset,topic\n")[0].contains("`payload` or `payload_base64`"));
        assert_eq!(mistakes("offset,payload\n"), ["it holds no message"]);
        assert_eq!(
            mistakes("offset,topic,payload\nx,a,1\n2,a/+,1\n1,a,1\n1700000000,a,1\n"),
            [
                "message 1: `x` is no offset like 1.5 (seconds) or 250ms",
                "message 2: `a/+` is no topic",
                "message 3: `1` is before the message above it",
                "message 4: `1700000000` is later than 30 days: offsets are since its start",
            ]
        );
        assert!(mistakes("offset,payload_base64\n1,A\n")[0].contains("no base64"));
    }
}
