use super::*;
use proptest::prelude::*;

const MARK: &str = "0000002a";
const ID: &[u8] = b"sensor-7";

fn json(pointer: &str) -> Place {
    Place::Json(Pointer::read(pointer).unwrap())
}

fn in_json() -> Fields {
    Fields {
        run: json("/run"),
        device: json("/meta/index"),
        device_is: DeviceIs::Index,
        seq: json("/meta/seq"),
        sent: json("/at"),
        unit: TimeUnit::Millis,
        resolution_us: 1_000,
    }
}

fn no_header<'e>(_: &str) -> Option<&'e [u8]> {
    None
}

fn read(fields: &Fields, value: &[u8]) -> Reading {
    let ids = || panic!("it asks for no ids");
    FieldReader::new(fields, MARK, SeriesId(3), ids).read(value, no_header)
}

fn stamp(device: u32, seq: u64, sent_us: u64) -> Reading {
    let (incarnation, n) = ((seq >> 32) as u32, seq as u32);
    Reading::Message(Stamp { run: 42, series: SeriesId(3), device, incarnation, n, sent_us })
}

#[test]
fn a_message_is_known_by_the_platforms_own_fields() {
    let value = br#"{"v":[1,{"x":2}],"at":1764140400123,"meta":{"seq":8589934596,"index":7},"run":"0000002a"}"#;
    assert_eq!(read(&in_json(), value), stamp(7, 2 << 32 | 4, 1_764_140_400_123_000));
    // Numbers that became text, floats, escapes on the way.
    let value = br#"{"run":"\u0030000002a","meta":{"seq":"4.0","index":7e0},"at":1764140400123.5}"#;
    assert_eq!(read(&in_json(), value), stamp(7, 4, 1_764_140_400_123_500));
}

#[test]
fn what_is_of_others_is_foreign_and_what_lacks_a_field_is_unparsed() {
    for (value, expected) in [
        (r#"{"run":"0000002b"}"#, Reading::Foreign),
        (r#"{"run":42,"meta":{"seq":1,"index":1},"at":1}"#, Reading::Foreign),
        (r#"{"meta":{"seq":1,"index":1},"at":1}"#, Reading::Unparsed),
        (r#"{"run":"0000002a","meta":{"seq":1},"at":1}"#, Reading::Unparsed),
        (r#"{"run":"0000002a","meta":{"seq":-1,"index":1},"at":1}"#, Reading::Unparsed),
        (r#"{"run":"0000002a","meta":{"seq":1.5,"index":1},"at":1}"#, Reading::Unparsed),
        (r#"{"run":"0000002a","meta":{"seq":1,"index":1},"at":"soon"}"#, Reading::Unparsed),
        (r#"{"run":"0000002a","meta":{"seq":1,"index":1},"at":null}"#, Reading::Unparsed),
        (r#"{"run":"0000002a","meta":{"seq":1,"index":1},"at":1e400}"#, Reading::Unparsed),
        (r#"{"run":"0000002a","meta":{"seq":1,"index":4294967296},"at":1}"#, Reading::Foreign),
        ("", Reading::Unparsed),
    ] {
        assert_eq!(read(&in_json(), value.as_bytes()), expected, "{value}");
    }
}

#[test]
fn headers_and_bytes_in_front_of_the_payload_are_read_too() {
    let header = |name: &str| match name {
        "run" => Some(MARK.as_bytes()),
        "device" => Some(ID),
        "seq" => Some(&b"5"[..]),
        "sent" => Some(&b"2026-01-31T23:59:59.5Z"[..]),
        _ => None,
    };
    let at = |name: &str| Place::Header(name.to_owned());
    let mut fields = Fields {
        run: at("run"),
        device: at("device"),
        device_is: DeviceIs::Id,
        seq: at("seq"),
        sent: at("sent"),
        unit: TimeUnit::Iso,
        resolution_us: 1,
    };
    let mut reader =
        FieldReader::new(&fields, MARK, SeriesId(3), || Ids::of_texts(&["a", "sensor-7"]));
    assert_eq!(reader.read(b"\xff", header), stamp(1, 5, 1_769_903_999_500_000));
    fields.device = at("run");
    let mut reader = FieldReader::new(&fields, MARK, SeriesId(3), || Ids::of_texts(&["a"]));
    assert_eq!(reader.read(b"", header), Reading::Foreign);
    fields.device = at("nowhere");
    let mut reader = FieldReader::new(&fields, MARK, SeriesId(3), || Ids::of_texts(&["a"]));
    assert_eq!(reader.read(b"", header), Reading::Unparsed);
}

proptest! {
    #[test]
    fn a_binary_head_is_read_back(
        device in any::<u32>(), seq in any::<u64>(), sent_us in any::<u64>(), is_little: bool,
    ) {
        let number = |at, n_bytes| {
            Place::Number { at, format: Format { n_bytes, is_little, is_float: false } }
        };
        let fields = Fields {
            run: Place::Text { at: 0, length: 8 },
            device: number(8, 4),
            device_is: DeviceIs::Index,
            seq: number(12, 8),
            sent: number(20, 8),
            unit: TimeUnit::Micros,
            resolution_us: 1,
        };
        let mut value = MARK.as_bytes().to_vec();
        let mut push = |mut bytes: Vec<u8>| {
            if is_little {
                bytes.reverse();
            }
            value.extend(bytes);
        };
        push(device.to_be_bytes().to_vec());
        push(seq.to_be_bytes().to_vec());
        push(sent_us.to_be_bytes().to_vec());
        prop_assert_eq!(read(&fields, &value), stamp(device, seq, sent_us));
        for n in 0..value.len() {
            prop_assert_eq!(read(&fields, &value[..n]), Reading::Unparsed);
        }
    }

    #[test]
    fn whatever_comes_is_one_of_three(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
        seq in "-?[0-9]{0,45}(\\.[0-9]{0,45})?([eE][+-]?[0-9]{0,9})?",
        run in "(0000002a|\\PC{0,8})",
    ) {
        let _ = read(&in_json(), &bytes);
        let value = format!(
            r#"{{"run":"{run}","meta":{{"seq":{seq},"index":{seq}}},"at":{seq}}}"#
        );
        let _ = read(&in_json(), value.as_bytes());
    }
}

#[test]
fn reading_allocates_nothing_once_the_buffer_has_grown() {
    let fields = in_json();
    let mut reader = FieldReader::new(&fields, MARK, SeriesId(3), || panic!("no ids"));
    let value = br#"{"run":"\u0030000002a","meta":{"seq":4,"index":7},"at":1764140400123}"#;
    reader.read(value, no_header);
    let counted = allocation_counter::measure(|| {
        assert_eq!(reader.read(value, no_header), stamp(7, 4, 1_764_140_400_123_000));
    });
    assert_eq!(counted.count_total, 0);
}
