//! What a Kafka broker answers.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_agent::fuzzing::kafka(data));
