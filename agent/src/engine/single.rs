//! One device by itself: its connection and its login as the engine would make them, for who wants to
//! talk with the target without a run.

use shoal_domain::plan::{Group, Plan};
use shoal_domain::template::DeviceScope;
use shoal_service_kit::Permit;

use super::certificates::{self, Signer};
use super::device::Identity;
use super::dial::Route;
use super::prepare::upgrade;
use super::secure::Secure;
use crate::protocol::Stream;

/// A connection to the group's target, ready for its protocol: TCP, TLS with the device's own
/// certificate, WebSocket, as the plan says. Why there is none is one sentence.
pub async fn connect(
    plan: &Plan,
    group: &Group,
    scope: &DeviceScope<'_>,
    permit: Permit,
) -> Result<Box<dyn Stream + Send>, String> {
    let target = &plan.targets[group.target];
    let secure = Secure::of(plan, target).await?;
    let upgrade = upgrade(target);
    let wanted = group.credentials.as_ref().and_then(|login| login.certificate.as_ref());
    let shown = match wanted {
        None => None,
        Some(wanted) => {
            let signer = wanted.is_signed.then(|| Signer::new(plan, wanted, scope)).transpose()?;
            Some(certificates::of_device(plan, wanted, signer.as_ref(), scope)?)
        }
    };
    let own = secure.as_ref().and_then(|secure| secure.own_config(shown));
    let route = Route { permits: vec![permit], sources: Vec::new(), secure, upgrade };
    let transport = route.dial(0, own).await.map_err(|lost| lost.text)?;
    Ok(Box::new(transport))
}

/// User name and password, or a signature that is good from `unix_s` on.
pub fn login(
    group: &Group,
    scope: &DeviceScope<'_>,
    unix_s: u64,
) -> Result<(Option<String>, Option<String>), String> {
    let identity =
        Identity::render(group, scope, scope.index).map_err(|error| error.to_string())?;
    let login = identity.credentials(group, scope, scope.index, unix_s);
    login.map_err(|error| error.to_string())
}
