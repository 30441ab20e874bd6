//! A scenario file.

#![no_main]

use shoal_domain::check::{files_named, parse_plan};
use shoal_domain::files::Files;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = files_named(text, &[]);
    let _ = parse_plan(text, &[], &Files::none());
});
