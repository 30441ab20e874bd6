//! Whether a reply is what its request expects, and what is taken out of it.
//!
//! The scenario decides: a 200 with the wrong body is a failure and an expected 500 is none.
//! Failures are grouped by their text, so texts say what was expected and only briefly what came.

use serde_json::Value;

use crate::outcome::ErrorClass;
use crate::plan::{BodyCheck, Capture, CaptureFrom, Command, Expect, HttpRequest, Listener, Read};

/// Characters of a reply that a text may hold.
const MAX_QUOTED: usize = 60;

/// A reply with its body, as far as the request has to see it.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a, H> {
    pub status: u16,
    /// The value of a header, by its name in lower case.
    pub header: H,
    pub body: &'a [u8],
}

/// A value that a device captured: a JSON value or a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    pub text: String,
    /// The text is JSON other than a string and may stand in JSON as it is.
    pub is_json: bool,
}

impl Captured {
    pub fn text(text: &str) -> Self {
        Self { text: text.to_owned(), is_json: false }
    }
}

/// Why a reply is a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unexpected {
    pub class: ErrorClass,
    pub text: String,
}

impl HttpRequest {
    /// Whether the body decides anything, so that it must be kept.
    pub fn reads_body(&self) -> bool {
        let in_body = |capture: &Capture| matches!(capture.from, CaptureFrom::Json(_));
        !self.expect.body.is_empty()
            || !self.expect.json.is_empty()
            || self.captures.iter().any(in_body)
    }

    /// Judges a reply and gives each captured value with its index; `None`: it was not there.
    pub fn judge<'h>(
        &self,
        reply: &Reply<'_, impl Fn(&str) -> Option<&'h str>>,
    ) -> Result<Vec<(usize, Option<Captured>)>, Unexpected> {
        let wants_json = !self.expect.json.is_empty()
            || self.captures.iter().any(|capture| matches!(capture.from, CaptureFrom::Json(_)));
        let json = if wants_json { serde_json::from_slice(reply.body).ok() } else { None };
        self.expect.holds(reply, json.as_ref())?;
        let mut found = Vec::with_capacity(self.captures.len());
        for capture in &self.captures {
            let value = match &capture.from {
                CaptureFrom::Json(pointer) => json.as_ref().and_then(|json| at(json, pointer)),
                CaptureFrom::Header(name) => (reply.header)(name).map(Captured::text),
            };
            if value.is_none() && capture.required {
                let text = match &capture.from {
                    CaptureFrom::Json(_) if json.is_none() => "the reply is no JSON".to_owned(),
                    CaptureFrom::Json(pointer) => format!("the reply has no {pointer}"),
                    CaptureFrom::Header(name) => format!("the reply has no header {name}"),
                };
                return Err(Unexpected { class: ErrorClass::CaptureFailed, text });
            }
            found.push((capture.index, value));
        }
        Ok(found)
    }
}

impl Listener {
    /// What the reply needs of a message, in the order of `read`; an error says what was not there.
    pub fn read(&self, payload: &[u8]) -> Result<Vec<Option<Captured>>, String> {
        if self.read.is_empty() {
            return Ok(Vec::new());
        }
        let json: Value =
            serde_json::from_slice(payload).map_err(|_| "the message is no JSON".to_owned())?;
        let value = |read: &Read| match at(&json, &read.pointer) {
            Some(value) => Ok(Some(value)),
            None => Err(format!("the message has no {}", read.pointer)),
        };
        self.read.iter().map(value).collect()
    }
}

impl Command {
    /// The `${request}` that a reply repeats.
    pub fn replied(&self, payload: &[u8]) -> Option<String> {
        let json: Value = serde_json::from_slice(payload).ok()?;
        at(&json, &self.reply_id).map(|value| value.text)
    }
}

/// Null is as good as nothing.
fn at(json: &Value, pointer: &str) -> Option<Captured> {
    match json.pointer(pointer)? {
        Value::Null => None,
        Value::String(text) => Some(Captured::text(text)),
        other => Some(Captured { text: other.to_string(), is_json: true }),
    }
}

impl Expect {
    fn holds<'h>(
        &self,
        reply: &Reply<'_, impl Fn(&str) -> Option<&'h str>>,
        json: Option<&Value>,
    ) -> Result<(), Unexpected> {
        let status = reply.status;
        let fits = match self.status.as_slice() {
            [] => status < 400,
            ranges => ranges.iter().any(|range| (range.from..=range.to).contains(&status)),
        };
        if !fits {
            let text = match reason(status) {
                "" => format!("status {status}"),
                reason => format!("status {status} {reason}"),
            };
            return Err(Unexpected { class: ErrorClass::HttpStatus, text });
        }
        let differs = |text: String| Err(Unexpected { class: ErrorClass::BodyMismatch, text });
        for (name, part) in &self.headers {
            match (reply.header)(name) {
                Some(value) if value.contains(part.as_str()) => {}
                Some(value) => {
                    let value = quoted(value);
                    return differs(format!("header {name} is {value}, {} expected", quoted(part)));
                }
                None => return differs(format!("the reply has no header {name}")),
            }
        }
        for check in &self.body {
            let wrong = match check {
                BodyCheck::Contains(part) if !contains(reply.body, part) => {
                    format!("the body does not contain {}", quoted(part))
                }
                BodyCheck::Lacks(part) if contains(reply.body, part) => {
                    format!("the body contains {}", quoted(part))
                }
                BodyCheck::Equals(whole) if reply.body != whole.as_bytes() => {
                    format!("the body is not {}", quoted(whole))
                }
                _ => continue,
            };
            return differs(wrong);
        }
        if self.json.is_empty() {
            return Ok(());
        }
        let Some(json) = json else { return differs("the body is no JSON".to_owned()) };
        for (pointer, expected) in &self.json {
            match json.pointer(pointer) {
                Some(found) if equal(found, expected) => {}
                Some(found) => {
                    let (found, expected) =
                        (short(&found.to_string()), short(&expected.to_string()));
                    return differs(format!("{pointer} is {found}, {expected} expected"));
                }
                None => return differs(format!("the body has no {pointer}")),
            }
        }
        Ok(())
    }
}

/// 1 and 1.0 are one number.
fn equal(found: &Value, expected: &Value) -> bool {
    match (found.as_f64(), expected.as_f64()) {
        (Some(found), Some(expected)) => found == expected,
        _ => found == expected,
    }
}

fn contains(body: &[u8], part: &str) -> bool {
    part.is_empty() || body.windows(part.len()).any(|window| window == part.as_bytes())
}

fn quoted(text: &str) -> String {
    format!("`{}`", short(text))
}

fn short(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(MAX_QUOTED).map(clean).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        short.push_str("...");
    }
    short
}

/// What the registry calls a status; empty for the rare ones. The server's own phrase is not used,
/// because it may be anything.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Method, StatusRange};
    use crate::template::Template;
    use proptest::prelude::*;

    fn request(expect: Expect, captures: Vec<Capture>) -> HttpRequest {
        HttpRequest {
            method: Method::Get,
            path: Template::literal("/"),
            query: vec![],
            headers: vec![],
            body: None,
            timeout_us: 1,
            max_redirects: 0,
            max_body: 1,
            expect,
            captures,
            needs: vec![],
        }
    }

    fn judge(
        request: &HttpRequest,
        status: u16,
        body: &[u8],
    ) -> Result<Vec<(usize, Option<Captured>)>, Unexpected> {
        let header = |name: &str| (name == "x-token").then_some("abc");
        request.judge(&Reply { status, header, body })
    }

    fn failure(expect: Expect, status: u16, body: &str) -> (ErrorClass, String) {
        let failed = judge(&request(expect, vec![]), status, body.as_bytes()).unwrap_err();
        (failed.class, failed.text)
    }

    #[test]
    fn without_a_word_a_status_below_400_is_expected() {
        let plain = request(Expect::default(), vec![]);
        assert!(judge(&plain, 200, b"").is_ok() && judge(&plain, 304, b"").is_ok());
        let (class, text) = failure(Expect::default(), 503, "");
        assert_eq!(
            (class, text.as_str()),
            (ErrorClass::HttpStatus, "status 503 Service Unavailable")
        );
        assert_eq!(failure(Expect::default(), 599, "").1, "status 599");
    }

    #[test]
    fn a_500_may_be_a_success_and_a_200_a_failure() {
        let only_500 =
            || Expect { status: vec![StatusRange { from: 500, to: 500 }], ..Expect::default() };
        assert!(judge(&request(only_500(), vec![]), 500, b"").is_ok());
        assert_eq!(failure(only_500(), 200, "").1, "status 200 OK");
        let contains = Expect { body: vec![BodyCheck::Contains("ok".into())], ..Expect::default() };
        let (class, text) = failure(contains, 200, "failed");
        assert_eq!(
            (class, text.as_str()),
            (ErrorClass::BodyMismatch, "the body does not contain `ok`")
        );
    }

    #[test]
    fn json_is_compared_by_value_at_a_pointer() {
        let expect = Expect { json: vec![("/a/b".into(), 1.into())], ..Expect::default() };
        let plain = request(expect.clone(), vec![]);
        assert!(judge(&plain, 200, br#"{"a":{"b":1.0}}"#).is_ok());
        assert_eq!(
            failure(expect.clone(), 200, r#"{"a":{"b":"1"}}"#).1,
            r#"/a/b is "1", 1 expected"#
        );
        assert_eq!(failure(expect.clone(), 200, "{}").1, "the body has no /a/b");
        assert_eq!(failure(expect, 200, "<html>").1, "the body is no JSON");
    }

    #[test]
    fn values_are_captured_and_a_required_one_that_is_missing_is_a_failure() {
        let capture = |index, pointer: &str, required| Capture {
            index,
            from: CaptureFrom::Json(pointer.into()),
            required,
        };
        let header =
            Capture { index: 2, from: CaptureFrom::Header("x-token".into()), required: true };
        let both = request(
            Expect::default(),
            vec![capture(0, "/t", true), capture(1, "/p", false), header],
        );
        let found = judge(&both, 200, br#"{"t": 5, "p": null}"#).unwrap();
        let number = Captured { text: "5".into(), is_json: true };
        assert_eq!(found, [(0, Some(number)), (1, None), (2, Some(Captured::text("abc")))]);
        let failed = judge(&both, 200, b"{}").unwrap_err();
        assert_eq!(
            (failed.class, failed.text.as_str()),
            (ErrorClass::CaptureFailed, "the reply has no /t")
        );
    }

    proptest! {
        #[test]
        fn no_reply_makes_it_panic(status: u16, body: Vec<u8>, part in "\\PC{0,5}", pointer in "[/a~0-9]{0,6}") {
            let expect = Expect {
                body: vec![BodyCheck::Contains(part)], json: vec![(pointer.clone(), 1.into())], ..Expect::default()
            };
            let capture = Capture { index: 0, from: CaptureFrom::Json(pointer), required: true };
            if let Err(failed) = judge(&request(expect, vec![capture]), status, &body) {
                prop_assert!(failed.text.chars().count() <= 300 && !failed.text.contains('\n'));
            }
        }
    }
}
