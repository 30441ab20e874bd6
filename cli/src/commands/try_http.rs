//! `scenario try` for an HTTP device: each of its requests once, in order, over one connection.
//!
//! Like the MQTT half a second opinion: hyper alone, over a connection as the agents' engine makes it.
//! What a step captures the next ones use, so a login is tried as well.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, LOCATION};
use hyper_util::rt::{TokioExecutor, TokioIo};
use shoal_agent::protocol::Stream;
use shoal_domain::plan::{Group, HttpProtocol, HttpTarget, Plan};
use shoal_domain::reply::{Captured, Reply};
use shoal_domain::template::DeviceScope;
use shoal_service_kit::{Clock as _, SystemClock};

use super::try_out::Steps;
use super::try_reach::{self, Place};
use crate::render::requests::{self, Placed};

/// Of a reply's body.
const SHOWN: usize = 200;

pub(super) async fn drive(
    plan: &Plan,
    group: &Group,
    scope: &DeviceScope<'_>,
    place: &Place<'_>,
    steps: &mut Steps,
) -> Result<(), String> {
    let Some(target) = plan.targets[group.target].http() else { return Ok(()) };
    let mut captured: Vec<Option<Captured>> = vec![None; group.captures.len()];
    let mut sender = None;
    for placed in requests::all(group) {
        if placed.when.is_some_and(|index| captured[index].is_none()) {
            continue;
        }
        let scope = DeviceScope { captured: &captured, ..*scope };
        let request =
            requests::render(plan, group, target, &placed, &scope, SystemClock.unix_us())?;
        steps.add("series", format!("{} ({})", request.series, request.place));
        steps.add("request", format!("{} {}", request.method, request.path));
        if !request.body.is_empty() {
            steps.add("body", String::from_utf8_lossy(&request.body).into_owned());
        }
        let wire = to_wire(target, &request)?;
        if sender.as_ref().is_none_or(Sender::is_closed) {
            let stream = try_reach::connect(plan, group, &scope, place, steps).await?;
            let opened = Sender::open(target, TokioIo::new(stream)).await;
            sender = Some(opened.map_err(|error| error.to_string())?);
        }
        let Some(open) = &mut sender else { continue };
        let reply = tokio::time::timeout(place.patience, exchange(open, wire, &placed)).await;
        let (line, found) = reply
            .map_err(|_| format!("no complete reply within {} s", place.patience.as_secs()))??;
        steps.add("reply", line);
        for (index, value) in found? {
            let name = &group.captures[index];
            // A token is no text for a terminal.
            let what = if value.is_some() { "captured" } else { "not there" };
            steps.add("capture", format!("{name} {what}"));
            captured[index] = value;
        }
    }
    Ok(())
}

fn to_wire(
    target: &HttpTarget,
    request: &requests::Request,
) -> Result<hyper::Request<Full<Bytes>>, String> {
    let is_http2 = target.protocol == HttpProtocol::Http2;
    let uri = match is_http2 {
        true => {
            let scheme = if target.is_secure() { "https" } else { "http" };
            format!("{scheme}://{}{}", target.authority, request.path)
        }
        false => request.path.clone(),
    };
    let mut wire = hyper::Request::builder().method(request.method).uri(uri);
    if !is_http2 && !request.headers.iter().any(|(name, _)| name == "host") {
        wire = wire.header(HOST, &target.authority);
    }
    for (name, value) in &request.headers {
        wire = wire.header(name, value);
    }
    wire.body(Full::new(request.body.clone().into())).map_err(|error| error.to_string())
}

type Wire = TokioIo<Box<dyn Stream + Send>>;

/// What takes requests, in both versions.
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn open(target: &HttpTarget, wire: Wire) -> hyper::Result<Self> {
        // It ends with its sender, so nobody has to wait for it.
        let mut tasks = tokio::task::JoinSet::new();
        let sender = match target.protocol {
            HttpProtocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), wire).await?;
                tasks.spawn(connection);
                Self::Two(sender)
            }
            HttpProtocol::Http1 | HttpProtocol::Own(_) => {
                let (sender, connection) = http1::handshake(wire).await?;
                tasks.spawn(connection);
                Self::One(sender)
            }
        };
        tasks.detach_all();
        Ok(sender)
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
    }

    async fn send(
        &mut self,
        wire: hyper::Request<Full<Bytes>>,
    ) -> hyper::Result<hyper::Response<hyper::body::Incoming>> {
        match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(wire).await
            }
            Self::Two(sender) => {
                sender.ready().await?;
                sender.send_request(wire).await
            }
        }
    }
}

type Found = Result<Vec<(usize, Option<Captured>)>, String>;

/// The reply in one line, and what it holds or why it is a failure.
async fn exchange(
    sender: &mut Sender,
    wire: hyper::Request<Full<Bytes>>,
    placed: &Placed<'_>,
) -> Result<(String, Found), String> {
    let broken = |error: hyper::Error| format!("no reply: {error}");
    let (head, body) = sender.send(wire).await.map_err(broken)?.into_parts();
    let most = usize::try_from(placed.request.max_body).unwrap_or(usize::MAX);
    let body = Limited::new(body, most).collect().await.map_err(|error| error.to_string())?;
    let body = body.to_bytes();
    let text: String = String::from_utf8_lossy(&body).chars().take(SHOWN).collect();
    let mut line = format!("{} ({} bytes) {text}", head.status, body.len());
    let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
    if let Some(location) = location.filter(|_| head.status.is_redirection()) {
        line = format!("{} to {location}, which is not followed here", head.status);
        return Ok((line, Ok(Vec::new())));
    }
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let reply = Reply { status: head.status.as_u16(), header, body: &body };
    Ok((line, placed.request.judge(&reply).map_err(|unexpected| unexpected.text)))
}
