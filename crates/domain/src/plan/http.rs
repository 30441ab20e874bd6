//! What HTTP devices do: requests, what is expected of their replies, steps, and the closed loop.

use super::{Endpoint, Tls};
use crate::ids::SeriesId;
use crate::template::Template;

/// One origin: every request of a group goes there, also those that a reply redirects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// Never [`Endpoint::Builtin`].
    pub endpoint: Endpoint,
    /// `https`.
    pub tls: Option<Tls>,
    /// What the Host header says: the port is left out where it is the scheme's own.
    pub authority: String,
    /// Stands before every path; without a `/` at its end, so empty for most targets.
    pub base_path: String,
    pub protocol: HttpProtocol,
    /// Sent with every request; the names are in lower case.
    pub headers: Vec<(String, String)>,
    /// Of requests that have none of their own.
    pub timeout_us: u64,
    /// For one attempt, to its TCP connection and TLS handshake.
    pub connect_timeout_us: u64,
}

impl HttpTarget {
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }
}

/// How requests and replies travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpProtocol {
    Http1,
    /// Without asking first.
    Http2,
    /// As a protocol of this name does, which the agents bring along.
    Own(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
    Head,
    Options,
}

impl Method {
    pub const ALL: [Self; 7] =
        [Self::Get, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Head, Self::Options];

    /// As it stands in a request.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
        }
    }

    /// The key of the scenario file.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Head => "head",
            Self::Options => "options",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpRequest {
    pub method: Method,
    /// `/path?query`, or a whole URL of the target.
    pub path: Template,
    /// Percent-encoded and appended to the path.
    pub query: Vec<(String, Template)>,
    /// The names are in lower case; the content type of the body is among them.
    pub headers: Vec<(String, Template)>,
    pub body: Option<Body>,
    /// For all of it: the redirects and the reply's last byte as well.
    pub timeout_us: u64,
    /// Redirects that are followed; one more is an error.
    pub max_redirects: u32,
    /// A longer reply is an error and ends the connection.
    pub max_body: u64,
    pub expect: Expect,
    pub captures: Vec<Capture>,
    /// Captured values (indices into [`super::Group::captures`]) without which it cannot be made.
    pub needs: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// JSON, text or anything else that renders as one piece.
    Whole(Template),
    /// `name=value&...`, percent-encoded.
    Form(Vec<(String, Template)>),
}

/// What a reply must be; anything else is a failure, whatever the server thinks of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expect {
    /// Empty: below 400.
    pub status: Vec<StatusRange>,
    pub body: Vec<BodyCheck>,
    pub json: Vec<(String, serde_json::Value)>,
    /// The names are in lower case; the value must contain the text.
    pub headers: Vec<(String, String)>,
}

/// `200`, or `2xx` for 200 to 299; both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    pub from: u16,
    pub to: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyCheck {
    Contains(String),
    Lacks(String),
    Equals(String),
}

/// A value taken out of a reply, for later steps of the same device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Index into [`super::Group::captures`].
    pub index: usize,
    pub from: CaptureFrom,
    /// A reply without it is a failure.
    pub required: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureFrom {
    /// A JSON pointer (RFC 6901) into the body.
    Json(String),
    /// The name is in lower case.
    Header(String),
}

/// One request of a sequence. Steps with one name share their series.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub series: SeriesId,
    /// Only where this captured value exists.
    pub when: Option<usize>,
    pub request: HttpRequest,
}

/// The closed model: one task after the other, each after a wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Loop {
    pub wait: Wait,
    /// At least one; their weights add up to at least 1.
    pub tasks: Vec<Task>,
    /// Between the starts of two tasks of the whole group, at least; its rate cap.
    pub cap_interval_ns: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub name: String,
    pub weight: u32,
    /// At least one.
    pub steps: Vec<Step>,
}

/// Between the end of a task and the start of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    None,
    Constant { us: u64 },
    Between { least_us: u64, most_us: u64 },
    Pacing { us: u64 },
}

impl Loop {
    pub fn weights(&self) -> u64 {
        self.tasks.iter().map(|task| u64::from(task.weight)).sum()
    }
}
