//! The request log in a delta and in the store.

#![no_main]

use shoal_domain::requests::RequestLog;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(log) = RequestLog::from_bytes(data.to_vec(), 0) {
        assert_eq!(log.iter().count() as u64, log.rows(), "what was taken can be read");
    }
});
