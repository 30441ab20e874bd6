//! The reply of an HTTP server, as a step reads it.

#![no_main]

use std::sync::LazyLock;

use shoal_domain::check::parse_plan;
use shoal_domain::files::Files;
use shoal_domain::plan::Plan;
use shoal_domain::reply::Reply;

const SCENARIO: &str = "version: 1
name: reply
targets: { t: { http: { url: 'http://127.0.0.1' } } }
groups:
  g:
    target: t
    devices: 1
    loop:
      tasks:
        a: { http: { get: /, expect: { status: [ 2xx, 500 ], body: { contains: a }, json: { /a/0: 1 } }, capture: { t: /t, h: { header: X } } } }
load: [ { hold: { for: 1s } } ]
";

static PLAN: LazyLock<Plan> =
    LazyLock::new(|| parse_plan(SCENARIO, &[], &Files::none()).expect("a plan"));

libfuzzer_sys::fuzz_target!(|found: (u16, String, Vec<u8>)| {
    let (status, header, body) = found;
    let step = PLAN.groups[0].steps().next().expect("one step");
    let header = |_: &str| Some(header.as_str());
    let _ = step.request.judge(&Reply { status, header, body: &body });
});
