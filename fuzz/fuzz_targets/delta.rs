//! What an agent uploads, and the store keeps.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = shoal_proto::metrics::decode(data);
});
