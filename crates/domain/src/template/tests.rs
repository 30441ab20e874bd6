use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::check::parse_plan;
use crate::files::Files;
use crate::plan::Plan;

fn plan(group: &str, payload: &str) -> Plan {
    let text = format!(
        "version: 1\nname: t\nvars: {{ word: 'a\"b', n: 5, quoted: '5' }}\ntargets: {{ t: {{ mqtt: {{ url: builtin }} }} }}\ngroups:\n  g:\n    target: t\n    devices: 10\n{group}    send:\n      s:\n        every: 1s\n        publish:\n          topic: a/${{device}}\n          qos: 1\n{payload}load: [ {{ ramp: {{ to: 100%, over: 1s }} }} ]\n"
    );
    parse_plan(&text, &[], &Files::none()).unwrap_or_else(|found| panic!("{text}\n{found:#?}"))
}

fn json(payload: &str) -> Plan {
    plan("", &format!("          json: {payload}\n"))
}

struct Device {
    id: String,
    lets: Vec<String>,
    secrets: BTreeMap<String, String>,
}

impl Device {
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), lets: Vec::new(), secrets: BTreeMap::new() }
    }

    fn scope(&self) -> DeviceScope<'_> {
        DeviceScope {
            seed: 42,
            run: "0a1b2c3d",
            group: 0,
            index: 7,
            device: &self.id,
            lets: &self.lets,
            rows: None,
            captured: &[],
            secrets: &self.secrets,
        }
    }
}

fn message(slot: u64) -> MessageScope {
    let series = crate::ids::SeriesId(1);
    MessageScope { series, slot, child: 0, incarnation: 2, n: 3, now_us: 1_700_000_000_000_001 }
}

fn payload(plan: &Plan, device: &Device, slot: u64, walks: &mut Walks) -> String {
    let mut out = Vec::new();
    plan.groups[0].sends()[0].publish().unwrap().payload.render_message(
        &device.scope(),
        &message(slot),
        walks,
        &mut out,
    );
    String::from_utf8(out).unwrap()
}

fn rendered(text: &str) -> String {
    let plan = plan("", &format!("          text: '{text}'\n"));
    payload(&plan, &Device::new("g-7"), 4, &mut Walks::default())
}

#[test]
fn a_stamp_says_run_series_device_incarnation_number_and_time() {
    assert_eq!(rendered("${stamp}"), "sh1.0a1b2c3d.1.7.2.3.1700000000000001");
    assert_eq!(rendered("${seq}"), (2_u64 << 32 | 3).to_string());
    assert_eq!(rendered("${request}"), "0a1b2c3d.1.7.2.3");
}

#[test]
fn each_device_behind_a_connection_goes_on_by_itself() {
    let text =
        "${child} ${step(0, 1)} ${walk(0, 100, 5)} ${sequence(\"a\", \"b\")} ${int(0, 1000000)}";
    let of = |n: u32| plan("", &format!("          text: '{text}'\n        children: {n}\n"));
    let (gateway, alone) = (of(3), of(1));
    let (device, mut walks) = (Device::new("g-7"), Walks::default());
    let send = &gateway.groups[0].sends()[0];
    let mut of_child = |slot: u64| {
        let (scope, mut out) = (message(slot).behind(send.pace.children), Vec::new());
        let payload = &send.publish().unwrap().payload;
        payload.render_message(&device.scope(), &scope, &mut walks, &mut out);
        String::from_utf8(out).unwrap()
    };
    let all: Vec<String> = (0..12).map(&mut of_child).collect();
    for (slot, text) in all.iter().enumerate() {
        let words: Vec<&str> = text.split(' ').collect();
        let (child, turn) = (slot % 3, slot / 3);
        assert_eq!((words[0], words[1]), (&*child.to_string(), &*turn.to_string()));
        assert_eq!(words[3], ["a", "b"][turn % 2]);
    }
    let values = |child: usize| all.iter().skip(child).step_by(3).cloned().collect::<Vec<_>>();
    let own: std::collections::BTreeSet<String> =
        all.iter().map(|text| text.rsplit_once(' ').unwrap().1.to_owned()).collect();
    assert_eq!(own.len(), 12, "no two draw the same: {all:?}");
    // The first one has what a device without others has.
    let single: Vec<String> =
        (0..4).map(|slot| payload(&alone, &device, slot, &mut Walks::default())).collect();
    assert_eq!(values(0), single);
}

#[test]
fn functions_transform_their_argument() {
    assert_eq!(rendered("${pad(index, 6)} ${pad(-5, 4)} ${pad(12345, 3)}"), "000007 -005 12345");
    assert_eq!(rendered("${hex(device)} ${upper(hex(\"z\"))}"), "672d37 7A");
    assert_eq!(rendered("${base64(device)}|${base64(\"\")}"), "Zy03|");
    assert_eq!(rendered("${lower(\"ABC\")}$${x}"), "abc${x}");
    assert_eq!(
        rendered("${hmac_sha256(\"key\", \"The quick brown fox jumps over the lazy dog\")}"),
        "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"
    );
    assert_eq!(rendered("${bytes(5)}").len(), 10);
    assert_eq!(rendered("${base64(bytes(3))}").len(), 4);
    assert_eq!(rendered("${step(10, 0.5)}"), "12");
    assert_eq!(rendered("${sine(0, 10, 16s)}"), "10");
    assert_eq!(rendered("${now_iso} ${now_s}"), "2023-11-14T22:13:20.000001Z 1700000000");
    let uuid = rendered("${uuid()}");
    assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
}

#[test]
fn a_lone_expression_keeps_its_type() {
    let plan = json(
        "{ a: '${index}', b: '${device}', c: 'n${index}', d: '${vars.n}', e: '${vars.quoted}', f: '${choice(1, 02)}', g: yes, h: 0x1F, i: , j: [true, .5, -1e3], k: '7' }",
    );
    let text = payload(&plan, &Device::new("g-7"), 0, &mut Walks::default());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["a"], 7);
    assert_eq!(value["b"], "g-7");
    assert_eq!(value["c"], "n7");
    assert_eq!(value["d"], 5);
    assert_eq!(value["e"], "5");
    assert!(value["f"].is_number(), "{value}");
    assert_eq!(value["g"], "yes");
    assert_eq!(value["h"], 31);
    assert!(value["i"].is_null());
    assert_eq!(value["j"], serde_json::json!([true, 0.5, -1e3]));
    assert_eq!(value["k"], "7");
}

#[test]
fn a_let_is_drawn_once_and_keeps_its_type() {
    let group = "    let: { a: '${int(1, 500)}', b: 'x${let.a}' }\n";
    let plan = plan(group, "          json: { a: '${let.a}', b: '${let.b}' }\n");
    let mut device = Device::new("g-7");
    for value in &plan.groups[0].lets {
        let mut out = Vec::new();
        value.value.render_device(&device.scope(), &mut out).unwrap();
        device.lets.push(String::from_utf8(out).unwrap());
    }
    let text = payload(&plan, &device, 0, &mut Walks::default());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let a = value["a"].as_u64().unwrap();
    assert!((1..=500).contains(&a));
    assert_eq!(value["b"], format!("x{a}"));
    assert_eq!(text, payload(&plan, &device, 99, &mut Walks::default()));
}

#[test]
fn a_secret_that_was_not_provided_is_named() {
    let group = "    credentials: { username: '${device}', password: '${secret.key}' }\n";
    let plan = plan(group, "          text: x\n");
    let password = plan.groups[0].credentials.as_ref().unwrap().password.as_ref().unwrap();
    let mut device = Device::new("g-7");
    let mut out = Vec::new();
    let error = password.render_device(&device.scope(), &mut out).unwrap_err();
    assert_eq!(error.name, "key");
    device.secrets.insert("key".to_owned(), "s3cret".to_owned());
    password.render_device(&device.scope(), &mut out).unwrap();
    assert_eq!(out, b"s3cret");
}

proptest! {
    #[test]
    fn what_renders_is_json_whatever_the_values(
        device in ".{0,20}", constant in "\\PC{0,20}", slot in 0..1000_u64
    ) {
        let constant = serde_json::Value::from(constant.replace("${", "")).to_string();
        let plan = json(&format!(
            "{{ a: {constant}, b: '${{device}}', c: 'x ${{device}} ${{vars.word}}', d: '${{choice(device, 1)}}', e: '${{normal(0, 3)}}', f: '${{walk(-1, 1, 0.5)}}', g: '${{upper(device)}}', h: '${{bytes(3)}}' }}"
        ));
        let text = payload(&plan, &Device::new(&device), slot, &mut Walks::default());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&value["b"], &device);
        prop_assert!(value["e"].is_number() && value["f"].is_number());
    }

    #[test]
    fn a_device_that_changes_hands_continues(slots in 1..200_u64) {
        let plan = json("{ w: '${walk(15, 35, 0.2)}', v: '${walk(0, 9, 1)}', i: '${int(0, 99)}' }");
        let device = Device::new("g-7");
        let mut walks = Walks::default();
        let mut last = String::new();
        for slot in 0..=slots {
            last = payload(&plan, &device, slot, &mut walks);
        }
        prop_assert_eq!(last, payload(&plan, &device, slots, &mut Walks::default()));
    }
}
