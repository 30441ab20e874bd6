//! Creates topics and writes records: one connection, one request at a time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader,
    ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use kafka_protocol::records::{
    Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Whose time a topic's records carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamps {
    Append,
    Create,
}

pub struct Client {
    stream: TcpStream,
    bootstrap: String,
}

impl Client {
    #[track_caller]
    pub fn connect(bootstrap: &str) -> Self {
        Self::try_connect(bootstrap).unwrap_or_else(|error| panic!("{bootstrap}: {error}"))
    }

    fn try_connect(bootstrap: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(bootstrap)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, bootstrap: bootstrap.to_owned() })
    }

    /// Whether a broker answers there.
    pub(super) fn is_answered(bootstrap: &str) -> bool {
        let Ok(mut client) = Self::try_connect(bootstrap) else { return false };
        let request = ApiVersionsRequest::default();
        client.try_ask::<_, ApiVersionsResponse>(ApiKey::ApiVersions, 0, &request).is_some()
    }

    pub(super) fn create_topic(&mut self, name: &str, partitions: i32, stamps: Stamps) {
        let mut config = CreatableTopicConfig::default();
        config.name = StrBytes::from_static_str("message.timestamp.type");
        let value = match stamps {
            Stamps::Append => "LogAppendTime",
            Stamps::Create => "CreateTime",
        };
        config.value = Some(StrBytes::from_static_str(value));
        let mut topic = CreatableTopic::default();
        topic.name = topic_name(name);
        (topic.num_partitions, topic.replication_factor) = (partitions, 1);
        topic.configs = vec![config];
        let mut request = CreateTopicsRequest::default();
        (request.topics, request.timeout_ms) = (vec![topic], 30_000);
        let response: CreateTopicsResponse = self.ask(ApiKey::CreateTopics, 4, &request);
        for topic in &response.topics {
            assert_eq!(topic.error_code, 0, "cannot create {name}: {:?}", topic.error_message);
        }
        // A real cluster chooses its leaders a moment later.
        let end = std::time::Instant::now() + PATIENCE;
        while !self.is_led(name, partitions) {
            assert!(std::time::Instant::now() < end, "{name} has no leaders");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_led(&mut self, name: &str, partitions: i32) -> bool {
        let mut topic = MetadataRequestTopic::default();
        topic.name = Some(topic_name(name));
        let mut request = MetadataRequest::default();
        request.topics = Some(vec![topic]);
        let response: MetadataResponse = self.ask(ApiKey::Metadata, 5, &request);
        let mut of = response.topics.iter().flat_map(|topic| &topic.partitions);
        of.clone().count() == partitions as usize && of.all(|partition| partition.error_code == 0)
    }

    /// Writes values to a partition; the key is some text and the time an hour ago. Only for clusters
    /// of one broker.
    #[track_caller]
    pub fn produce(&mut self, topic: &str, partition: i32, values: &[Vec<u8>]) {
        let now = std::time::UNIX_EPOCH.elapsed().expect("the clock is right").as_millis() as i64;
        let record = |(n, value): (usize, &Vec<u8>)| Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: -1,
            producer_epoch: -1,
            timestamp_type: TimestampType::Creation,
            offset: n as i64,
            sequence: n as i32,
            timestamp: now - 3_600_000,
            key: Some(Bytes::from_static(b"key")),
            value: Some(Bytes::copy_from_slice(value)),
            headers: IndexMap::new(),
        };
        let records: Vec<Record> = values.iter().enumerate().map(record).collect();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        let mut bytes = BytesMut::new();
        RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("records are encoded");
        let mut data = PartitionProduceData::default();
        (data.index, data.records) = (partition, Some(bytes.freeze()));
        let mut of_topic = TopicProduceData::default();
        (of_topic.name, of_topic.partition_data) = (topic_name(topic), vec![data]);
        let mut request = ProduceRequest::default();
        (request.acks, request.timeout_ms) = (1, 30_000);
        request.topic_data = vec![of_topic];
        let response: ProduceResponse = self.ask(ApiKey::Produce, 7, &request);
        let answers = response.responses.iter().flat_map(|topic| &topic.partition_responses);
        for answer in answers {
            assert_eq!(answer.error_code, 0, "{topic} takes no records");
        }
    }

    fn ask<Q: Encodable, A: Decodable>(&mut self, key: ApiKey, version: i16, request: &Q) -> A {
        let answer = self.try_ask(key, version, request);
        answer.unwrap_or_else(|| panic!("{} does not answer {key:?}", self.bootstrap))
    }

    fn try_ask<Q: Encodable, A: Decodable>(
        &mut self,
        key: ApiKey,
        version: i16,
        request: &Q,
    ) -> Option<A> {
        let mut body = BytesMut::new();
        let mut header = RequestHeader::default();
        (header.request_api_key, header.request_api_version) = (key as i16, version);
        header.client_id = Some(StrBytes::from_static_str("testkit"));
        header.encode(&mut body, key.request_header_version(version)).ok()?;
        request.encode(&mut body, version).ok()?;
        self.stream.write_all(&(body.len() as u32).to_be_bytes()).ok()?;
        self.stream.write_all(&body).ok()?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut body).ok()?;
        let mut body = Bytes::from(body);
        ResponseHeader::decode(&mut body, key.response_header_version(version)).ok()?;
        A::decode(&mut body, version).ok()
    }
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
