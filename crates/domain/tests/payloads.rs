//! Every kind of payload renders what an independent reader of its format takes back, whatever the
//! device and the slot.

use std::collections::BTreeMap;
use std::io::Read as _;

use ciborium::Value as Cbor;
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use shoal_domain::check::parse_plan;
use shoal_domain::files::{File, Files};
use shoal_domain::plan::Plan;
use shoal_domain::template::{DeviceScope, MessageScope, Walks};

const SCHEMA: &str = r#"
syntax = "proto3";
package plant;
enum State { UNKNOWN = 0; ON = 1; OFF = 2; }
message Point { double lat = 1; double lon = 2; }
message Telemetry {
  string device = 1;
  uint64 seq = 2;
  float temperature = 3;
  sint32 offset = 4;
  State state = 5;
  bool alarm = 6;
  bytes blob = 7;
  Point place = 8;
  repeated int32 samples = 9;
  repeated string tags = 10;
  map<string, double> values = 11;
  fixed32 short = 12;
  sfixed64 long = 13;
  int64 balance = 14;
  oneof source { string name = 15; uint32 number = 16; }
}
"#;

/// What `protoc --descriptor_set_out` writes.
fn descriptors() -> Vec<u8> {
    let file = protox::file::File::from_source("plant.proto", SCHEMA).expect("a schema");
    prost_types_set(file.file_descriptor_proto().clone().encode_to_vec())
}

/// A set is its files, each as field 1.
fn prost_types_set(file: Vec<u8>) -> Vec<u8> {
    let mut set = vec![0x0a];
    prost::encoding::encode_varint(file.len() as u64, &mut set);
    set.extend(file);
    set
}

fn parse(payload: &str) -> Result<Plan, Vec<String>> {
    let text = format!(
        "version: 1
name: payloads
vars: {{ answer: 42 }}
targets: {{ t: {{ mqtt: {{ url: builtin }} }} }}
groups:
  g:
    target: t
    devices: 10
    send:
      s:
        every: 1s
        publish:
          topic: a
{payload}
load: [ {{ ramp: {{ to: 100%, over: 1s }} }} ]
"
    );
    let files: Files = [
        File::new("plant.binpb", descriptors()),
        File::new("frame.bin", *b"\x00\xffframe"),
        File::new("text.txt", *b"no schema"),
    ]
    .into_iter()
    .collect();
    parse_plan(&text, &[], &files).map_err(|found| found.iter().map(ToString::to_string).collect())
}

fn plan(payload: &str) -> Plan {
    parse(payload).unwrap_or_else(|found| panic!("{payload}\n{found:#?}"))
}

fn render(plan: &Plan, device: &str, slot: u64) -> Vec<u8> {
    let secrets = BTreeMap::new();
    let scope = DeviceScope {
        seed: 42,
        run: "0a1b2c3d",
        group: 0,
        index: 7,
        device,
        lets: &[],
        rows: None,
        captured: &[],
        secrets: &secrets,
    };
    let group = &plan.groups[0];
    let series = group.sends()[0].series;
    let message = MessageScope {
        series,
        slot,
        child: 0,
        incarnation: 0,
        n: slot as u32,
        now_us: 1_700_000_000_000_000,
    };
    let mut out = b"before".to_vec();
    let payload = &group.sends()[0].publish().expect("it publishes").payload;
    payload.render_message(&scope, &message, &mut Walks::default(), &mut out);
    assert!(out.starts_with(b"before"));
    out.split_off(6)
}

fn once(payload: &str) -> Vec<u8> {
    render(&plan(&format!("          {payload}")), "dev", 3)
}

fn mistake(payload: &str) -> String {
    parse(&format!("          {payload}")).expect_err("a mistake").join("\n")
}

/// `SHOAL_WRITE=1` writes it anew.
#[test]
fn the_shipped_schema_is_the_shipped_proto_compiled() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios/data/");
    let text = std::fs::read_to_string(format!("{dir}plant.proto")).expect("it is shipped");
    let file = protox::file::File::from_source("plant.proto", &text).expect("a schema");
    let mut file = file.file_descriptor_proto().clone();
    // Places in the text are for compilers.
    file.source_code_info = None;
    let compiled = prost_types_set(file.encode_to_vec());
    let path = format!("{dir}plant.binpb");
    if std::env::var_os("SHOAL_WRITE").is_some() {
        std::fs::write(&path, &compiled).expect("it can be written");
    }
    assert!(std::fs::read(path).is_ok_and(|shipped| shipped == compiled), "it differs");
}

#[test]
fn bytes_are_written_as_digits_as_base64_and_as_they_are() {
    assert_eq!(once("hex: '01 03 ff'"), [1, 3, 255]);
    assert_eq!(
        once("hex: '01${u16(index)}${i16le(-2)}${f32(1)}'"),
        [1, 0, 7, 0xfe, 0xff, 0x3f, 0x80, 0, 0]
    );
    assert_eq!(once("hex: '${hex(device)}'"), b"dev");
    assert_eq!(once("base64: 'AP8='"), [0, 255]);
    assert_eq!(once("binary: { file: frame.bin }"), b"\x00\xffframe");
    assert_eq!(once("binary: 'id ${device} ${u8(300)}'"), b"id dev \xff");
    assert_eq!(once("binary: '${bytes(100)}'").len(), 100);
    assert_eq!(once("text: '${sequence(\"a\", \"b\", \"c\")}'"), b"a");
    assert!(mistake("hex: '0'").contains("pairs of hexadecimal digits"));
    assert!(mistake("hex: '${device}'").contains("expressions that give bytes"));
    assert!(mistake("base64: 'A'").contains("base64 with its padding"));
    assert!(mistake("binary: { file: none.bin }").contains("not among the files"));
    assert!(mistake("hex: '00'\n          text: x").contains("exactly one of"));
    for kind in ["hex", "binary", "text", "cbor"] {
        assert!(mistake(&format!("{kind}: '${{secret.x}}'")).contains("a secret may only stand"));
    }
}

#[test]
fn a_size_is_filled_up_and_never_cut() {
    let json = once("json: { a: 1 }\n          size: 1KiB");
    assert_eq!(json.len(), 1024);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&json).unwrap()["a"], 1);
    assert_eq!(once("text: 'longer'\n          size: 2B"), b"longer");
    assert_eq!(once("hex: '01'\n          size: 3B"), [1, 0, 0]);
    let drawn = plan("          text: x\n          size: '${int(100, 2000)}'");
    let lengths: Vec<usize> = (0..50).map(|slot| render(&drawn, "d", slot).len()).collect();
    assert!(lengths.iter().all(|n| (100..=2000).contains(n)), "{lengths:?}");
    assert!(lengths.iter().any(|n| *n != lengths[0]));
    assert!(mistake("text: x\n          size: 1").contains("a size up to 1MiB"));
    assert!(mistake("text: x\n          size: 2MiB").contains("a size up to 1MiB"));
    assert!(mistake("text: x\n          size: '${device}'").contains("a size like 1KiB"));
    assert!(mistake("cbor: { a: 1 }\n          size: 1KiB").contains("would be garbage"));
    let packed = once("text: x\n          size: 1KiB\n          gzip: true");
    assert!(packed.len() < 60, "{}", packed.len());
}

#[test]
fn mistakes_in_a_message_say_what_the_schema_has() {
    let with = |message: &str, fields: &str| {
        mistake(&format!(
            "protobuf: {{ schema: plant.binpb, message: {message}, fields: {fields} }}"
        ))
    };
    let telemetry = |fields: &str| with("plant.Telemetry", fields);
    assert!(with("plant.Telemetri", "{}").contains("did you mean `plant.Telemetry`?"));
    assert!(telemetry("{ temprature: 1 }").contains("did you mean `temperature`?"));
    assert!(telemetry("{ state: ONN }").contains("did you mean `ON`?"));
    assert!(
        telemetry("{ seq: -1 }")
            .contains("a number that fits expected: the field `seq` is a uint64")
    );
    assert!(telemetry("{ seq: x }").contains("a number that fits"));
    assert!(telemetry("{ alarm: maybe }").contains("true or false"));
    assert!(telemetry("{ name: a, number: 1 }").contains("`number` excludes `name`"));
    assert!(telemetry("{ samples: 1 }").contains("a list expected"));
    assert!(telemetry("{ place: 1 }").contains("a map of fields expected"));
    assert!(
        mistake("protobuf: { schema: text.txt, message: a, fields: {} }")
            .contains("no descriptor set | help: make one with protoc")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cbor_reads_back(device in "\\PC{0,40}", slot in 0..100_000_u64) {
        let plan = plan("          cbor:
            device: '${device}'
            seq: '${seq}'
            mixed: 'n ${device} ${index}'
            temperature: '${walk(-15, 35, 0.2)}'
            whole: '${int(-70000, 70000)}'
            blob: '${bytes(30)}'
            list: [1, -2, 1.5, true, null, yes, '${vars.answer}']
            nested: { empty: {}, none: [] }
");
        let bytes = render(&plan, &device, slot);
        let value: Cbor = ciborium::from_reader(bytes.as_slice()).unwrap();
        let Cbor::Map(entries) = &value else { panic!("{value:?}") };
        let get = |key: &str| {
            entries.iter().find(|(k, _)| k.as_text() == Some(key)).map(|(_, v)| v.clone()).unwrap()
        };
        prop_assert_eq!(get("device"), Cbor::Text(device.clone()));
        prop_assert_eq!(get("seq"), Cbor::Integer(slot.into()));
        prop_assert_eq!(get("mixed"), Cbor::Text(format!("n {device} 7")));
        prop_assert!(get("temperature").is_float() || get("temperature").is_integer());
        prop_assert!(get("whole").is_integer());
        prop_assert_eq!(get("blob").as_bytes().map(Vec::len), Some(30));
        prop_assert_eq!(get("list"), Cbor::Array(vec![
            Cbor::Integer(1.into()), Cbor::Integer((-2).into()), Cbor::Float(1.5), Cbor::Bool(true),
            Cbor::Null, Cbor::Text("yes".to_owned()), Cbor::Integer(42.into()),
        ]));
        let mut again = Vec::new();
        ciborium::into_writer(&value, &mut again).unwrap();
        prop_assert!(again.len() <= bytes.len());
    }

    #[test]
    fn protobuf_reads_back(device in "\\PC{0,200}", slot in 0..100_000_u64) {
        let plan = plan("          protobuf:
            schema: plant.binpb
            message: plant.Telemetry
            fields:
              device: '${device}'
              seq: '${seq}'
              temperature: '${walk(15, 35, 0.2)}'
              offset: '${int(-500, 500)}'
              state: OFF
              alarm: '${choice(\"true\", \"false\")}'
              blob: '${bytes(20)}'
              place: { lat: 52.5, lon: '${float(-180, 180)}' }
              samples: [1, -1, '${int(-9, 9)}']
              tags: ['a', 'site ${index}']
              values: { one: 1, two: '${normal(0, 1)}' }
              short: 4294967295
              long: '${step(-5, 1)}'
              balance: '${float(-1e15, 1e15)}'
              number: 7
");
        let bytes = render(&plan, &device, slot);
        let pool = DescriptorPool::decode(descriptors().as_slice()).unwrap();
        let kind = pool.get_message_by_name("plant.Telemetry").unwrap();
        let read = DynamicMessage::decode(kind, bytes.as_slice()).unwrap();
        let get = |name: &str| read.get_field_by_name(name).unwrap().into_owned();
        prop_assert_eq!(read.unknown_fields().count(), 0);
        prop_assert_eq!(get("device"), Value::String(device));
        prop_assert_eq!(get("seq"), Value::U64(slot));
        prop_assert!((15.0..=35.0).contains(&get("temperature").as_f32().unwrap()));
        prop_assert!((-500..=500).contains(&get("offset").as_i32().unwrap()));
        prop_assert_eq!(get("state"), Value::EnumNumber(2));
        prop_assert!(get("alarm").as_bool().is_some());
        prop_assert_eq!(get("blob").as_bytes().map(|b| b.len()), Some(20));
        let place = get("place");
        let lat = place.as_message().unwrap().get_field_by_name("lat").unwrap().into_owned();
        prop_assert_eq!(lat, Value::F64(52.5));
        let samples = get("samples");
        prop_assert_eq!(&samples.as_list().unwrap()[..2], &[Value::I32(1), Value::I32(-1)]);
        prop_assert_eq!(samples.as_list().unwrap().len(), 3);
        prop_assert_eq!(
            get("tags"),
            Value::List(vec![Value::String("a".into()), Value::String("site 7".into())])
        );
        prop_assert_eq!(get("values").as_map().unwrap().len(), 2);
        prop_assert_eq!(get("short"), Value::U32(u32::MAX));
        prop_assert_eq!(get("long"), Value::I64(slot as i64 - 5));
        prop_assert!(get("balance").as_i64().is_some());
        prop_assert_eq!(get("number"), Value::U32(7));
    }

    #[test]
    fn gzip_reads_back_as_the_plain_payload(slot in 0..1_000_u64) {
        let json = "          json: { device: '${device}', t: '${walk(0, 9, 1)}', s: '${stamp}' }";
        let (plain, packed) = (plan(json), plan(&format!("{json}\n          gzip: true")));
        let mut read = String::new();
        let packed = render(&packed, "d", slot);
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut read).unwrap();
        prop_assert_eq!(read.into_bytes(), render(&plain, "d", slot));
    }
}
