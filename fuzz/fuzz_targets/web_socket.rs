//! What a WebSocket server sends.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shoal_agent::fuzzing::web_socket(data));
