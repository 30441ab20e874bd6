//! The bytes of this protocol, kept: whoever changes what an agent of an earlier build says or is told
//! finds out here. New fields are added beside these; anything else is another [`PROTOCOL`].
//!
//! `SHOAL_GOLDEN=write cargo test --workspace --lib golden` writes the file of a new protocol.

use std::fmt::Debug;
use std::path::PathBuf;

use prost::Message;
use shoal_domain::delta::{Delta, Health, Tally};
use shoal_domain::ids::{SeriesId, StageId};
use shoal_domain::outcome::ErrorClass;

use crate::{PROTOCOL, metrics, v1};

fn hello() -> v1::AgentMessage {
    let hello = v1::Hello {
        protocol: 1,
        agent_id: "north-1".into(),
        incarnation: "f00d".into(),
        build: "0.1.0".into(),
        labels: [("region".to_owned(), "eu".to_owned())].into(),
        capacity: Some(v1::Capacity {
            cores: 2.0,
            descriptors: 1_024,
            ports: 28_232,
            memory_bytes: 1 << 30,
            weight: 2.0,
            max_devices: 900,
            ..v1::Capacity::default()
        }),
        inventory: vec![v1::Observed {
            assignment_id: "run_1.north-1".into(),
            epoch: 3,
            phase: v1::AssignmentPhase::Fenced.into(),
            closed_at_us: 7_000_000,
            ..v1::Observed::default()
        }],
        predecessor: "beef".into(),
        ..v1::Hello::default()
    };
    v1::AgentMessage { message: Some(v1::agent_message::Message::Hello(hello)) }
}

fn beat() -> v1::AgentMessage {
    let beat = v1::Heartbeat { sent_boot_us: 12_345, leaving: true };
    v1::AgentMessage { message: Some(v1::agent_message::Message::Heartbeat(beat)) }
}

fn desired() -> v1::ControlMessage {
    let assignment = v1::Assignment {
        assignment_id: "run_1.north-1".into(),
        epoch: 4,
        run_id: "run_1".into(),
        scenario: "version: 1\n".into(),
        plan_hash: vec![1; 32],
        seed: 9,
        t0_us: 1_700_000_000_000_000,
        ..v1::Assignment::default()
    };
    let desired = v1::DesiredState { assignments: vec![assignment] };
    v1::ControlMessage { message: Some(v1::control_message::Message::Desired(desired)) }
}

fn delta() -> Delta {
    let mut tally = Tally { sent: 2, held: 1, missed: 1, acked: 1, ..Tally::default() };
    tally.error(ErrorClass::AckTimeout);
    tally.send_lag.record(900);
    tally.response_time.record(1_000);
    tally.response_time.record(30_000_000);
    let health = Health { stall_max_us: 120_000, descriptor_errors: 3, ..Health::default() };
    let cells = [((SeriesId(1), StageId(0)), tally)].into();
    Delta { first_window: 4, last_window: 5, cells, health, ..Delta::default() }
}

fn upload() -> v1::UploadDelta {
    v1::UploadDelta {
        assignment_id: "run_1.north-1".into(),
        epoch: 4,
        seq: 17,
        body: metrics::encode(&delta()),
        closing: Some(v1::Closing { closed_at_us: 60_000_000, totals: metrics::encode(&delta()) }),
        ..v1::UploadDelta::default()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

#[track_caller]
fn is_kept<M: Message + Default + PartialEq + Debug>(golden: &str, name: &str, message: &M) {
    let line = golden.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let kept = bytes(line.unwrap_or_else(|| panic!("no {name}")));
    assert_eq!(M::decode(&kept[..]).as_ref(), Ok(message), "{name} means something else now");
    assert_eq!(hex(&message.encode_to_vec()), hex(&kept), "{name} is written differently now");
    // What a later build says beside it is passed over: field 900, three bytes.
    let later = [&kept[..], &[0xa2, 0x38, 3, 1, 2, 3]].concat();
    assert_eq!(M::decode(&later[..]).as_ref(), Ok(message), "{name} of a later build");
}

#[test]
fn what_this_protocol_says_stays_what_it_was() {
    let path = format!("golden/protocol-{PROTOCOL}.txt");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var("SHOAL_GOLDEN").is_ok_and(|what| what == "write") && !path.exists() {
        let lines = [
            ("hello", hello().encode_to_vec()),
            ("beat", beat().encode_to_vec()),
            ("desired", desired().encode_to_vec()),
            ("upload", upload().encode_to_vec()),
        ];
        let text: String =
            lines.iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect();
        std::fs::write(&path, text).expect("a file of this repository");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; SHOAL_GOLDEN=write makes that of a new protocol", path.display())
    });
    is_kept(&golden, "hello", &hello());
    is_kept(&golden, "beat", &beat());
    is_kept(&golden, "desired", &desired());
    is_kept(&golden, "upload", &upload());
    assert_eq!(metrics::decode(&upload().body), Ok(delta()));
}
