//! What an MQTT broker sends.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_agent::fuzzing::mqtt(data));
