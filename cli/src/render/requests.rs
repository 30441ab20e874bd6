//! What an HTTP device asks for, as it would render: `scenario plan --device` shows it, `scenario
//! try` sends it.

use std::fmt::Write as _;

use serde_json::{Value, json};
use shoal_domain::ids::SeriesId;
use shoal_domain::plan::{Group, HttpRequest, HttpTarget, Plan, Step};
use shoal_domain::reply::Captured;
use shoal_domain::request::basic;
use shoal_domain::template::{DeviceScope, MessageScope, Template, Walks};

use super::clean;

/// One request of a device.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) series: String,
    /// `on_start`, `task data`, `send`, `on_stop`.
    pub(crate) place: String,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// A request of a group with where it stands.
pub(crate) struct Placed<'p> {
    series: SeriesId,
    pub(crate) place: String,
    /// Index of the captured value that it depends on.
    pub(crate) when: Option<usize>,
    pub(crate) request: &'p HttpRequest,
}

/// Each of a group's requests once, in the order in which a device meets them.
pub(crate) fn all(group: &Group) -> Vec<Placed<'_>> {
    let mut found: Vec<Placed<'_>> = Vec::new();
    found.extend(group.on_start.iter().map(|one| placed(one, "on_start".into())));
    for send in group.sends() {
        if let Some(request) = send.http() {
            found.push(Placed { series: send.series, place: "send".into(), when: None, request });
        }
    }
    for task in group.tasks() {
        found.extend(task.steps.iter().map(|one| placed(one, format!("task {}", task.name))));
    }
    found.extend(group.on_stop.iter().map(|one| placed(one, "on_stop".into())));
    found
}

fn placed(step: &Step, place: String) -> Placed<'_> {
    Placed { series: step.series, place, when: step.when, request: &step.request }
}

/// Values that no reply has given, shown by their names.
pub(crate) fn examples(group: &Group) -> Vec<Option<Captured>> {
    let name = |name: &String| Some(Captured::text(&format!("captured.{name}")));
    group.captures.iter().map(name).collect()
}

/// As this device would send it; the first of its series.
pub(crate) fn render(
    plan: &Plan,
    group: &Group,
    target: &HttpTarget,
    placed: &Placed<'_>,
    scope: &DeviceScope<'_>,
    now_us: u64,
) -> Result<Request, String> {
    let request = placed.request;
    let message =
        MessageScope { series: placed.series, slot: 0, child: 0, incarnation: 0, n: 0, now_us };
    let mut walks = Walks::default();
    let mut path = Vec::new();
    request
        .render_path(target, scope, &message, &mut walks, &mut path)
        .map_err(|error| error.to_string())?;
    let mut headers = target.headers.clone();
    for (name, template) in &request.headers {
        let mut value = Vec::new();
        template
            .render_request(scope, &message, &mut walks, &mut value)
            .map_err(|error| error.to_string())?;
        headers.retain(|(known, _)| known != name);
        headers.push((name.clone(), String::from_utf8_lossy(&value).into_owned()));
    }
    let mut body = Vec::new();
    request
        .render_body(scope, &message, &mut walks, &mut body)
        .map_err(|error| error.to_string())?;
    if let Some(value) = authorization(group, scope)?
        && !headers.iter().any(|(name, _)| name == "authorization")
    {
        headers.push(("authorization".into(), value));
    }
    Ok(Request {
        series: plan.series_path(placed.series),
        place: placed.place.clone(),
        method: request.method.word(),
        path: String::from_utf8_lossy(&path).into_owned(),
        headers,
        body,
    })
}

/// Nothing before a value that it needs is captured.
fn authorization(group: &Group, scope: &DeviceScope<'_>) -> Result<Option<String>, String> {
    let Some(credentials) = &group.credentials else { return Ok(None) };
    let text = |template: &Option<Template>| -> Result<Option<String>, String> {
        let Some(template) = template else { return Ok(None) };
        let mut needs = Vec::new();
        template.captures(&mut needs);
        if needs.iter().any(|index| !matches!(scope.captured.get(*index), Some(Some(_)))) {
            return Ok(None);
        }
        let mut out = Vec::new();
        template.render_device(scope, &mut out).map_err(|error| error.to_string())?;
        Ok(Some(String::from_utf8_lossy(&out).into_owned()))
    };
    if credentials.bearer.is_some() {
        return Ok(text(&credentials.bearer)?.map(|bearer| format!("Bearer {bearer}")));
    }
    let Some(username) = text(&credentials.username)? else { return Ok(None) };
    let password = text(&credentials.password)?.unwrap_or_default();
    Ok(Some(basic(username.as_bytes(), password.as_bytes())))
}

/// Headers that hold what the scenario must not give away are named, not shown.
fn shown(header: &(String, String)) -> (&str, &str) {
    match header.0.as_str() {
        name @ ("authorization" | "cookie") => (name, "(not shown)"),
        name => (name, &header.1),
    }
}

pub(crate) fn text(request: &Request) -> String {
    let mut text = format!(
        "\n{} ({})\n  {} {}\n",
        clean(&request.series),
        clean(&request.place),
        request.method,
        clean(&request.path)
    );
    for (name, value) in request.headers.iter().map(shown) {
        let _ = writeln!(text, "  {}: {}", clean(name), clean(value));
    }
    if !request.body.is_empty() {
        let _ = writeln!(text, "  {}", clean(&String::from_utf8_lossy(&request.body)));
    }
    text
}

pub(crate) fn document(request: &Request) -> Value {
    let headers = request.headers.iter().map(shown);
    json!({
        "series": request.series,
        "place": request.place,
        "method": request.method,
        "path": request.path,
        "headers": headers.map(|(name, value)| (name.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>(),
        "body": String::from_utf8_lossy(&request.body),
    })
}
