//! A table of rows, and the same bytes as a recording.

#![no_main]

use shoal_domain::check::parse_plan;
use shoal_domain::files::{File, Files};

const ROWS: &str = "version: 1
name: rows
targets: { t: { mqtt: { url: builtin } } }
groups: { g: { target: t, devices: 2, rows: a.csv, id: '${row.a}', send: { s: { every: 1s, publish: { topic: a, text: x } } } } }
load: [ { hold: { for: 1s } } ]
";
const REPLAY: &str = "version: 1
name: replay
targets: { t: { mqtt: { url: builtin } } }
groups: { g: { target: t, devices: 2, send: { s: { replay: { file: a.csv, loop: true } } } } }
load: [ { hold: { for: 1s } } ]
";

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let files: Files = [File::new("a.csv", data)].into_iter().collect();
    let _ = parse_plan(ROWS, &[], &files);
    let _ = parse_plan(REPLAY, &[], &files);
});
