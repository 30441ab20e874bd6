//! One connection to a NATS server: greeting, login, questions to JetStream, and the bytes of the rest.

use bytes::{Buf, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::super::dial::{self, Stream};
use super::{Login, Source};
use crate::nats::{self, Said};

const READ_BUFFER: usize = 256 * 1024;
/// Subscriptions: answers to questions, and messages of the stream.
pub(super) const ANSWERS: u64 = 1;
pub(super) const MESSAGES: u64 = 2;

pub(super) struct Link {
    stream: Box<dyn Stream>,
    pub(super) incoming: BytesMut,
    outgoing: BytesMut,
    inbox: String,
    pub(super) heard: Instant,
}

impl Link {
    pub(super) async fn open(source: &Source) -> Result<Self, String> {
        let mut mark = [0; 12];
        getrandom::fill(&mut mark).map_err(|error| format!("no random numbers: {error}"))?;
        let mark: String = mark.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut link = Self {
            stream: Box::new(dial::tcp(&source.guard, &source.host, source.port).await?),
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            inbox: format!("_INBOX.shoal{mark}"),
            heard: Instant::now(),
        };
        let wants_tls = link.info().await?;
        let link = match (&source.tls, wants_tls) {
            (None, true) => return Err("it wants TLS: write tls:// in the URL".to_owned()),
            (None, false) => link,
            (Some(_), _) => link.secured(source).await?,
        };
        link.logged_in(source).await
    }

    /// The server speaks first. Whether it insists on TLS.
    async fn info(&mut self) -> Result<bool, String> {
        loop {
            let read = nats::read(&self.incoming).map_err(|bad| bad.to_string())?;
            match read {
                Some((Said::Info(text), n)) => {
                    let info: Value = serde_json::from_slice(text).unwrap_or_default();
                    self.incoming.advance(n);
                    if info["headers"] == json!(false) {
                        return Err("its server is older than 2.2".to_owned());
                    }
                    return Ok(info["tls_required"] == json!(true));
                }
                Some((Said::Error(why), _)) => return Err(format!("it refuses: {why}")),
                Some(_) => return Err("what answers does not speak NATS".to_owned()),
                None => self.fill().await?,
            }
        }
    }

    async fn secured(self, source: &Source) -> Result<Self, String> {
        if source.tls.is_none() {
            return Ok(self);
        }
        let stream = dial::secure(source.tls.as_ref(), &source.host, self.stream).await?;
        Ok(Self { stream, incoming: BytesMut::new(), ..self })
    }

    async fn logged_in(mut self, source: &Source) -> Result<Self, String> {
        let mut connect = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "lang": "rust", "version": env!("CARGO_PKG_VERSION"), "name": "shoal",
        });
        match &source.login {
            Some(Login::Password(username, password)) => {
                connect["user"] = json!(username);
                connect["pass"] = json!(password);
            }
            Some(Login::Token(token)) => connect["auth_token"] = json!(token),
            None => {}
        }
        let inbox = &self.inbox;
        let greeting = format!(
            "CONNECT {connect}\r\nSUB {inbox}.a {ANSWERS}\r\nSUB {inbox}.m {MESSAGES}\r\nPING\r\n"
        );
        self.outgoing.extend_from_slice(greeting.as_bytes());
        self.flush().await?;
        loop {
            let read = nats::read(&self.incoming).map_err(|bad| bad.to_string())?;
            let Some((said, n)) = read else {
                self.fill().await?;
                continue;
            };
            match said {
                Said::Pong => {
                    self.incoming.advance(n);
                    return Ok(self);
                }
                Said::Error(why) => return Err(format!("it refuses the login: {why}")),
                _ => self.incoming.advance(n),
            }
        }
    }

    /// What JetStream answers to a question, before any message can come.
    pub(super) async fn ask(&mut self, subject: &str, question: &Value) -> Result<Value, String> {
        self.question(subject, question);
        self.flush().await?;
        loop {
            let read = nats::read(&self.incoming).map_err(|bad| bad.to_string())?;
            let Some((said, n)) = read else {
                self.fill().await?;
                continue;
            };
            let is_ping = said == Said::Ping;
            let answer = match said {
                Said::Message(message) if message.sid == ANSWERS => {
                    if message.headers.status().is_some_and(|(code, _)| code == 503) {
                        return Err("JetStream is not enabled there, or not for us".to_owned());
                    }
                    Some(answer(message.payload))
                }
                Said::Error(why) => return Err(format!("it refuses: {why}")),
                _ => None,
            };
            self.incoming.advance(n);
            if is_ping {
                self.pong();
            }
            if let Some(answer) = answer {
                return answer;
            }
        }
    }

    pub(super) fn question(&mut self, subject: &str, question: &Value) {
        self.publish(subject, 'a', &question.to_string());
    }

    /// Its answers are messages of the stream.
    pub(super) fn pull(&mut self, subject: &str, question: &Value) {
        self.publish(subject, 'm', &question.to_string());
    }

    fn publish(&mut self, subject: &str, to: char, text: &str) {
        let (inbox, n) = (&self.inbox, text.len());
        let publish = format!("PUB {subject} {inbox}.{to} {n}\r\n{text}\r\n");
        self.outgoing.extend_from_slice(publish.as_bytes());
    }

    pub(super) fn pong(&mut self) {
        self.outgoing.extend_from_slice(b"PONG\r\n");
    }

    /// Cancel safe.
    pub(super) async fn fill(&mut self) -> Result<(), String> {
        self.incoming.reserve(READ_BUFFER);
        match self.stream.read_buf(&mut self.incoming).await {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(_) => {
                self.heard = Instant::now();
                Ok(())
            }
            Err(error) => Err(format!("the connection broke: {error}")),
        }
    }

    /// Cancel safe.
    pub(super) async fn flush(&mut self) -> Result<(), String> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing).await {
                Ok(0) => return Err("the server takes nothing more".to_owned()),
                Ok(n) => self.outgoing.advance(n),
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
        self.stream.flush().await.map_err(|error| format!("the connection broke: {error}"))
    }
}

/// What JetStream says, or what it says is wrong.
pub(super) fn answer(payload: &[u8]) -> Result<Value, String> {
    let answer: Value = serde_json::from_slice(payload)
        .map_err(|error| format!("JetStream's answer is no JSON: {error}"))?;
    match answer["error"]["description"].as_str() {
        Some(why) => Err(format!("{why} (code {})", answer["error"]["code"])),
        None => Ok(answer),
    }
}
