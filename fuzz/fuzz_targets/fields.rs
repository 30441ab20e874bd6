//! An event of the platform, read by its own fields.

#![no_main]

use std::sync::LazyLock;

use shoal_domain::check::parse_plan;
use shoal_domain::fields::{FieldReader, Ids};
use shoal_domain::files::Files;
use shoal_domain::plan::Plan;

const SCENARIO: &str = "version: 1
name: fields
targets: { t: { mqtt: { url: builtin } } }
groups:
  g:
    target: t
    devices: 3
    send: { s: { every: 1s, publish: { topic: a, qos: 1, json: { r: '${run}', n: '${seq}', t: '${now_iso}', f: '${now_ms}', i: '${index}' } } } }
observers:
  a:
    of: g.s
    read: { run: /r, device: { header: device }, seq: /a/0, sent: { json: /~1t, unit: iso } }
    webhook: { listen: '127.0.0.1:9000' }
  b:
    of: g.s
    read: { run: { binary: { at: 0, length: 8 } }, index: { binary: { at: 8, as: u16 } }, seq: { binary: { at: 10, as: f64 } }, sent: { binary: { at: 18, as: f64le }, unit: ms } }
    webhook: { listen: '127.0.0.1:9001' }
load: [ { hold: { for: 1s } } ]
";

static PLAN: LazyLock<Plan> = LazyLock::new(|| {
    parse_plan(SCENARIO, &[], &Files::none()).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
});

libfuzzer_sys::fuzz_target!(|found: (Vec<u8>, Vec<u8>)| {
    let (value, header) = found;
    for observer in &PLAN.observers {
        let fields = observer.read.as_ref().expect("both read fields");
        let ids = || Ids::of(&PLAN, 0, 1, "0123abcd");
        let mut reader = FieldReader::new(fields, "0123abcd", observer.of, ids);
        let _ = reader.read(&value, |_| Some(header.as_slice()));
    }
});
