//! Recorded traffic: when each message is due, what it carries, and what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_domain::check::parse_plan;
use shoal_domain::files::{File, Files};
use shoal_domain::plan::Plan;
use shoal_domain::schedule::{Slots, Timetable};
use shoal_domain::template::{DeviceScope, MessageScope, Walks};

const TRAFFIC: &[u8] =
    b"offset,topic,payload\n0,plant/a,one\n0.5,plant/b,two\n1500ms,plant/a,three\n";

fn parse(send: &str, traffic: &[u8]) -> Result<Plan, Vec<String>> {
    let text = format!(
        "version: 1
name: replay
targets: {{ t: {{ mqtt: {{ url: builtin }} }} }}
groups:
  g:
    target: t
    devices: 4
    send:
      s:
        phase: together
{send}
load: [ {{ ramp: {{ to: 100%, over: 1s }} }}, {{ hold: {{ for: 9s }} }} ]
"
    );
    let files: Files = [File::new("traffic.csv", traffic)].into_iter().collect();
    parse_plan(&text, &[], &files).map_err(|found| found.iter().map(ToString::to_string).collect())
}

fn plan(replay: &str) -> Plan {
    parse(&format!("        replay: {replay}"), TRAFFIC)
        .unwrap_or_else(|found| panic!("{found:#?}"))
}

fn mistake(send: &str) -> String {
    parse(send, TRAFFIC).expect_err("a mistake").join("\n")
}

fn slots(plan: &Plan, device: u64) -> Slots {
    let table = Timetable::new(Arc::new(plan.clone()), 1, &[]);
    table.slots(0, device, &plan.groups[0].sends()[0]).expect("it starts")
}

fn times(slots: &Slots) -> Vec<u64> {
    let mut times = Vec::new();
    let mut next = slots.first_from(0);
    while let Some((slot, us)) = next {
        times.push(us);
        next = slots.after(slot);
    }
    times
}

fn message(plan: &Plan, slot: u64) -> (String, String) {
    let secrets = BTreeMap::new();
    let device = DeviceScope {
        seed: 1,
        run: "00000000",
        group: 0,
        index: 0,
        device: "g-0",
        lets: &[],
        rows: None,
        captured: &[],
        secrets: &secrets,
    };
    let send = &plan.groups[0].sends()[0];
    let scope =
        MessageScope { series: send.series, slot, child: 0, incarnation: 0, n: 0, now_us: 0 };
    let publish = send.publish().expect("it publishes");
    let text = |template: &shoal_domain::template::Template| {
        let mut out = Vec::new();
        template.render_message(&device, &scope, &mut Walks::default(), &mut out);
        String::from_utf8(out).expect("text")
    };
    (text(&publish.topic), text(&publish.payload))
}

#[test]
fn each_device_replays_the_recording_once_from_its_start() {
    let plan = plan("{ file: traffic.csv }");
    // Four devices in one second: the third starts at 0.5 s.
    assert_eq!(times(&slots(&plan, 2)), [500_000, 1_000_000, 2_000_000]);
    assert_eq!(slots(&plan, 2).due_before(1_000_001), 2);
    assert_eq!(message(&plan, 1), ("plant/b".to_owned(), "two".to_owned()));
}

#[test]
fn speed_and_loop_change_when_and_how_often() {
    let twice = plan("{ file: traffic.csv, speed: 2, topic: 'devices/${device}' }");
    assert_eq!(times(&slots(&twice, 0)), [0, 250_000, 750_000]);
    assert_eq!(message(&twice, 2), ("devices/g-0".to_owned(), "three".to_owned()));

    let around = plan("{ file: traffic.csv, loop: 4s }");
    let expected: Vec<u64> = [0, 4, 8]
        .iter()
        .flat_map(|round| [0, 500, 1_500].map(|ms| (round * 1_000 + ms) * 1_000))
        .collect();
    assert_eq!(times(&slots(&around, 0)), expected);
    assert_eq!(slots(&around, 0).due_before(10_000_000), 9);
    assert_eq!(message(&around, 3), message(&around, 0));
    // The mean distance stands between the last message and the next first.
    let mean = plan("{ file: traffic.csv, loop: true }");
    assert_eq!(times(&slots(&mean, 0))[3], 2_250_000);
}

#[test]
fn a_replay_that_cannot_be_is_refused() {
    let replay = "        replay: { file: traffic.csv }";
    assert!(mistake(&format!("        every: 1s\n{replay}")).contains("no every or rate"));
    assert!(
        mistake(&format!("        jitter: 10%\n{replay}")).contains("no meaning beside `replay`")
    );
    assert!(mistake("        replay: { file: none.csv }").contains("not among the files"));
    assert!(mistake("        replay: { file: traffic.csv, loop: 1s }").contains("(1.5s)"));
    assert!(mistake("        replay: { file: traffic.csv, speed: 0 }").contains("0.001 to 1000"));
    assert!(
        mistake("        replay: { file: traffic.csv, json: 1 }").contains("unknown key `json`")
    );
    assert!(mistake("        publish: { topic: a, text: b }").contains("exactly one of every"));
    let topicless = parse(replay, b"offset,payload\n1,x\n").expect_err("a mistake");
    assert!(topicless[0].contains("no column `topic` | help: give the replay"), "{topicless:?}");
    let once = parse(
        "        replay: { file: traffic.csv, loop: true }",
        b"offset,topic,payload\n0,a,x\n",
    );
    assert!(once.expect_err("a mistake")[0].contains("like loop: 10s"));
}
