//! What a message costs to render, by kind of payload: nanoseconds, the best of some rounds.
//!
//! `cargo bench -p shoal-domain`. The bound to keep: 300 ns for a JSON of 200 bytes and 6 fields.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use shoal_domain::check::parse_plan;
use shoal_domain::files::Files;
use shoal_domain::template::{DeviceScope, MessageScope, Walks};

const SCENARIO: &str = r#"
version: 1
name: templates
targets: { t: { mqtt: { url: builtin } } }
groups:
  g:
    target: t
    devices: 10
    send:
      json:
        every: 1s
        publish:
          topic: a
          json: { trace: "${stamp}", device: "${device}", temperature: "${walk(15, 35, 0.2)}",
                  humidity: "${float(0, 100)}", battery: "${int(20, 100)}", sent_at: "${now_iso}",
                  kind: "environment", site: "building-7" }
      text: { every: 1s, publish: { topic: a, text: "${device} ${seq} ${int(0, 99)}" } }
      cbor:
        every: 1s
        publish:
          topic: a
          cbor: { trace: "${stamp}", device: "${device}", temperature: "${walk(15, 35, 0.2)}",
                  humidity: "${float(0, 100)}", battery: "${int(20, 100)}", sent_at: "${now_ms}" }
      hex: { every: 1s, publish: { topic: a, hex: "01 ${u16(seq)} ${f32(walk(15, 35, 0.2))} ${f32(float(0, 100))}" } }
      gzip:
        every: 1s
        publish:
          topic: a
          gzip: true
          json: { trace: "${stamp}", device: "${device}", temperature: "${walk(15, 35, 0.2)}" }
load: [ { ramp: { to: 100%, over: 1s } } ]
"#;
const ROUNDS: usize = 20;
const MESSAGES: u64 = 20_000;

fn main() {
    let plan = parse_plan(SCENARIO, &[], &Files::none()).expect("a plan");
    let secrets = BTreeMap::new();
    let device = DeviceScope {
        seed: 42,
        run: "0a1b2c3d",
        group: 0,
        index: 7,
        device: "sensor-000007",
        lets: &[],
        rows: None,
        captured: &[],
        secrets: &secrets,
    };
    let mut table = String::from("payload   bytes  ns per message\n");
    for send in plan.groups[0].sends() {
        let Some(publish) = send.publish() else { continue };
        let (mut out, mut walks) = (Vec::with_capacity(4096), Walks::default());
        let mut slot = 0;
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            for _ in 0..MESSAGES {
                slot += 1;
                let message = MessageScope {
                    series: send.series,
                    slot,
                    child: 0,
                    incarnation: 0,
                    n: slot as u32,
                    now_us: 1_700_000_000_000_000 + slot,
                };
                out.clear();
                publish.payload.render_message(&device, &message, &mut walks, &mut out);
                black_box(&out);
            }
            best = best.min(started.elapsed().as_nanos() as f64 / MESSAGES as f64);
        }
        let name = &plan.series[send.series.index()].name;
        table.push_str(&format!("{name:8} {:6} {best:15.0}\n", out.len()));
    }
    std::io::stdout().write_all(table.as_bytes()).expect("stdout takes it");
}
