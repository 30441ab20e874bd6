//! A broker in this process that does what small servers cannot: TLS, logins, batches stamped byte by
//! byte as Apache Kafka stamps them, cut connections, deleted records, partitions that are added.
//!
//! It knows just what a reader asks for, and keeps all that was written to it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, FetchRequest, FetchResponse, ListOffsetsRequest,
    ListOffsetsResponse, MetadataRequest, MetadataResponse, RequestHeader, ResponseHeader,
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use super::client::topic_name;
use super::scram;
pub use super::scram::Scram;
use crate::authority::certified;

/// The topic that it has.
pub const TOPIC: &str = "out";
/// Names and texts.
pub type Headers = Vec<(String, String)>;

const OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC: i16 = 3;
const REFUSED: i16 = 58;

/// What is asked of whoever connects.
#[derive(Debug, Clone, Default)]
pub struct Security {
    pub is_secure: bool,
    /// Username and password.
    pub login: Option<(String, String)>,
    /// Instead of PLAIN.
    pub scram: Option<Scram>,
}

#[derive(Clone)]
pub struct StandIn {
    shared: Arc<Shared>,
}

struct Shared {
    addr: SocketAddr,
    security: Security,
    tls: Option<Arc<rustls::ServerConfig>>,
    ca_pem: String,
    log: Mutex<Log>,
    has_more: Condvar,
    n_fetches: AtomicU64,
    n_connections: AtomicU64,
}

#[derive(Default)]
struct Log {
    partitions: Vec<Partition>,
    connections: Vec<TcpStream>,
    is_away: bool,
}

#[derive(Default)]
struct Partition {
    begin: i64,
    end: i64,
    /// With the offset after it.
    batches: Vec<(i64, Bytes)>,
}

impl StandIn {
    pub fn start(partitions: usize, security: Security) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let (tls, ca_pem) = match security.is_secure {
            true => {
                let (config, pem) = certified();
                (Some(Arc::new(config)), pem)
            }
            false => (None, String::new()),
        };
        let log = Log {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            ..Log::default()
        };
        let shared = Arc::new(Shared {
            addr: listener.local_addr().expect("a bound socket has an address"),
            security,
            tls,
            ca_pem,
            log: Mutex::new(log),
            has_more: Condvar::new(),
            n_fetches: AtomicU64::new(0),
            n_connections: AtomicU64::new(0),
        });
        let serving = Arc::clone(&shared);
        // Its threads end with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { shared }
    }

    pub fn bootstrap(&self) -> String {
        format!("localhost:{}", self.shared.addr.port())
    }

    /// Of the authority that signed its certificate.
    pub fn ca_pem(&self) -> &str {
        &self.shared.ca_pem
    }

    pub fn n_fetches(&self) -> u64 {
        self.shared.n_fetches.load(Ordering::SeqCst)
    }

    pub fn n_connections(&self) -> u64 {
        self.shared.n_connections.load(Ordering::SeqCst)
    }

    /// One batch, appended now: the records say that they are an hour old.
    pub fn produce(&self, partition: i32, values: &[Vec<u8>]) {
        let bare = |value: &Vec<u8>| (Vec::new(), value.clone());
        self.produce_with_headers(partition, &values.iter().map(bare).collect::<Vec<_>>());
    }

    /// The same of events with headers.
    pub fn produce_with_headers(&self, partition: i32, events: &[(Headers, Vec<u8>)]) {
        let now = std::time::UNIX_EPOCH.elapsed().expect("the clock is right").as_millis() as i64;
        let mut log = self.shared.lock();
        let partition = &mut log.partitions[partition as usize];
        let record = |(n, (headers, value)): (usize, &(Headers, Vec<u8>))| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 0,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset: partition.end + n as i64,
            sequence: n as i32,
            timestamp: now - 3_600_000,
            key: None,
            value: Some(Bytes::copy_from_slice(value)),
            headers: headers
                .iter()
                .map(|(name, text)| {
                    (StrBytes::from_string(name.clone()), Some(Bytes::from(text.clone())))
                })
                .collect(),
        };
        let records: Vec<Record> = events.iter().enumerate().map(record).collect();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        let mut batch = BytesMut::new();
        RecordBatchEncoder::encode(&mut batch, &records, &options).expect("records are encoded");
        // The type of its time and the greatest time: all that a broker changes.
        batch[22] |= 1 << 3;
        batch[35..43].copy_from_slice(&now.to_be_bytes());
        partition.end += events.len() as i64;
        partition.batches.push((partition.end, batch.freeze()));
        drop(log);
        self.shared.has_more.notify_all();
    }

    /// Retention: what is below is gone.
    pub fn delete_below(&self, partition: i32, offset: i64) {
        let mut log = self.shared.lock();
        let partition = &mut log.partitions[partition as usize];
        partition.begin = offset.min(partition.end);
        let begin = partition.begin;
        partition.batches.retain(|(end, _)| *end > begin);
    }

    pub fn end_of(&self, partition: i32) -> i64 {
        self.shared.lock().partitions[partition as usize].end
    }

    pub fn add_partition(&self) {
        self.shared.lock().partitions.push(Partition::default());
    }

    /// Cuts every connection; `is_away`: and each new one, until it is said otherwise.
    pub fn cut(&self, is_away: bool) {
        let mut log = self.shared.lock();
        log.is_away = is_away;
        for connection in log.connections.drain(..) {
            // Fails when it is cut already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

trait Connection: Read + Write {}

impl<C: Read + Write> Connection for C {}

/// Who is at the other end.
struct Visitor {
    is_known: bool,
    scram: Option<scram::Started>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("a panic of another thread ends this test too")
    }

    fn serve(&self, stream: TcpStream) {
        {
            let mut log = self.lock();
            let Ok(also) = stream.try_clone() else { return };
            if log.is_away || stream.set_nodelay(true).is_err() {
                return;
            }
            log.connections.push(also);
        }
        self.n_connections.fetch_add(1, Ordering::SeqCst);
        let mut stream: Box<dyn Connection> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let Ok(tls) = rustls::ServerConnection::new(Arc::clone(config)) else { return };
                Box::new(rustls::StreamOwned::new(tls, stream))
            }
        };
        let mut visitor = Visitor { is_known: self.security.login.is_none(), scram: None };
        // Ends with its connection.
        while self.answer(stream.as_mut(), &mut visitor).is_some() {}
    }

    /// What the server says to a token; `None`: the login is refused.
    fn log_in(&self, token: &[u8], visitor: &mut Visitor) -> Option<String> {
        let (username, password) = self.security.login.clone().unwrap_or_default();
        let Some(hash) = self.security.scram else {
            visitor.is_known = token == format!("\0{username}\0{password}").as_bytes();
            return visitor.is_known.then(String::new);
        };
        let Some(started) = visitor.scram.take() else {
            let (started, answer) = scram::start(hash, token, &username)?;
            visitor.scram = Some(started);
            return Some(answer);
        };
        let proof = started.finish(token, &password)?;
        visitor.is_known = true;
        Some(proof)
    }

    fn mechanism(&self) -> &'static str {
        self.security.scram.map_or("PLAIN", Scram::name)
    }

    /// One request; `None` ends the connection.
    fn answer(&self, stream: &mut dyn Connection, visitor: &mut Visitor) -> Option<()> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body).ok()?;
        let mut body = Bytes::from(body);
        let (key, version) = (
            i16::from_be_bytes([*body.first()?, *body.get(1)?]),
            i16::from_be_bytes([*body.get(2)?, *body.get(3)?]),
        );
        let key = ApiKey::try_from(key).ok()?;
        let header = RequestHeader::decode(&mut body, key.request_header_version(version)).ok()?;
        let mut out = BytesMut::new();
        ResponseHeader::default()
            .with_correlation_id(header.correlation_id)
            .encode(&mut out, key.response_header_version(version))
            .ok()?;
        let is_greeting =
            matches!(key, ApiKey::ApiVersions | ApiKey::SaslHandshake | ApiKey::SaslAuthenticate);
        if !visitor.is_known && !is_greeting {
            // As a broker does with whoever has not logged in.
            return None;
        }
        match key {
            ApiKey::ApiVersions => versions().encode(&mut out, version),
            ApiKey::SaslHandshake => {
                let asked = SaslHandshakeRequest::decode(&mut body, version).ok()?;
                let mut answer = SaslHandshakeResponse::default();
                answer.mechanisms = vec![StrBytes::from_static_str(self.mechanism())];
                let is_known = asked.mechanism.as_str() == self.mechanism();
                answer.error_code = if is_known { 0 } else { 33 };
                answer.encode(&mut out, version)
            }
            ApiKey::SaslAuthenticate => {
                let asked = SaslAuthenticateRequest::decode(&mut body, version).ok()?;
                let mut answer = SaslAuthenticateResponse::default();
                match self.log_in(&asked.auth_bytes, visitor) {
                    Some(token) => answer.auth_bytes = Bytes::from(token),
                    None => {
                        answer.error_code = REFUSED;
                        let why = "Invalid username or password";
                        answer.error_message = Some(StrBytes::from_static_str(why));
                    }
                }
                answer.encode(&mut out, version)
            }
            ApiKey::Metadata => {
                let asked = MetadataRequest::decode(&mut body, version).ok()?;
                self.metadata(&asked).encode(&mut out, version)
            }
            ApiKey::ListOffsets => {
                let asked = ListOffsetsRequest::decode(&mut body, version).ok()?;
                self.offsets(&asked).encode(&mut out, version)
            }
            ApiKey::Fetch => {
                let asked = FetchRequest::decode(&mut body, version).ok()?;
                self.fetch(&asked).encode(&mut out, version)
            }
            _ => return None,
        }
        .ok()?;
        let mut message = (out.len() as u32).to_be_bytes().to_vec();
        message.extend_from_slice(&out);
        stream.write_all(&message).ok()?;
        stream.flush().ok()
    }

    fn metadata(&self, asked: &MetadataRequest) -> MetadataResponse {
        let mut broker = MetadataResponseBroker::default();
        (broker.node_id, broker.port) = (1.into(), i32::from(self.addr.port()));
        broker.host = StrBytes::from_static_str("localhost");
        let partition = |index: i32| {
            let mut partition = MetadataResponsePartition::default();
            (partition.partition_index, partition.leader_id) = (index, 1.into());
            partition
        };
        let mut topic = MetadataResponseTopic::default();
        let name = asked.topics.iter().flatten().find_map(|topic| topic.name.clone());
        topic.name = Some(name.unwrap_or_else(|| topic_name("")));
        if topic.name == Some(topic_name(TOPIC)) {
            topic.partitions = (0..self.lock().partitions.len() as i32).map(partition).collect();
        } else {
            topic.error_code = UNKNOWN_TOPIC;
        }
        let mut answer = MetadataResponse::default();
        (answer.brokers, answer.topics) = (vec![broker], vec![topic]);
        answer
    }

    fn offsets(&self, asked: &ListOffsetsRequest) -> ListOffsetsResponse {
        let log = self.lock();
        let topic = |asked: &kafka_protocol::messages::list_offsets_request::ListOffsetsTopic| {
            let partition =
                |asked: &kafka_protocol::messages::list_offsets_request::ListOffsetsPartition| {
                    let mut answer = ListOffsetsPartitionResponse::default();
                    let known = &log.partitions[asked.partition_index as usize];
                    answer.partition_index = asked.partition_index;
                    answer.offset = if asked.timestamp == -1 { known.end } else { known.begin };
                    answer
                };
            let mut answer = ListOffsetsTopicResponse::default();
            answer.name = asked.name.clone();
            answer.partitions = asked.partitions.iter().map(partition).collect();
            answer
        };
        let mut answer = ListOffsetsResponse::default();
        answer.topics = asked.topics.iter().map(topic).collect();
        answer
    }

    fn fetch(&self, asked: &FetchRequest) -> FetchResponse {
        self.n_fetches.fetch_add(1, Ordering::SeqCst);
        let end =
            Instant::now() + Duration::from_millis(u64::from(asked.max_wait_ms.unsigned_abs()));
        let asked: Vec<(i32, i64)> = asked
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|partition| (partition.partition, partition.fetch_offset))
            .collect();
        let mut log = self.lock();
        while asked.iter().all(|(at, offset)| log.partitions[*at as usize].end == *offset)
            && Instant::now() < end
        {
            let waited =
                self.has_more.wait_timeout(log, end.saturating_duration_since(Instant::now()));
            log = waited.expect("a panic of another thread ends this test too").0;
        }
        let partition = |(at, offset): &(i32, i64)| {
            let known = &log.partitions[*at as usize];
            let mut answer = PartitionData::default();
            answer.partition_index = *at;
            (answer.high_watermark, answer.last_stable_offset) = (known.end, known.end);
            if *offset < known.begin || *offset > known.end {
                answer.error_code = OUT_OF_RANGE;
            } else {
                // Few at a time, as brokers do.
                let batches = known.batches.iter().filter(|(end, _)| end > offset).take(200);
                let batches: Vec<&[u8]> = batches.map(|(_, bytes)| &bytes[..]).collect();
                answer.records = Some(Bytes::from(batches.concat()));
            }
            answer
        };
        let mut topic = FetchableTopicResponse::default();
        topic.topic = topic_name(TOPIC);
        topic.partitions = asked.iter().map(partition).collect();
        let mut answer = FetchResponse::default();
        answer.responses = vec![topic];
        answer
    }
}

fn versions() -> ApiVersionsResponse {
    let known = |(key, newest): (ApiKey, i16)| {
        let mut version = ApiVersion::default();
        (version.api_key, version.max_version) = (key as i16, newest);
        version
    };
    let all = [
        (ApiKey::Fetch, 11),
        (ApiKey::ListOffsets, 5),
        (ApiKey::Metadata, 8),
        (ApiKey::SaslHandshake, 1),
        (ApiKey::ApiVersions, 2),
        (ApiKey::SaslAuthenticate, 1),
    ];
    let mut answer = ApiVersionsResponse::default();
    answer.api_keys = all.into_iter().map(known).collect();
    answer
}
