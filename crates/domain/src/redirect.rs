//! Where a Location header leads: to a path of the same origin, or away from it.
//!
//! Load goes only to targets that the file names, so another origin is never followed. References
//! are resolved as RFC 3986 says, dot segments included. Invariant: a followed path begins with `/`
//! and holds nothing that cannot stand in a request line.

/// The origin that a device speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    pub tls: bool,
    /// Host and, where it is not the scheme's own, port.
    pub authority: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Path and query on the same origin.
    Same(String),
    /// Another scheme, host or port.
    Elsewhere(String),
    /// No reference at all.
    Malformed,
}

/// Resolves `reference` against the path of the request that it answers (or `/`).
pub fn resolve(reference: &str, origin: Origin<'_>, base: &str) -> Location {
    let reference = reference.trim().split('#').next().unwrap_or_default();
    let is_clean = |b: u8| b > b' ' && b != 0x7f;
    if reference.len() > 8_192 || !reference.bytes().all(is_clean) {
        return Location::Malformed;
    }
    let scheme = if origin.tls { "https" } else { "http" };
    let rest = match reference.split_once(':') {
        // A colon after the first slash belongs to the path.
        Some((word, rest)) if is_scheme(word) => {
            if !word.eq_ignore_ascii_case(scheme) {
                return Location::Elsewhere(short(reference));
            }
            if !rest.starts_with("//") {
                return Location::Malformed;
            }
            rest
        }
        _ => reference,
    };
    let Some(absolute) = rest.strip_prefix("//") else {
        return Location::Same(encoded(&merged(rest, base)));
    };
    let end = absolute.find(['/', '?']).unwrap_or(absolute.len());
    let (authority, path) = absolute.split_at(end);
    let own_port = if origin.tls { ":443" } else { ":80" };
    let authority = authority.strip_suffix(own_port).unwrap_or(authority);
    if !authority.eq_ignore_ascii_case(origin.authority) {
        return Location::Elsewhere(short(authority));
    }
    Location::Same(encoded(&merged(if path.is_empty() { "/" } else { path }, "/")))
}

fn is_scheme(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// Names of hosts go into error texts.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn merged(reference: &str, base: &str) -> String {
    let base_path = base.split('?').next().unwrap_or_default();
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let whole = if path.is_empty() {
        base_path.to_owned()
    } else if path.starts_with('/') {
        path.to_owned()
    } else {
        let folder = base_path.rfind('/').map_or("/", |at| &base_path[..=at]);
        format!("{folder}{path}")
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = whole.split('/').skip(usize::from(whole.starts_with('/'))).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    let path = format!("/{}", kept.join("/"));
    match query {
        Some(query) => format!("{path}?{query}"),
        // A reference without path and query means the base with its query.
        None if reference.is_empty() && base.contains('?') => {
            format!("{path}?{}", base.split_once('?').map_or("", |(_, query)| query))
        }
        None => path,
    }
}

/// Percent-encodes what servers put into Location although it may not stand there.
fn encoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    crate::digits::push_path(&mut out, text.as_bytes());
    String::from_utf8(out).expect("all bytes are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORIGIN: Origin<'_> = Origin { tls: false, authority: "host:8080" };

    fn same(reference: &str, base: &str) -> String {
        match resolve(reference, ORIGIN, base) {
            Location::Same(path) => path,
            other => panic!("{reference}: {other:?}"),
        }
    }

    #[test]
    fn a_reference_is_resolved_against_the_request() {
        assert_eq!(same("/b", "/a/x?y"), "/b");
        assert_eq!(same("b?c=1", "/a/x?y"), "/a/b?c=1");
        assert_eq!(same("../b/./c/", "/a/x/y"), "/a/b/c/");
        assert_eq!(same("../../../b", "/a"), "/b");
        assert_eq!(same("?z", "/a/x?y"), "/a/x?z");
        assert_eq!(same("http://HOST:8080/b#part", "/a"), "/b");
        assert_eq!(same("//host:8080", "/a"), "/");
        assert_eq!(same("/a:b", "/"), "/a:b");
        assert_eq!(same("/ä", "/"), "/%C3%A4");
    }

    #[test]
    fn another_origin_is_never_followed() {
        for reference in ["http://other/", "https://host:8080/", "//host:81/", "mailto:a@b"] {
            assert!(
                matches!(resolve(reference, ORIGIN, "/"), Location::Elsewhere(_)),
                "{reference}"
            );
        }
        assert_eq!(resolve("http:relative", ORIGIN, "/"), Location::Malformed);
        assert_eq!(resolve("/a b", ORIGIN, "/"), Location::Malformed);
        let default = Origin { tls: true, authority: "host" };
        assert_eq!(resolve("https://host:443/x", default, "/"), Location::Same("/x".into()));
    }

    proptest! {
        #[test]
        fn what_is_followed_can_stand_in_a_request(reference in "\\PC{0,40}", base in "/[a-z/.?]{0,20}") {
            if let Location::Same(path) = resolve(&reference, ORIGIN, &base) {
                prop_assert!(path.starts_with('/'));
                prop_assert!(path.bytes().all(|b| b.is_ascii_graphic()), "{}", path);
            }
        }
    }
}
