//! `scenario try`: from a group's target to an open connection, made as an agent would make it.

use std::net::SocketAddr;
use std::time::Duration;

use shoal_agent::engine::single;
use shoal_agent::protocol::Stream;
use shoal_domain::plan::{Group, Plan, Target, TargetKind};
use shoal_domain::template::DeviceScope;
use shoal_service_kit::TargetGuard;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::try_out::Steps;

/// Where the target listens, and how long one attempt may take.
pub(super) struct Place<'p> {
    pub(super) host: &'p str,
    pub(super) port: u16,
    pub(super) patience: Duration,
}

/// Over the first address that answers.
pub(super) async fn connect(
    plan: &Plan,
    group: &Group,
    scope: &DeviceScope<'_>,
    place: &Place<'_>,
    steps: &mut Steps,
) -> Result<Box<dyn Stream + Send>, String> {
    let Place { host, port, patience } = *place;
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = timeout(patience, lookup_host((plain, port)))
        .await
        .map_err(|_| format!("{host} did not resolve within {} s", patience.as_secs()))?
        .map_err(|error| format!("{host} does not resolve: {error}"))?
        .collect();
    let guard = TargetGuard::any();
    let mut why = format!("{host} has no address");
    for addr in addresses {
        let permit = guard.authorize(host, addr).map_err(|refused| refused.to_string())?;
        match timeout(patience, single::connect(plan, group, scope, permit)).await {
            Ok(Ok(stream)) => {
                let over = over(&plan.targets[group.target]);
                steps.add("tcp", format!("connected to {addr}{over}"));
                return Ok(stream);
            }
            Ok(Err(error)) => why = format!("no connection to {addr}: {error}"),
            Err(_) => why = format!("no connection to {addr} within {} s", patience.as_secs()),
        }
    }
    Err(why)
}

/// What is above TCP.
fn over(target: &Target) -> &'static str {
    let (is_secure, is_web_socket) = match &target.kind {
        TargetKind::Mqtt(mqtt) => (mqtt.tls.is_some(), mqtt.web_socket.is_some()),
        TargetKind::Http(http) => (http.is_secure(), false),
    };
    match (is_secure, is_web_socket) {
        (false, false) => "",
        (true, false) => ", TLS",
        (false, true) => ", WebSocket",
        (true, true) => ", TLS, WebSocket",
    }
}
