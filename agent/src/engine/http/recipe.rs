//! What all requests of one kind have in common, made once per core.
//!
//! Names and constant headers are parsed and checked here, so that a request only renders what
//! differs from device to device and message to message.

use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use shoal_domain::plan::{Group, HttpProtocol, HttpRequest, HttpTarget, Method, Plan, Step};
use shoal_domain::template::{DeviceScope, MessageScope, MissingSecret, Walks};

const OURS: &str = concat!("shoal/", env!("CARGO_PKG_VERSION"));

pub(in crate::engine) struct Recipe {
    pub(super) method: hyper::Method,
    /// Headers that are the same in every request.
    pub(super) headers: HeaderMap,
    /// Names of the others, with their places among the request's headers.
    pub(super) dynamic: Vec<(HeaderName, usize)>,
    /// The scenario sets this header itself.
    pub(super) has_authorization: bool,
}

/// The recipes of all HTTP groups of a plan.
pub(in crate::engine) struct Kitchen {
    groups: Vec<GroupRecipes>,
}

#[derive(Default)]
pub(super) struct GroupRecipes {
    pub(super) on_start: Vec<Recipe>,
    /// By task.
    pub(super) tasks: Vec<Vec<Recipe>>,
    pub(super) on_stop: Vec<Recipe>,
    pub(super) sends: Vec<Recipe>,
}

impl Kitchen {
    pub(in crate::engine) fn new(plan: &Plan) -> Self {
        let recipes = |group: &Group| match plan.targets[group.target].http() {
            None => GroupRecipes::default(),
            Some(target) => GroupRecipes::new(group, target),
        };
        Self { groups: plan.groups.iter().map(recipes).collect() }
    }

    pub(super) fn of(&self, group: usize) -> &GroupRecipes {
        &self.groups[group]
    }
}

impl GroupRecipes {
    fn new(group: &Group, target: &HttpTarget) -> Self {
        let of = |steps: &[Step]| -> Vec<Recipe> {
            steps.iter().map(|step| Recipe::new(&step.request, target)).collect()
        };
        let requests = group.sends().iter().filter_map(|send| send.http());
        Self {
            on_start: of(&group.on_start),
            tasks: group.tasks().iter().map(|task| of(&task.steps)).collect(),
            on_stop: of(&group.on_stop),
            sends: requests.map(|request| Recipe::new(request, target)).collect(),
        }
    }
}

impl Recipe {
    fn new(request: &HttpRequest, target: &HttpTarget) -> Self {
        let mut headers = HeaderMap::new();
        if !matches!(target.protocol, HttpProtocol::Own(_)) {
            headers.insert(USER_AGENT, HeaderValue::from_static(OURS));
            headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        }
        if target.protocol == HttpProtocol::Http1
            && let Ok(host) = HeaderValue::from_str(&target.authority)
        {
            headers.insert(HOST, host);
        }
        let mut dynamic = Vec::new();
        // `check` has proved names and constant values; what it cannot know is checked when sent.
        let constant = target.headers.iter().map(|(name, value)| (name, Some(value.as_str()), 0));
        let own = request.headers.iter().enumerate();
        let own = own.map(|(place, (name, value))| (name, value.constant(), place));
        for (name, value, place) in constant.chain(own) {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
            match value.map(HeaderValue::from_str) {
                Some(Ok(value)) => {
                    headers.insert(name, value);
                }
                Some(Err(_)) => {}
                None => {
                    headers.remove(&name);
                    dynamic.push((name, place));
                }
            }
        }
        let has_authorization = headers.contains_key(AUTHORIZATION)
            || dynamic.iter().any(|(name, _)| *name == AUTHORIZATION);
        Self { method: method(request.method), headers, dynamic, has_authorization }
    }
}

pub(super) fn method(method: Method) -> hyper::Method {
    match method {
        Method::Get => hyper::Method::GET,
        Method::Post => hyper::Method::POST,
        Method::Put => hyper::Method::PUT,
        Method::Patch => hyper::Method::PATCH,
        Method::Delete => hyper::Method::DELETE,
        Method::Head => hyper::Method::HEAD,
        Method::Options => hyper::Method::OPTIONS,
    }
}

/// Renders everything of a group that may hold a secret, so that a missing one is found before the
/// load.
pub(in crate::engine) fn check_secrets(
    group: &Group,
    device: &DeviceScope<'_>,
) -> Result<(), MissingSecret> {
    let mut out = Vec::new();
    if let Some(bearer) = group.credentials.as_ref().and_then(|login| login.bearer.as_ref()) {
        bearer.render_device(device, &mut out)?;
    }
    for step in &group.on_start {
        let message = MessageScope {
            series: step.series,
            slot: 0,
            child: 0,
            incarnation: 0,
            n: 0,
            now_us: 0,
        };
        let mut walks = Walks::default();
        step.request.render_body(device, &message, &mut walks, &mut out)?;
        for (_, value) in &step.request.headers {
            value.render_request(device, &message, &mut walks, &mut out)?;
        }
    }
    Ok(())
}
