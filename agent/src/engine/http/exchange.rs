//! One request and everything that belongs to its answer: redirects, cookies, body, judgement.
//!
//! An exchange begins at the moment its first byte may leave and ends with the last byte of the
//! last reply, all within one `timeout`. Each ends in exactly one of a reply as expected, an error,
//! or open at the end.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::header::{
    AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, LOCATION, SET_COOKIE,
};
use hyper::{Request, Response, Uri};
use shoal_domain::ids::SeriesId;
use shoal_domain::outcome::ErrorClass;
use shoal_domain::plan::{HttpProtocol, HttpRequest};
use shoal_domain::redirect::{Location, Origin, resolve};
use shoal_domain::reply::{Captured, Reply};
use shoal_domain::request::basic;
use shoal_domain::template::{DeviceScope, MessageScope, Walks};

use super::super::book::Due;
use super::Failed;
use super::connection::{Connection, ReplyBody, Unanswered, failure_of_body};
use super::life::{Done, Life, Stream};
use super::recipe::Recipe;
use crate::recorder::SlotClass;

/// How often a request is offered again because the idle connection that should have taken it had
/// ended before.
const MAX_OFFERS: usize = 3;

/// A request as it leaves; it may leave again after a redirect.
struct Letter {
    method: hyper::Method,
    /// Path and query.
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A reply with as much of its body as its request reads.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    /// Of the whole body.
    n_bytes: u64,
}

impl Life {
    /// `due`: the slot of the open model that this is.
    pub(super) async fn request(
        &self,
        series: SeriesId,
        request: &HttpRequest,
        recipe: &Recipe,
        slot: u64,
        due: Option<Due>,
    ) -> Done {
        let core = &self.core;
        let connection = match self.ensure_connection().await {
            Ok(connection) => connection,
            Err(failed) => return self.never_left(series, due, failed),
        };
        if !connection.ready().await {
            self.drop_connection();
        }
        let boot_us = core.boot_us();
        if !core.control.may_send(boot_us) {
            // The core's loop is about to cut this device.
            if let Some(due) = &due {
                self.device.book.borrow_mut().put_back(due);
            }
            std::future::pending::<()>().await;
        }
        let children = due.map_or(1, |due| self.group().sends()[due.send].pace.children);
        let letter = match self.write(series, request, recipe, (slot, children), boot_us) {
            Ok(letter) => letter,
            Err(failed) => return self.never_left(series, due, failed),
        };
        let now = core.run_us(boot_us);
        let intended_us = due.map(|due| due.intended_us);
        let stage = core.plan.stage_of(self.device.group, intended_us.unwrap_or(now));
        match due {
            Some(due) => {
                let lag_us = now.saturating_sub(due.intended_us);
                core.recorder.borrow_mut().sent(series, stage, lag_us, due.held);
            }
            None => core.recorder.borrow_mut().tally(series, stage).sent += 1,
        }
        self.n_sent.set(self.n_sent.get() + 1);
        let open = self.device.begin(series, stage, now, intended_us);
        let timeout = Duration::from_micros(request.timeout_us);
        let result = match tokio::time::timeout(timeout, self.exchange(request, letter)).await {
            Ok(result) => result,
            Err(_) => {
                self.abandon_reply();
                let text = format!("no complete reply within {timeout:?}");
                Err(Failed::answered(ErrorClass::RequestTimeout, text))
            }
        };
        if let Ok(answer) = &result {
            core.recorder.borrow_mut().tally(series, stage).bytes += answer.n_bytes;
        }
        let reply = result.as_ref().ok().map(|answer| (answer.status, answer.n_bytes));
        let result = result.and_then(|answer| self.judge(request, &answer));
        self.device.end(core, open, result.as_ref().copied(), reply);
        match result {
            Ok(()) => Done::Passed,
            Err(failed) => Done::Failed(failed),
        }
    }

    /// Counts a request that began and could not be sent.
    fn never_left(&self, series: SeriesId, due: Option<Due>, failed: Failed) -> Done {
        let core = &self.core;
        let now = core.now_us();
        match due {
            // It leaves the book like any other slot that no connection took.
            Some(due) if failed.class != ErrorClass::Unsendable => {
                let stage = core.plan.stage_of(self.device.group, due.intended_us);
                core.recorder.borrow_mut().class(series, stage, SlotClass::NotConnected);
            }
            Some(due) => {
                let stage = core.plan.stage_of(self.device.group, due.intended_us);
                core.recorder.borrow_mut().sent(series, stage, 0, true);
                self.device.failed(core, series, stage, &failed, now);
                self.device.never_began(core, (series, stage), Some(due.intended_us), &failed, now);
            }
            None => {
                let stage = core.plan.stage_of(self.device.group, now);
                core.recorder.borrow_mut().tally(series, stage).sent += 1;
                self.device.failed(core, series, stage, &failed, now);
                self.device.never_began(core, (series, stage), None, &failed, now);
            }
        }
        Done::Failed(failed)
    }

    fn write(
        &self,
        series: SeriesId,
        request: &HttpRequest,
        recipe: &Recipe,
        (slot, children): (u64, u32),
        boot_us: u64,
    ) -> Result<Letter, Failed> {
        let unsendable = |text: String| Failed::new(ErrorClass::Unsendable, text);
        let core = &self.core;
        let captured = self.captured.borrow();
        if let Some(missing) = request.needs.iter().find(|index| captured[**index].is_none()) {
            let name = &self.group().captures[*missing];
            return Err(unsendable(format!("captured.{name} has no value")));
        }
        let device = self.scope(&captured);
        let mut streams = self.streams.borrow_mut();
        let at = streams.iter().position(|stream| stream.series == series).unwrap_or_else(|| {
            streams.push(Stream { series, n: 0, walks: Walks::default() });
            streams.len() - 1
        });
        let stream = &mut streams[at];
        let message = MessageScope {
            series,
            slot,
            child: 0,
            incarnation: self.device.incarnation,
            n: stream.n,
            now_us: core.control.control_unix_us(boot_us),
        };
        let message = message.behind(children);
        let walks = &mut stream.walks;
        let mut path = Vec::new();
        request
            .render_path(self.target(), &device, &message, walks, &mut path)
            .map_err(|error| unsendable(error.to_string()))?;
        let path = String::from_utf8(path).map_err(|error| unsendable(error.to_string()))?;
        let mut headers = recipe.headers.clone();
        let mut value = Vec::new();
        for (name, place) in &recipe.dynamic {
            value.clear();
            request.headers[*place]
                .1
                .render_request(&device, &message, walks, &mut value)
                .map_err(|error| unsendable(error.to_string()))?;
            let value = HeaderValue::from_bytes(&value)
                .map_err(|_| unsendable(format!("header {name} would hold a control character")))?;
            headers.insert(name.clone(), value);
        }
        if !recipe.has_authorization
            && let Some(authorization) = self.authorization(&device)?
        {
            headers.insert(AUTHORIZATION, authorization);
        }
        let mut body = Vec::new();
        request
            .render_body(&device, &message, walks, &mut body)
            .map_err(|error| unsendable(error.to_string()))?;
        stream.n = stream.n.wrapping_add(1);
        Ok(Letter { method: recipe.method.clone(), path, headers, body: body.into() })
    }

    pub(super) fn scope<'a>(&'a self, captured: &'a [Option<Captured>]) -> DeviceScope<'a> {
        let (core, device) = (&self.core, &self.device);
        DeviceScope {
            seed: core.seed,
            run: &core.mark,
            group: device.group as u32,
            index: device.index,
            device: &device.identity.id,
            lets: &device.identity.lets,
            rows: self.group().rows.as_ref(),
            captured,
            secrets: &core.secrets,
        }
    }

    /// What `credentials` say; nothing before a value that they need is captured (by the login).
    fn authorization(&self, device: &DeviceScope<'_>) -> Result<Option<HeaderValue>, Failed> {
        let unsendable = |text: String| Failed::new(ErrorClass::Unsendable, text);
        let Some(credentials) = &self.group().credentials else { return Ok(None) };
        let templates = [&credentials.bearer, &credentials.username, &credentials.password];
        let mut needs = Vec::new();
        templates.into_iter().flatten().for_each(|template| template.captures(&mut needs));
        if needs.iter().any(|index| device.captured[*index].is_none()) {
            return Ok(None);
        }
        let mut text = Vec::new();
        let add = |template: &shoal_domain::template::Template, text: &mut Vec<u8>| {
            template.render_device(device, text).map_err(|error| unsendable(error.to_string()))
        };
        if let Some(bearer) = &credentials.bearer {
            text.extend_from_slice(b"Bearer ");
            add(bearer, &mut text)?;
        } else {
            let Some(username) = &credentials.username else { return Ok(None) };
            let (mut name, mut secret) = (Vec::new(), Vec::new());
            add(username, &mut name)?;
            if let Some(password) = &credentials.password {
                add(password, &mut secret)?;
            }
            text.extend_from_slice(basic(&name, &secret).as_bytes());
        }
        let mut value = HeaderValue::from_bytes(&text)
            .map_err(|_| unsendable("the credentials hold a control character".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Sends, follows redirects, and reads the last reply.
    async fn exchange(&self, request: &HttpRequest, mut letter: Letter) -> Result<Answer, Failed> {
        let target = self.target();
        let origin = Origin { tls: target.is_secure(), authority: &target.authority };
        let mut n_redirects = 0;
        loop {
            let response = self.deliver(&letter).await?;
            self.keep_cookies(response.headers(), &letter.path);
            let location = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => response.headers().get(LOCATION).cloned(),
                _ => None,
            };
            let expects_it = request
                .expect
                .status
                .iter()
                .any(|range| (range.from..=range.to).contains(&response.status().as_u16()));
            let Some(location) = location.filter(|_| !expects_it) else {
                return self.read(request, response).await;
            };
            let status = response.status().as_u16();
            self.read(request, response).await?;
            if n_redirects == request.max_redirects {
                let text = format!("more than {} redirects", request.max_redirects);
                return Err(Failed::answered(ErrorClass::TooManyRedirects, text));
            }
            n_redirects += 1;
            let location = location.to_str().unwrap_or_default();
            match resolve(location, origin, &letter.path) {
                Location::Same(path) => letter.path = path,
                Location::Elsewhere(place) => {
                    let text = format!("redirected to {place}, which is not the target");
                    return Err(Failed::answered(ErrorClass::Redirected, text));
                }
                Location::Malformed => {
                    let text = "a redirect without a usable Location";
                    return Err(Failed::answered(ErrorClass::Protocol, text));
                }
            }
            let becomes_get = match status {
                303 => letter.method != hyper::Method::HEAD,
                301 | 302 => letter.method == hyper::Method::POST,
                _ => false,
            };
            if becomes_get {
                letter.method = hyper::Method::GET;
                letter.body = Bytes::new();
                letter.headers.remove(CONTENT_TYPE);
            }
        }
    }

    /// Hands a request to the connection. An idle one may have ended a moment ago, which is found
    /// out only now; then it was not sent and another connection takes it.
    async fn deliver(&self, letter: &Letter) -> Result<Response<ReplyBody>, Failed> {
        let mut last =
            Failed::new(ErrorClass::ConnectionLost, "the connection ended again and again");
        for _ in 0..MAX_OFFERS {
            let connection = self.ensure_connection().await?;
            if !connection.ready().await {
                self.drop_connection();
                continue;
            }
            let request = self.envelope(letter)?;
            match connection.send(request).await {
                Ok(response) => return Ok(response),
                Err(Unanswered::NotSent) => self.forget(&connection),
                Err(Unanswered::Broken(failed)) => {
                    self.forget(&connection);
                    last = failed;
                    break;
                }
            }
        }
        Err(last)
    }

    /// Drops the connection unless it was replaced meanwhile.
    fn forget(&self, connection: &std::rc::Rc<Connection>) {
        let is_it = self
            .connection
            .borrow()
            .as_ref()
            .is_some_and(|current| std::rc::Rc::ptr_eq(current, connection));
        if is_it {
            self.drop_connection();
        }
    }

    fn envelope(&self, letter: &Letter) -> Result<Request<Bytes>, Failed> {
        let target = self.target();
        let unsendable = |text: String| Failed::new(ErrorClass::Unsendable, text);
        let uri = if target.protocol == HttpProtocol::Http2 {
            let scheme = if target.is_secure() { "https" } else { "http" };
            Uri::builder()
                .scheme(scheme)
                .authority(target.authority.as_str())
                .path_and_query(letter.path.as_str())
                .build()
                .map_err(|error| unsendable(format!("the path cannot be requested: {error}")))?
        } else {
            letter
                .path
                .parse()
                .map_err(|error| unsendable(format!("the path cannot be requested: {error}")))?
        };
        let mut request = Request::new(letter.body.clone());
        *request.method_mut() = letter.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = letter.headers.clone();
        let cookies = self.cookies.borrow();
        if !cookies.is_empty() {
            let mut header = Vec::new();
            let now_s = self.core.control.control_unix_us(self.core.boot_us()) / 1_000_000;
            cookies.header(&letter.path, target.is_secure(), now_s, &mut header);
            // `CookieJar` takes no control characters.
            if !header.is_empty()
                && !request.headers().contains_key(COOKIE)
                && let Ok(value) = HeaderValue::from_bytes(&header)
            {
                request.headers_mut().insert(COOKIE, value);
            }
        }
        Ok(request)
    }

    fn keep_cookies(&self, headers: &HeaderMap, path: &str) {
        let mut set = headers.get_all(SET_COOKIE).iter().peekable();
        if set.peek().is_none() {
            return;
        }
        let host = self.target().authority.as_str();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let now_s = self.core.control.control_unix_us(self.core.boot_us()) / 1_000_000;
        let mut cookies = self.cookies.borrow_mut();
        for header in set.filter_map(|header| header.to_str().ok()) {
            cookies.store(header, host, path, now_s);
        }
    }

    /// Reads a body to its end, keeping it only where something depends on it.
    async fn read(
        &self,
        request: &HttpRequest,
        response: Response<ReplyBody>,
    ) -> Result<Answer, Failed> {
        let too_large = || {
            self.abandon_reply();
            let text = format!("the reply's body is longer than {} bytes", request.max_body);
            Failed::answered(ErrorClass::BodyTooLarge, text)
        };
        let (parts, mut incoming) = response.into_parts();
        if incoming.size_hint().lower() > request.max_body {
            return Err(too_large());
        }
        let (mut body, mut n_read) = (Vec::new(), 0);
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| {
                self.abandon_reply();
                failure_of_body(&*error)
            })?;
            let Some(data) = frame.data_ref() else { continue };
            n_read += data.len() as u64;
            if n_read > request.max_body {
                return Err(too_large());
            }
            if request.reads_body() {
                body.extend_from_slice(data);
            }
        }
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, n_bytes: n_read })
    }

    fn judge(&self, request: &HttpRequest, answer: &Answer) -> Result<(), Failed> {
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let reply = Reply { status: answer.status, header, body: &answer.body };
        match request.judge(&reply) {
            Ok(found) => {
                let mut captured = self.captured.borrow_mut();
                for (index, value) in found {
                    captured[index] = value;
                }
                Ok(())
            }
            Err(unexpected) => Err(Failed::answered(unexpected.class, unexpected.text)),
        }
    }
}
