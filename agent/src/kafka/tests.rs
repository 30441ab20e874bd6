//! The codec against another implementation of the protocol.

use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, FetchResponse, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, FetchRequest, ListOffsetsRequest, MetadataRequest, RequestHeader,
    ResponseHeader, TopicName, api_versions_response::ApiVersion,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use kafka_protocol::records::{
    Compression, Record as Written, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use proptest::prelude::*;

use super::*;

fn written(offset: i64, time_ms: i64, value: &[u8]) -> Written {
    let header = (StrBytes::from_static_str("trace"), Some(Bytes::from_static(b"of it")));
    Written {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 0,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: offset as i32,
        timestamp: time_ms,
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::copy_from_slice(value)),
        headers: IndexMap::from([header]),
    }
}

fn compress(from: &mut BytesMut, to: &mut BytesMut, kind: Compression) -> anyhow::Result<()> {
    match kind {
        Compression::None => to.extend_from_slice(from),
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(from)?;
            to.extend_from_slice(&gzip.finish()?);
        }
        Compression::Snappy => {
            // As the Java clients do.
            to.extend_from_slice(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
            for block in from.chunks(100) {
                let packed = snap::raw::Encoder::new().compress_vec(block)?;
                to.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                to.extend_from_slice(&packed);
            }
        }
        Compression::Lz4 => {
            let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
            lz4.write_all(from)?;
            to.extend_from_slice(&lz4.finish()?);
        }
        Compression::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            to.extend_from_slice(&ruzstd::encoding::compress_to_vec(&from[..], level));
        }
    }
    Ok(())
}

fn batch(records: &[Written], compression: Compression) -> BytesMut {
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression };
    RecordBatchEncoder::encode_with_custom_compression(
        &mut bytes,
        records,
        &options,
        Some(compress),
    )
    .unwrap();
    bytes
}

/// What a broker does to a batch in a topic that stamps appends: this and no more.
fn stamp_append(batch: &mut BytesMut, time_ms: i64) {
    batch[22] |= 1 << 3;
    batch[35..43].copy_from_slice(&time_ms.to_be_bytes());
}

fn partition(index: i32, records: &[u8]) -> PartitionData {
    let mut partition = PartitionData::default();
    partition.partition_index = index;
    partition.last_stable_offset = 1_000_000;
    partition.records = Some(Bytes::copy_from_slice(records));
    partition
}

fn response(version: i16, partitions: Vec<PartitionData>) -> Vec<u8> {
    let mut topic = FetchableTopicResponse::default();
    topic.topic = TopicName(StrBytes::from_static_str("out"));
    topic.partitions = partitions;
    let mut fetched = FetchResponse::default();
    fetched.responses = vec![topic];
    framed(&fetched, version, ApiKey::Fetch)
}

fn framed(message: &impl Encodable, version: i16, key: ApiKey) -> Vec<u8> {
    let mut body = BytesMut::new();
    let header = ResponseHeader::default().with_correlation_id(7);
    header.encode(&mut body, key.response_header_version(version)).unwrap();
    message.encode(&mut body, version).unwrap();
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// Partition, offset, time, value; then how far each partition was read, and what nobody could read.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    records: Vec<(u32, u64, Stamped, Vec<u8>)>,
    through: Vec<(u32, u64)>,
    n_unreadable: u64,
}

fn hear(version: i16, bytes: &[u8], portion: usize) -> Result<Heard, Malformed> {
    let mut reader = FetchReader::new(version);
    let (mut buffer, mut heard) = (BytesMut::new(), Heard::default());
    let mut is_done = false;
    for part in bytes.chunks(portion.max(1)) {
        buffer.extend_from_slice(part);
        is_done = reader.read(&mut buffer, &mut |fetched| match fetched {
            Fetched::Record(record) => {
                assert_eq!(record.key, b"key");
                let headers: Vec<_> = record.headers.iter().collect();
                assert_eq!(headers, [(&b"trace"[..], &b"of it"[..])]);
                let Record { partition, offset, stamped, value, .. } = record;
                heard.records.push((partition, offset, stamped, value.to_vec()));
            }
            Fetched::Unreadable { n } => heard.n_unreadable += n,
            Fetched::Through { partition, next } => heard.through.push((partition, next)),
            Fetched::Partition { error, end, .. } => assert_eq!((error, end), (0, 1_000_000)),
        })?;
    }
    assert!(is_done && buffer.is_empty(), "{} bytes are left", buffer.len());
    Ok(heard)
}

const KINDS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

proptest! {
    #[test]
    fn what_a_broker_sends_is_read_in_any_portions(
        version in 4i16..=11,
        batches in proptest::collection::vec(
            (0u32..3, 0usize..5, any::<bool>(), proptest::collection::vec("[a-z]{0,40}", 1..20)), 0..8,
        ),
        portion in 1usize..400,
    ) {
        let mut expected = Heard::default();
        let mut partitions: Vec<(BytesMut, u64)> = vec![(BytesMut::new(), 5); 3];
        for (index, kind, appends, values) in batches {
            let (bytes, next) = &mut partitions[index as usize];
            let records: Vec<Written> = values.iter().enumerate()
                .map(|(n, value)| written((*next + n as u64) as i64, 1_000 + n as i64, value.as_bytes()))
                .collect();
            let mut batch = batch(&records, KINDS[kind]);
            let stamped = if appends { Stamped::Append(77_000) } else { Stamped::Create };
            if appends {
                stamp_append(&mut batch, 77_000);
            }
            bytes.extend_from_slice(&batch);
            for value in values {
                expected.records.push((index, *next, stamped, value.into_bytes()));
                *next += 1;
            }
            expected.through.push((index, *next));
        }
        expected.records.sort_by_key(|(partition, offset, ..)| (*partition, *offset));
        expected.through.sort_unstable();
        let partitions = partitions.iter().enumerate().map(|(n, (bytes, _))| partition(n as i32, bytes));
        let bytes = response(version, partitions.collect());
        prop_assert_eq!(hear(version, &bytes, portion).unwrap(), expected);
    }

    #[test]
    fn garbage_ends_or_is_refused(
        version in 4i16..=11, bytes in proptest::collection::vec(any::<u8>(), 0..400),
        at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut nobody = |_: Fetched<'_>| {};
        let _ = FetchReader::new(version).read(&mut BytesMut::from(&bytes[..]), &mut nobody);
        let records: Vec<Written> = (0..5).map(|n| written(n, 1, b"some value")).collect();
        let mut bytes = response(version, vec![partition(0, &batch(&records, Compression::None))]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = FetchReader::new(version).read(&mut BytesMut::from(&bytes[..]), &mut nobody);
        let _ = (read_versions(&bytes), read_metadata(&bytes, version.min(7), "out"));
        let _ = (read_list_offsets(&bytes, 2), read_handshake(&bytes), read_authenticate(&bytes));
    }
}

#[test]
fn a_batch_that_cannot_be_unpacked_is_counted_and_passed() {
    let records: Vec<Written> = (0..5).map(|n| written(n, 1, b"some value")).collect();
    let mut spoilt = batch(&records, Compression::Gzip);
    let end = spoilt.len() - 20;
    spoilt[70..end].fill(0x55);
    let after = batch(&[written(5, 1, b"fine")], Compression::None);
    let bytes = response(11, vec![partition(2, &[&spoilt[..], &after[..]].concat())]);
    let heard = hear(11, &bytes, 64).unwrap();
    assert_eq!(heard.n_unreadable, 5);
    assert_eq!(heard.records, [(2, 5, Stamped::Create, b"fine".to_vec())]);
    assert_eq!(heard.through, [(2, 5), (2, 6)]);
}

#[test]
fn a_record_of_a_gigabyte_is_passed_over_in_portions() {
    let mut huge = batch(&[written(8, 1, b"x")], Compression::None);
    let length: i32 = 1 << 30;
    huge[8..12].copy_from_slice(&length.to_be_bytes());
    let head = response(11, vec![partition(0, &huge)]);
    // The lengths of the records and of the message grow with it; then come zeros.
    let total = 12 + length as usize;
    let at = head.len() - huge.len() - 4;
    let mut bytes = BytesMut::from(&head[..]);
    bytes[at..at + 4].copy_from_slice(&(total as u32).to_be_bytes());
    let frame = head.len() - 4 - huge.len() + total;
    bytes[..4].copy_from_slice(&(frame as u32).to_be_bytes());

    let mut reader = FetchReader::new(11);
    let (mut unreadable, mut through, mut sent) = (0, 0, bytes.len() - 4);
    let mut each = |fetched: Fetched<'_>| match fetched {
        Fetched::Unreadable { n } => unreadable += n,
        Fetched::Through { next, .. } => through = next,
        _ => {}
    };
    let zeros = vec![0_u8; 1 << 20];
    while !reader.read(&mut bytes, &mut each).unwrap() {
        assert!(bytes.len() <= 64 * 1024, "{}", bytes.len());
        let n = zeros.len().min(frame - sent);
        assert!(n > 0, "it has ended");
        bytes.extend_from_slice(&zeros[..n]);
        sent += n;
    }
    assert_eq!((unreadable, through, bytes.len()), (1, 9, 0));
}

#[test]
fn a_batch_that_unpacks_to_more_than_is_held_is_counted() {
    let bomb = vec![0_u8; super::unpack::MAX_UNPACKED + 1];
    let bytes = batch(&[written(3, 1, &bomb)], Compression::Gzip);
    let heard = hear(11, &response(11, vec![partition(0, &bytes)]), 64 * 1024).unwrap();
    assert_eq!((heard.n_unreadable, heard.through), (1, vec![(0, 4)]));
}

#[test]
fn an_aborted_transaction_is_nobodys_to_see() {
    let of = |producer: i64, offset: i64, control: bool, value: &[u8]| {
        let mut record = written(offset, 1, value);
        (record.transactional, record.producer_id, record.control) = (true, producer, control);
        (record.producer_epoch, record.sequence) = (0, offset as i32);
        batch(&[record], Compression::None)
    };
    let marker = [0, 0, 0, 0];
    let log = [
        of(1, 0, false, b"kept"),
        of(2, 1, false, b"gone"),
        of(2, 2, true, &marker),
        of(2, 3, false, b"the next one"),
        batch(&[written(4, 1, b"no transaction")], Compression::None),
        of(1, 5, true, &marker),
    ];
    let mut partition = partition(0, &log.concat());
    let mut aborted = AbortedTransaction::default();
    (aborted.producer_id, aborted.first_offset) = (2.into(), 1);
    partition.aborted_transactions = Some(vec![aborted]);
    let heard = hear(11, &response(11, vec![partition]), 50).unwrap();
    let values: Vec<&[u8]> = heard.records.iter().map(|record| record.3.as_slice()).collect();
    assert_eq!(values, [&b"kept"[..], b"the next one", b"no transaction"]);
    assert_eq!(heard.through.last(), Some(&(0, 6)));
}

#[test]
fn requests_are_what_another_implementation_reads() {
    let check = |bytes: &[u8], key: ApiKey, version: i16| {
        let mut body = Bytes::copy_from_slice(&bytes[4..]);
        assert_eq!(frame_length(bytes).unwrap(), body.len());
        let header = RequestHeader::decode(&mut body, key.request_header_version(version)).unwrap();
        assert_eq!((header.request_api_key, header.correlation_id), (key as i16, 9));
        assert_eq!(header.request_api_version, version);
        body
    };
    for version in 4..=11 {
        let mut bytes = Vec::new();
        fetch(&mut bytes, version, 9, "out", [(3, 77), (4, 0)].into_iter());
        let mut body = check(&bytes, ApiKey::Fetch, version);
        let request = FetchRequest::decode(&mut body, version).unwrap();
        assert!(body.is_empty());
        let asked = &request.topics[0].partitions;
        assert_eq!((asked[0].partition, asked[0].fetch_offset), (3, 77));
        assert_eq!((request.isolation_level, request.replica_id.0), (1, -1));
    }
    for version in 1..=3 {
        let mut bytes = Vec::new();
        list_offsets(&mut bytes, version, 9, "out", &[(0, Listed::Latest), (1, Listed::Earliest)]);
        let mut body = check(&bytes, ApiKey::ListOffsets, version);
        let request = ListOffsetsRequest::decode(&mut body, version).unwrap();
        let times: Vec<i64> = request.topics[0].partitions.iter().map(|p| p.timestamp).collect();
        assert!(body.is_empty() && times == [-1, -2], "{times:?}");
    }
    for version in 4..=7 {
        let mut bytes = Vec::new();
        metadata(&mut bytes, version, 9, "out");
        let mut body = check(&bytes, ApiKey::Metadata, version);
        let request = MetadataRequest::decode(&mut body, version).unwrap();
        assert!(body.is_empty() && !request.allow_auto_topic_creation);
    }
}

#[test]
fn leaders_are_found_in_every_version_of_the_metadata() {
    for version in 4..=7 {
        let mut broker = MetadataResponseBroker::default();
        (broker.node_id, broker.port) = (8.into(), 9_093);
        broker.host = StrBytes::from_static_str("b.example");
        let topic = |name: &'static str, error: i16| {
            let partition = |index: i32, leader: i32, error: i16| {
                let mut partition = MetadataResponsePartition::default();
                (partition.partition_index, partition.error_code) = (index, error);
                partition.leader_id = leader.into();
                partition.replica_nodes = vec![8.into(), 9.into()];
                partition
            };
            let mut topic = MetadataResponseTopic::default();
            topic.name = Some(TopicName(StrBytes::from_static_str(name)));
            topic.error_code = error;
            topic.partitions = vec![partition(0, 8, 0), partition(1, -1, 5)];
            topic
        };
        let mut message = MetadataResponse::default();
        message.brokers = vec![broker];
        message.topics = vec![topic("other", 3), topic("out", 0)];
        let bytes = framed(&message, version, ApiKey::Metadata);
        let found = read_metadata(&bytes[8..], version, "out").unwrap();
        assert_eq!(found.error, 0);
        let leader = Leader::At { host: "b.example".to_owned(), port: 9_093 };
        assert_eq!(found.partitions[&0], leader);
        assert_eq!(found.partitions[&1], Leader::Missing(5));
    }
}

#[test]
fn the_newest_common_version_is_spoken() {
    let known = |key: ApiKey, min_version, max_version| {
        let mut version = ApiVersion::default();
        (version.api_key, version.min_version, version.max_version) =
            (key as i16, min_version, max_version);
        version
    };
    let mut message = ApiVersionsResponse::default();
    message.api_keys = vec![
        known(ApiKey::Fetch, 4, 17),
        known(ApiKey::ListOffsets, 0, 2),
        known(ApiKey::Metadata, 9, 13),
    ];
    let bytes = framed(&message, 0, ApiKey::ApiVersions);
    let versions = read_versions(&bytes[8..]).unwrap();
    assert_eq!(versions.of(Api::Fetch), Some(11));
    assert_eq!(versions.of(Api::ListOffsets), Some(2));
    assert_eq!(versions.of(Api::Metadata), None);
    assert_eq!(versions.of(Api::SaslHandshake), None);
}
