//! What a request to the listener gets: counted, or a sentence that says what is wrong with it.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use shoal_domain::batch::Framing;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Body, MAX_BODY, Push, Shared};

const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Types of content with one document per line.
const LINES: [&str; 4] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

type Answer = Response<Full<Bytes>>;
type Refusal = (StatusCode, String);

pub(super) async fn answer(
    request: Request<Incoming>,
    shared: &Shared,
    pushes: &mpsc::Sender<Push>,
) -> Answer {
    let answered = match preflight(&request) {
        Some(welcome) => return welcome,
        None => take(request, shared, pushes).await,
    };
    let (status, text) = answered.unwrap_or_else(|refusal| refusal);
    let mut answer = Response::new(Full::new(Bytes::from(text + "\n")));
    *answer.status_mut() = status;
    answer
}

/// CloudEvents' question whether one may push here at all; whether it may is the token's affair.
fn preflight(request: &Request<Incoming>) -> Option<Answer> {
    let origin = request.headers().get("webhook-request-origin")?;
    let mut answer = Response::new(Full::default());
    answer.headers_mut().insert("webhook-allowed-origin", origin.clone());
    answer.headers_mut().insert("webhook-allowed-rate", "*".parse().ok()?);
    (request.method() == Method::OPTIONS).then_some(answer)
}

async fn take(
    request: Request<Incoming>,
    shared: &Shared,
    pushes: &mpsc::Sender<Push>,
) -> Result<Refusal, Refusal> {
    let (parts, body) = request.into_parts();
    admit(&parts, shared)?;
    let is_zipped = is_zipped(&parts)?;
    let length = body.size_hint().upper().and_then(|length| usize::try_from(length).ok());
    let most = length.unwrap_or(MAX_BODY).min(MAX_BODY);
    // What it unpacks to is held as well.
    let room = if is_zipped { most + MAX_BODY } else { most };
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    let is_over = || (StatusCode::SERVICE_UNAVAILABLE, "the run is over".to_owned());
    let _held = shared.held.acquire_many(room).await.map_err(|_| is_over())?;
    let bytes = match received(body, is_zipped).await {
        Ok(bytes) => bytes,
        Err(refusal) => {
            // Counted, if the reader is still there.
            let _ = pushes.send(Push::Unreadable).await;
            return Err(refusal);
        }
    };
    let framing = framing(&parts);
    let (counted, is_counted) = oneshot::channel();
    let path = parts.uri.path().to_owned();
    let body = Body { path, headers: parts.headers, bytes, framing, counted };
    pushes.send(Push::Body(body)).await.map_err(|_| is_over())?;
    match is_counted.await.map_err(|_| is_over())? {
        Ok(n) => Ok((StatusCode::OK, format!("{n} counted"))),
        Err(broken) => Err((StatusCode::BAD_REQUEST, broken.to_string())),
    }
}

fn admit(parts: &Parts, shared: &Shared) -> Result<(), Refusal> {
    let source = &shared.source;
    let found = parts.uri.path();
    let of_run = found.strip_prefix(source.path.trim_end_matches('/'));
    let of_run = of_run.and_then(|rest| rest.strip_prefix('/'));
    if found != source.path && of_run != Some(&source.mark) {
        let why = format!("`{found}` is not of this run: push to {}", source.path);
        return Err((StatusCode::NOT_FOUND, why));
    }
    if !matches!(parts.method, Method::POST | Method::PUT) {
        let why = format!("events come by POST or PUT, not by {}", parts.method);
        return Err((StatusCode::METHOD_NOT_ALLOWED, why));
    }
    let Some(bearer) = &source.bearer else { return Ok(()) };
    let shown = parts.headers.get(AUTHORIZATION).and_then(|shown| shown.to_str().ok());
    match shown.and_then(|shown| shown.strip_prefix("Bearer ")) == Some(bearer) {
        true => Ok(()),
        false => Err((StatusCode::UNAUTHORIZED, "the bearer token is another one".to_owned())),
    }
}

fn is_zipped(parts: &Parts) -> Result<bool, Refusal> {
    let encoding = parts.headers.get(CONTENT_ENCODING).map(|encoding| encoding.as_bytes());
    match encoding {
        None | Some(b"identity" | b"") => Ok(false),
        Some(b"gzip" | b"x-gzip") => Ok(true),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            let why = format!("a body may be packed with gzip, not with {other}");
            Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, why))
        }
    }
}

fn framing(parts: &Parts) -> Framing {
    let found = parts.headers.get(CONTENT_TYPE).and_then(|found| found.to_str().ok());
    let found = found.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match LINES.iter().any(|lines| lines.eq_ignore_ascii_case(found)) {
        true => Framing::Lines,
        false => Framing::Document,
    }
}

async fn received(body: Incoming, is_zipped: bool) -> Result<Bytes, Refusal> {
    match timeout(BODY_WITHIN, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) if is_zipped => unzipped(&body.to_bytes()),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            Err((StatusCode::BAD_REQUEST, format!("the body did not come whole: {error}")))
        }
        Err(_) => {
            let why = format!("the body did not come within {BODY_WITHIN:?}");
            Err((StatusCode::REQUEST_TIMEOUT, why))
        }
    }
}

fn too_large() -> Refusal {
    let why = format!("a body has at most {} MiB", MAX_BODY / (1024 * 1024));
    (StatusCode::PAYLOAD_TOO_LARGE, why)
}

fn unzipped(body: &[u8]) -> Result<Bytes, Refusal> {
    let mut plain = Vec::new();
    let mut reader = MultiGzDecoder::new(body).take(MAX_BODY as u64 + 1);
    match reader.read_to_end(&mut plain) {
        Ok(n) if n > MAX_BODY => Err(too_large()),
        Ok(_) => Ok(plain.into()),
        Err(_) => Err((StatusCode::BAD_REQUEST, "the body is not gzip".to_owned())),
    }
}
