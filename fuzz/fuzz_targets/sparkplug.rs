//! A command to an edge node.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_agent::fuzzing::sparkplug(data));
