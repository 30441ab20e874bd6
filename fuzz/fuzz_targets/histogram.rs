//! A histogram of an agent, or of the store.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = shoal_domain::histogram::Sparse::decode(data);
});
