//! A message renders into memory that is there already: nothing is allocated on the way.

use std::collections::BTreeMap;

use shoal_domain::check::parse_plan;
use shoal_domain::files::Files;
use shoal_domain::template::{DeviceScope, MessageScope, Walks};

const SCENARIO: &str = r#"
version: 1
name: allocations
targets: { t: { mqtt: { url: builtin } } }
groups:
  g:
    target: t
    devices: 10
    let: { site: "site-${int(1, 9)}" }
    send:
      json:
        every: 1s
        publish:
          topic: devices/${device}/${let.site}
          json: { trace: "${stamp}", temperature: "${walk(15, 35, 0.2)}", battery: "${int(20, 100)}",
                  site: "${let.site}", at: "${now_iso}", state: "${choice('on', 'off', device)}",
                  id: "${uuid()}", day: "${sine(0, 1, 24h)}", key: "${base64(bytes(16))}" }
      cbor:
        every: 1s
        publish: { topic: a, cbor: { device: "${device}", t: "${normal(20, 2)}", b: "${bytes(9)}" } }
      packed:
        every: 1s
        publish: { topic: a, hex: "01${u16(seq)}${f32le(walk(0, 9, 1))}", size: 100B }
      small:
        every: 1s
        publish: { topic: a, gzip: true, json: { trace: "${stamp}", n: "${step(1, 1)}" } }
load: [ { ramp: { to: 100%, over: 1s } } ]
"#;

#[test]
fn nothing_is_allocated_where_a_message_renders() {
    let plan = parse_plan(SCENARIO, &[], &Files::none()).unwrap();
    let secrets = BTreeMap::new();
    let device = DeviceScope {
        seed: 42,
        run: "0a1b2c3d",
        group: 0,
        index: 7,
        device: "g-7",
        lets: &["site-3".to_owned()],
        rows: None,
        captured: &[],
        secrets: &secrets,
    };
    for send in plan.groups[0].sends() {
        let publish = send.publish().unwrap();
        let (mut out, mut walks) = (Vec::with_capacity(4096), Walks::default());
        let mut render = |slot: u64| {
            let message = MessageScope {
                series: send.series,
                slot,
                child: 0,
                incarnation: 0,
                n: slot as u32,
                now_us: 1_700_000_000_000_000 + slot,
            };
            out.clear();
            publish.topic.render_message(&device, &message, &mut walks, &mut out);
            publish.payload.render_message(&device, &message, &mut walks, &mut out);
            assert!(out.len() > 10);
        };
        // Walks and the compressor are made at first use.
        render(0);
        let counted = allocation_counter::measure(|| (1..1_000).for_each(&mut render));
        assert_eq!(counted.count_total, 0, "{}", plan.series_path(send.series));
    }
}
