//! One connection to one broker: greeting, login, and what it still has to answer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use bytes::{Buf, BytesMut};
use shoal_domain::plan::SaslMechanism;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::super::dial::{self, Stream};
use super::{Login, Source};
use crate::kafka::{
    self, Api, FetchReader, Fetched, Hash, Listed, Malformed, Metadata, Scram, Versions,
    frame_length,
};

const READ_BUFFER: usize = 256 * 1024;
/// Of everything but a fetch: what is longer is not a broker's answer.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

pub(super) struct Link {
    host: String,
    port: u16,
    stream: Box<dyn Stream>,
    versions: Versions,
    /// That it leads, of ours.
    pub(super) partitions: Vec<u32>,
    incoming: BytesMut,
    outgoing: Vec<u8>,
    n_written: usize,
    /// Answers come in the order of their questions.
    awaited: VecDeque<Awaited>,
    correlation: i32,
    heard: Instant,
}

enum Awaited {
    Fetch(Box<FetchReader>),
    Metadata(i16),
    Offsets(i16),
}

/// An answer that is there as a whole; the events of a fetch were handed on before.
pub(super) enum Answer {
    Fetched,
    Metadata(Metadata),
    Offsets(BTreeMap<u32, Result<u64, i16>>),
}

impl Link {
    pub(super) async fn open(source: &Source, host: &str, port: u16) -> Result<Self, String> {
        let at = format!("{host}:{port}");
        let failed = |why: String| format!("broker {at}: {why}");
        let stream = dial::connect(&source.guard, source.tls.as_ref(), host, port).await;
        let stream = stream.map_err(failed)?;
        let mut link = Self {
            host: host.to_owned(),
            port,
            stream,
            versions: Versions::default(),
            partitions: Vec::new(),
            incoming: BytesMut::new(),
            outgoing: Vec::new(),
            n_written: 0,
            awaited: VecDeque::new(),
            correlation: 0,
            heard: Instant::now(),
        };
        link.greet(source).await.map_err(failed)?;
        Ok(link)
    }

    pub(super) fn is_to(&self, host: &str, port: u16) -> bool {
        self.host == host && self.port == port
    }

    async fn greet(&mut self, source: &Source) -> Result<(), String> {
        kafka::api_versions(&mut self.outgoing, 0);
        let answer = self.answer_now().await.map_err(|why| match (&source.tls, &source.login) {
            (None, _) => format!("{why}: perhaps it wants TLS (`tls: true`)"),
            _ => why,
        })?;
        self.versions = kafka::read_versions(&answer).map_err(text)?;
        if let Some(login) = &source.login {
            self.log_in(login).await?;
        }
        Ok(())
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), String> {
        let name = login.mechanism.word().to_uppercase();
        self.version(Api::SaslHandshake)?;
        self.version(Api::SaslAuthenticate)?;
        kafka::handshake(&mut self.outgoing, 0, &name);
        let answer = self.answer_now().await?;
        if let Err(known) = kafka::read_handshake(&answer).map_err(text)? {
            return Err(format!("it does not know the SASL mechanism {name}, only {known}"));
        }
        let hash = match login.mechanism {
            SaslMechanism::Plain => {
                let token = format!("\0{}\0{}", login.username, login.password);
                self.authenticate(token.as_bytes()).await?;
                return Ok(());
            }
            SaslMechanism::ScramSha256 => Hash::Sha256,
            SaslMechanism::ScramSha512 => Hash::Sha512,
        };
        let mut scram = Scram::new(hash, &login.username, &login.password, nonce()?);
        let first = self.authenticate(scram.first().as_bytes()).await?;
        let last = self.authenticate(scram.last(&first)?.as_bytes()).await?;
        match scram.is_proven(&last) {
            true => Ok(()),
            false => Err("it does not prove that it knows the password".to_owned()),
        }
    }

    async fn authenticate(&mut self, token: &[u8]) -> Result<Vec<u8>, String> {
        kafka::authenticate(&mut self.outgoing, 0, token);
        let answer = self.answer_now().await?;
        let answer = kafka::read_authenticate(&answer).map_err(text)?;
        answer.map_err(|why| format!("the login is refused: {why}"))
    }

    fn version(&self, api: Api) -> Result<i16, String> {
        self.versions.of(api).ok_or_else(|| {
            format!(
                "it speaks no version of {api:?} that is spoken here ({} or newer)",
                kafka::OLDEST
            )
        })
    }

    pub(super) async fn metadata(&mut self, topic: &str) -> Result<Metadata, String> {
        let version = self.version(Api::Metadata)?;
        kafka::metadata(&mut self.outgoing, version, 0, topic);
        let answer = self.answer_now().await?;
        kafka::read_metadata(&answer, version, topic).map_err(text)
    }

    pub(super) async fn offsets(
        &mut self,
        topic: &str,
        partitions: &[(u32, Listed)],
    ) -> Result<BTreeMap<u32, Result<u64, i16>>, String> {
        let version = self.version(Api::ListOffsets)?;
        kafka::list_offsets(&mut self.outgoing, version, 0, topic, partitions);
        let answer = self.answer_now().await?;
        kafka::read_list_offsets(&answer, version).map_err(text)
    }

    /// The body of the answer to the one question that is open.
    async fn answer_now(&mut self) -> Result<BytesMut, String> {
        self.flush().await?;
        loop {
            match self.small() {
                Ok(Some(body)) => return Ok(body),
                Ok(None) => self.fill().await?,
                Err(bad) => return Err(bad),
            }
        }
    }

    /// The next message without its length and correlation, where all of it is there.
    fn small(&mut self) -> Result<Option<BytesMut>, String> {
        let length = match frame_length(&self.incoming) {
            Ok(length) if length > MAX_ANSWER => {
                return Err("what answers does not speak Kafka".to_owned());
            }
            Ok(length) => length,
            Err(Malformed::Short) => return Ok(None),
            Err(bad) => return Err(text(bad)),
        };
        if self.incoming.len() < 4 + length {
            return Ok(None);
        }
        self.incoming.advance(4);
        let mut body = self.incoming.split_to(length);
        body.advance(4);
        Ok(Some(body))
    }

    /// A fetch of its partitions, unless one is on its way.
    pub(super) fn ask(&mut self, topic: &str, next: impl Fn(u32) -> Option<u64>) {
        let is_asked = self.awaited.iter().any(|awaited| matches!(awaited, Awaited::Fetch(_)));
        let Some(version) = self.versions.of(Api::Fetch).filter(|_| !is_asked) else { return };
        let wanted = self.partitions.iter();
        let wanted: Vec<(u32, u64)> =
            wanted.filter_map(|partition| Some((*partition, next(*partition)?))).collect();
        if wanted.is_empty() {
            return;
        }
        self.correlation = self.correlation.wrapping_add(1);
        kafka::fetch(&mut self.outgoing, version, self.correlation, topic, wanted.into_iter());
        self.awaits(Awaited::Fetch(Box::new(FetchReader::new(version))));
    }

    pub(super) fn ask_metadata(&mut self, topic: &str) -> Result<(), String> {
        let version = self.version(Api::Metadata)?;
        kafka::metadata(&mut self.outgoing, version, 0, topic);
        self.awaits(Awaited::Metadata(version));
        Ok(())
    }

    pub(super) fn ask_offsets(
        &mut self,
        topic: &str,
        partitions: &[(u32, Listed)],
    ) -> Result<(), String> {
        if self.awaited.iter().any(|awaited| matches!(awaited, Awaited::Offsets(_))) {
            return Ok(());
        }
        let version = self.version(Api::ListOffsets)?;
        kafka::list_offsets(&mut self.outgoing, version, 0, topic, partitions);
        self.awaits(Awaited::Offsets(version));
        Ok(())
    }

    fn awaits(&mut self, what: Awaited) {
        if self.awaited.is_empty() {
            self.heard = Instant::now();
        }
        self.awaited.push_back(what);
    }

    pub(super) fn is_silent(&self, limit: Duration) -> bool {
        !self.awaited.is_empty() && self.heard.elapsed() > limit
    }

    /// The next whole answer; the events of a fetch are handed on as they come in.
    pub(super) fn answer(
        &mut self,
        topic: &str,
        each: &mut impl FnMut(Fetched<'_>),
    ) -> Result<Option<Answer>, String> {
        let answer = match self.awaited.front_mut() {
            None if self.incoming.is_empty() => return Ok(None),
            None => return Err("it answers what nobody asked".to_owned()),
            Some(Awaited::Fetch(reader)) => match reader.read(&mut self.incoming, each) {
                Ok(true) => Answer::Fetched,
                Ok(false) => return Ok(None),
                Err(bad) => return Err(self.broke(bad)),
            },
            Some(Awaited::Metadata(version)) => {
                let version = *version;
                let Some(body) = self.small()? else { return Ok(None) };
                let found = kafka::read_metadata(&body, version, topic);
                Answer::Metadata(found.map_err(|bad| self.broke(bad))?)
            }
            Some(Awaited::Offsets(version)) => {
                let version = *version;
                let Some(body) = self.small()? else { return Ok(None) };
                let found = kafka::read_list_offsets(&body, version);
                Answer::Offsets(found.map_err(|bad| self.broke(bad))?)
            }
        };
        self.awaited.pop_front();
        Ok(Some(answer))
    }

    fn broke(&self, bad: Malformed) -> String {
        format!("broker {}:{} broke the protocol: {bad}", self.host, self.port)
    }

    /// Cancel safe.
    pub(super) async fn fill(&mut self) -> Result<(), String> {
        self.incoming.reserve(READ_BUFFER);
        match self.stream.read_buf(&mut self.incoming).await {
            Ok(0) => Err("the broker closed the connection".to_owned()),
            Ok(_) => {
                self.heard = Instant::now();
                Ok(())
            }
            Err(error) => Err(format!("the connection broke: {error}")),
        }
    }

    /// Cancel safe.
    pub(super) async fn flush(&mut self) -> Result<(), String> {
        while self.n_written < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.n_written..]).await {
                Ok(0) => return Err("the broker takes nothing more".to_owned()),
                Ok(n) => self.n_written += n,
                Err(error) => return Err(format!("the connection broke: {error}")),
            }
        }
        self.outgoing.clear();
        self.n_written = 0;
        self.stream.flush().await.map_err(|error| format!("the connection broke: {error}"))
    }
}

fn nonce() -> Result<String, String> {
    let mut bytes = [0; 18];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random numbers: {error}"))?;
    Ok(base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes))
}

fn text(bad: Malformed) -> String {
    bad.to_string()
}
