//! HTTP targets and requests: everything that can be known of them before the first byte.

use super::Check;
use super::text::Scope;
use crate::plan::{
    Body, BodyCheck, Capture, CaptureFrom, Endpoint, Expect, HttpProtocol, HttpRequest, HttpTarget,
    StatusRange, Tls,
};
use crate::scenario::http::{self as written, Entry};
use crate::scenario::{Level, Payload, Written};
use crate::template::{Part, Template};

const DEFAULT_TIMEOUT_US: u64 = 30_000_000;
/// Of a reply; enough for an update of firmware, and no hostile server's choice.
const DEFAULT_MAX_BODY: u64 = 16 * 1024 * 1024;
const MOST_MAX_BODY: u64 = 1 << 40;
/// What browsers and other clients follow.
const DEFAULT_REDIRECTS: u32 = 20;

/// Headers that say how a message is framed, which is the protocol's own affair.
const FRAMING: [&str; 5] = ["connection", "content-length", "te", "transfer-encoding", "upgrade"];

impl Check<'_> {
    pub(super) fn http_target(&self, target: &written::HttpTarget) -> Option<HttpTarget> {
        let url = target.url.as_ref().and_then(|url| self.origin(url));
        let timeout_us = self.micros_or(target.timeout.as_ref(), DEFAULT_TIMEOUT_US);
        let connect_timeout_us = self.connect_timeout(target.connect_timeout.as_ref());
        let protocol = self.http_protocol(target);
        let ca = self.authorities(target.ca.as_ref());
        let server_name = match &target.server_name {
            Some(name) => self.resolve(name).map(|name| Some(name.text)),
            None => Some(None),
        };
        let resumption = self.flag(target.resumption.as_ref());
        let mut headers = Some(Vec::new());
        for entry in &target.headers {
            let name = self.header_name(entry);
            let value = self.resolve(&entry.value).filter(|value| {
                let fits = is_header_text(&value.text);
                if !fits {
                    self.misread(&entry.value, value, "text that a header may hold");
                }
                fits
            });
            match (name, value, &mut headers) {
                (Some(name), Some(value), Some(headers)) => headers.push((name, value.text)),
                _ => headers = None,
            }
        }
        let Origin { tls, endpoint, authority, base_path } = url?;
        let of_tls = [&target.ca, &target.server_name, &target.resumption];
        if let Some(key) = of_tls.into_iter().flatten().next().filter(|_| !tls) {
            let message = format!("`{}` needs an https:// url", key.key());
            self.out.report(key.place, &key.path, message, None);
            return None;
        }
        let settings = Tls { ca: ca?, server_name: server_name?, resumption: resumption? };
        Some(HttpTarget {
            endpoint,
            tls: tls.then_some(settings),
            authority,
            base_path,
            protocol: protocol?,
            headers: headers?,
            timeout_us: timeout_us?,
            connect_timeout_us: connect_timeout_us?,
        })
    }

    fn http_protocol(&self, target: &written::HttpTarget) -> Option<HttpProtocol> {
        let http2 = self.flag(target.http2.as_ref())?;
        let Some(name) = &target.protocol else {
            return Some(if http2 { HttpProtocol::Http2 } else { HttpProtocol::Http1 });
        };
        if http2 {
            let message = "`http2` found beside the name of another protocol";
            self.out.report(name.place, &name.path, message, None);
            return None;
        }
        let resolved = self.resolve(name)?;
        let is_name = (1..=64).contains(&resolved.text.len())
            && resolved.text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !is_name {
            self.misread(name, &resolved, "the name of a protocol: letters, digits, `_` or `-`");
            return None;
        }
        Some(HttpProtocol::Own(resolved.text))
    }

    fn origin(&self, url: &Written) -> Option<Origin> {
        let resolved = self.resolve(url)?;
        let origin = origin(&resolved.text);
        if origin.is_none() {
            let needs = match resolved.text.contains('@') {
                true => "http[s]://host[:port][/path] (name and password go into credentials)",
                false => "http[s]://host[:port][/path]",
            };
            self.misread(url, &resolved, needs);
        }
        origin
    }

    fn header_name(&self, entry: &Entry) -> Option<String> {
        let name = entry.name.to_ascii_lowercase();
        let is_token = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        let wrong = if !is_token {
            format!("`{}` is no name of a header", entry.name)
        } else if FRAMING.contains(&name.as_str()) {
            format!("`{}` frames the message and is not the scenario's to set", entry.name)
        } else {
            return Some(name);
        };
        self.out.report(entry.place, &entry.value.path, wrong, None);
        None
    }

    /// `scope` is that of a message of its series; `timeout_us` is the target's.
    pub(super) fn request(
        &self,
        request: &written::Request,
        scope: &Scope<'_>,
        timeout_us: Option<u64>,
    ) -> Option<HttpRequest> {
        let scope = Scope { level: Level::Message, secrets: false, ..scope.clone() };
        let inner = Scope { secrets: request.may_hold_secrets, ..scope.clone() };
        let path = request.url.as_ref().and_then(|url| self.request_path(url, &scope));
        let query = self.entries(&request.query, &scope);
        let body = request.body.as_ref().map(|body| self.body(body, &inner));
        let headers = self.headers(request, &inner);
        let timeout_us = match &request.timeout {
            Some(timeout) => self.micros(timeout),
            None => Some(timeout_us.unwrap_or(DEFAULT_TIMEOUT_US)),
        };
        let max_redirects = request
            .max_redirects
            .as_ref()
            .map_or(Some(u64::from(DEFAULT_REDIRECTS)), |most| self.whole(most, 0, 100));
        let max_body =
            request.max_body.as_ref().map_or(Some(DEFAULT_MAX_BODY), |most| self.size(most));
        let expect = self.expect(&request.expect);
        let captures = self.captures(&request.captures, &scope);
        let body = match body {
            Some(body) => Some(body?),
            None => None,
        };
        let (path, query, headers) = (path?, query?, headers?);
        let mut needs = Vec::new();
        path.captures(&mut needs);
        let in_body = match &body {
            Some(Body::Form(pairs)) => pairs.as_slice(),
            Some(Body::Whole(template)) => {
                template.captures(&mut needs);
                &[]
            }
            None => &[],
        };
        for (_, template) in query.iter().chain(&headers).chain(in_body) {
            template.captures(&mut needs);
        }
        needs.sort_unstable();
        needs.dedup();
        Some(HttpRequest {
            method: request.method?,
            path,
            query,
            headers,
            body,
            timeout_us: timeout_us?,
            max_redirects: max_redirects? as u32,
            max_body: max_body?,
            expect: expect?,
            captures: captures?,
            needs,
        })
    }

    fn request_path(&self, url: &Written, scope: &Scope<'_>) -> Option<Template> {
        let path = self.template(url, scope)?;
        let starts_well = match path.parts().first() {
            None => false,
            Some(Part::Value(_)) => true,
            Some(Part::Literal(text)) => {
                text.starts_with('/') || text.starts_with("http://") || text.starts_with("https://")
            }
        };
        if !starts_well {
            let message = format!("`{}` found, a path like /data expected", url.text);
            self.out.report(url.place, &url.path, message, None);
            return None;
        }
        Some(path)
    }

    fn entries(&self, entries: &[Entry], scope: &Scope<'_>) -> Option<Vec<(String, Template)>> {
        let pair = |entry: &Entry| Some((entry.name.clone(), self.template(&entry.value, scope)?));
        all(entries.iter().map(pair).collect())
    }

    /// Those of the file, and what the body is.
    fn headers(
        &self,
        request: &written::Request,
        scope: &Scope<'_>,
    ) -> Option<Vec<(String, Template)>> {
        let mut headers = Some(Vec::new());
        for entry in &request.headers {
            let name = self.header_name(entry);
            let value = self.template(&entry.value, scope).filter(|value| {
                let fits = value.parts().iter().all(|part| match part {
                    Part::Literal(text) => is_header_text(text),
                    Part::Value(_) => true,
                });
                if !fits {
                    let message = "a header may not hold a line break";
                    self.out.report(entry.value.place, &entry.value.path, message, None);
                }
                fits
            });
            match (name, value, &mut headers) {
                (Some(name), Some(value), Some(headers)) => headers.push((name, value)),
                _ => headers = None,
            }
        }
        let mut headers = headers?;
        let kind = request.body.as_ref().map(|body| match body {
            written::Body::Payload(Payload::Json { .. }) => "application/json",
            written::Body::Payload(Payload::Text(_)) => "text/plain; charset=utf-8",
            written::Body::Payload(Payload::Cbor { .. }) => "application/cbor",
            written::Body::Payload(Payload::Protobuf(_)) => "application/x-protobuf",
            written::Body::Payload(_) => "application/octet-stream",
            written::Body::Form(_) => "application/x-www-form-urlencoded",
        });
        if let Some(kind) = kind
            && !headers.iter().any(|(name, _)| name == "content-type")
        {
            headers.push(("content-type".to_owned(), Template::literal(kind)));
        }
        Some(headers)
    }

    fn body(&self, body: &written::Body, scope: &Scope<'_>) -> Option<Body> {
        match body {
            written::Body::Payload(payload) => self.payload(payload, scope).map(Body::Whole),
            written::Body::Form(entries) => self.entries(entries, scope).map(Body::Form),
        }
    }

    fn expect(&self, expect: &written::Expect) -> Option<Expect> {
        let status = expect.status.iter().map(|status| self.status(status)).collect();
        let body = expect.body.iter().map(|(kind, text)| {
            let text = self.resolve(text)?.text;
            Some(match *kind {
                "lacks" => BodyCheck::Lacks(text),
                "equals" => BodyCheck::Equals(text),
                _ => BodyCheck::Contains(text),
            })
        });
        let json = expect.json.iter().map(|(pointer, path, node)| {
            let template = self.json(node, path, &Scope::plan())?;
            let value = serde_json::from_str(template.constant()?).ok()?;
            Some((pointer.clone(), value))
        });
        let header = |entry: &Entry| {
            let (name, value) = (self.header_name(entry), self.resolve(&entry.value));
            Some((name?, value?.text))
        };
        let headers = expect.headers.iter().map(header).collect();
        let (body, json) = (body.collect(), json.collect());
        Some(Expect {
            status: all(status)?,
            body: all(body)?,
            json: all(json)?,
            headers: all(headers)?,
        })
    }

    /// `200`, `2xx` or `200-299`.
    fn status(&self, text: &Written) -> Option<StatusRange> {
        let resolved = self.resolve(text)?;
        let range = status_range(&resolved.text);
        if range.is_none() {
            self.misread(text, &resolved, "a status like 200, 2xx or 200-299");
        }
        range
    }

    fn captures(&self, captures: &[written::Capture], scope: &Scope<'_>) -> Option<Vec<Capture>> {
        let mut checked = Some(Vec::new());
        for capture in captures {
            let index = scope.captures.iter().position(|name| *name == capture.name);
            let from = match &capture.from {
                written::CaptureFrom::Json(text) => {
                    self.resolve(text).map(|resolved| CaptureFrom::Json(resolved.text))
                }
                written::CaptureFrom::Header(text) => self
                    .resolve(text)
                    .map(|resolved| CaptureFrom::Header(resolved.text.to_ascii_lowercase())),
            };
            match (index, from, &mut checked) {
                (Some(index), Some(from), Some(checked)) => {
                    checked.push(Capture { index, from, required: capture.required });
                }
                _ => checked = None,
            }
        }
        checked
    }

    /// A count of bytes, with or without a unit.
    fn size(&self, written: &Written) -> Option<u64> {
        let resolved = self.resolve(written)?;
        let size = size(&resolved.text).filter(|size| (1..=MOST_MAX_BODY).contains(size));
        if size.is_none() {
            self.misread(written, &resolved, "a size like 512KiB or 16MiB");
        }
        size
    }
}

/// Nothing where one was not usable; by then all of them have been looked at.
pub(super) fn all<T>(checked: Vec<Option<T>>) -> Option<Vec<T>> {
    checked.into_iter().collect()
}

struct Origin {
    tls: bool,
    endpoint: Endpoint,
    authority: String,
    base_path: String,
}

fn origin(text: &str) -> Option<Origin> {
    let (scheme, rest) = text.split_once("://")?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, base_path) = rest.split_at(end);
    let default_port = if tls { 443 } else { 80 };
    let (host, port) = super::targets::host_and_port(authority, default_port)?;
    let is_path = base_path.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b));
    if !is_path {
        return None;
    }
    let name = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Some(Origin {
        tls,
        authority: if port == default_port { name } else { format!("{name}:{port}") },
        endpoint: Endpoint::Tcp { host, port },
        base_path: base_path.trim_end_matches('/').to_owned(),
    })
}

fn status_range(text: &str) -> Option<StatusRange> {
    let status = |text: &str| {
        let status: u16 = text.trim().parse().ok()?;
        (100..=599).contains(&status).then_some(status)
    };
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
        return Some(StatusRange { from: class * 100, to: class * 100 + 99 });
    }
    match text.split_once('-') {
        Some((from, to)) => {
            let (from, to) = (status(from)?, status(to)?);
            (from <= to).then_some(StatusRange { from, to })
        }
        None => status(text).map(|status| StatusRange { from: status, to: status }),
    }
}

fn size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

/// What may stand in the value of a header: no control characters but tabs.
fn is_header_text(text: &str) -> bool {
    text.chars().all(|c| c == '\t' || !c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_origin_and_what_stands_before_every_path() {
        let found = origin("http://127.0.0.1:8080/api/").unwrap();
        assert_eq!((found.tls, found.authority.as_str()), (false, "127.0.0.1:8080"));
        assert_eq!(found.base_path, "/api");
        let found = origin("https://[::1]").unwrap();
        assert_eq!((found.tls, found.authority.as_str()), (true, "[::1]"));
        assert_eq!(found.endpoint, Endpoint::Tcp { host: "::1".into(), port: 443 });
        for wrong in ["ftp://a", "http://", "http://a:0", "http://u:p@a", "http://a/x?y", "a/b"] {
            assert!(origin(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn statuses_and_sizes_are_read_as_people_write_them() {
        assert_eq!(status_range("2xx"), Some(StatusRange { from: 200, to: 299 }));
        assert_eq!(status_range("200-204"), Some(StatusRange { from: 200, to: 204 }));
        assert_eq!(status_range("404"), Some(StatusRange { from: 404, to: 404 }));
        assert!(["6xx", "99", "204-200", "ok", ""].iter().all(|text| status_range(text).is_none()));
        assert_eq!(
            (size("2KiB"), size("100MB"), size("7")),
            (Some(2_048), Some(100_000_000), Some(7))
        );
        assert!(size("1kb").is_none() && size("").is_none());
    }
}
