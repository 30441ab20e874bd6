//! A platform's side of a webhook: events are pushed to a listener, alone and in batches, and again
//! until they are taken.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::platform::Write as Output;

const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// One for each way of batching.
pub const WAYS: i32 = 4;

/// Where nobody listens yet.
pub fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}

/// Pushes what it is given to `path`, as the number of the partition says: alone, as JSON arrays, as
/// lines, as packed arrays. What is no JSON is pushed alone.
pub fn push_to(addr: SocketAddr, path: &str) -> Output {
    let (mut client, path) = (Client::new(addr), path.to_owned());
    Box::new(move |way, events| {
        let is_json = |event: &&Vec<u8>| serde_json::from_slice::<Value>(event).is_ok();
        let (whole, broken): (Vec<&Vec<u8>>, Vec<&Vec<u8>>) = events.iter().partition(is_json);
        let alone = if way == 0 { events.iter().collect() } else { broken };
        for event in alone {
            client.is_taken(&path, &[], event);
        }
        if way == 0 || whole.is_empty() {
            return;
        }
        let join =
            |with: &[u8]| whole.iter().map(|event| event.as_slice()).collect::<Vec<_>>().join(with);
        let array = || [&b"["[..], &join(b","), b"]"].concat();
        match way {
            1 => client.is_taken(&path, &[("Content-Type", "application/json")], &array()),
            2 => client.is_taken(&path, &[("Content-Type", "application/x-ndjson")], &join(b"\n")),
            _ => client.is_taken(&path, &[("Content-Encoding", "gzip")], &zipped(&array())),
        }
    })
}

pub fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
    zip.write_all(bytes).and_then(|()| zip.finish()).expect("memory takes everything")
}

/// One connection, which is opened again when it breaks.
pub struct Client {
    addr: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: None }
    }

    /// Again and again while nobody listens.
    fn is_taken(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.send("POST", path, headers, body) {
                Ok((200, _)) => return,
                Ok((503, _)) | Err(_) if Instant::now() < until => std::thread::sleep(PAUSE),
                other => panic!("the listener at {} does not take an event: {other:?}", self.addr),
            }
        }
    }

    /// The status and the text of the answer.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<(u16, String)> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.addr)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                BufReader::new(stream)
            }
        };
        let mut stream = stream;
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{headers}\r\n",
            self.addr,
            body.len()
        );
        stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let lower = line.trim().to_ascii_lowercase();
            if let Some(rest) = lower.strip_prefix("http/1.1 ") {
                status = rest.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
            }
            if let Some(rest) = lower.strip_prefix("content-length:") {
                length = rest.trim().parse().unwrap_or(0);
            }
            if lower.is_empty() {
                break;
            }
        }
        let mut text = vec![0; length];
        stream.read_exact(&mut text)?;
        self.stream = Some(stream);
        Ok((status, String::from_utf8_lossy(&text).trim().to_owned()))
    }
}
