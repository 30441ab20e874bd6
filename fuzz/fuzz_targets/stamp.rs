//! An event of the platform.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = shoal_domain::stamp::find(data);
});
