//! Headers of a reply that change what a device does next.

#![no_main]

use shoal_domain::cookies::CookieJar;
use shoal_domain::redirect::{Location, Origin, resolve};

libfuzzer_sys::fuzz_target!(|found: (Vec<String>, String, String)| {
    let (cookies, location, base) = found;
    let (mut jar, mut header) = (CookieJar::default(), Vec::new());
    for cookie in &cookies {
        jar.store(cookie, "platform", "/a/b", 1_000);
    }
    jar.header("/a/b/c", false, 1_001, &mut header);
    assert!(!header.contains(&b'\n') && !header.contains(&b'\r'), "one header stays one");
    let origin = Origin { tls: true, authority: "platform" };
    if let Location::Same(path) = resolve(&location, origin, &base) {
        assert!(path.starts_with('/'), "{path}");
        assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
    }
});
