//! One device by itself: its connection and its login as the engine would make them, for who wants to
//! talk with the target without a run.

use shoal_domain::plan::{Group, MqttTarget, Plan, Target, TargetKind};
use shoal_domain::template::{DeviceScope, MessageScope, Walks};
use shoal_service_kit::Permit;

use super::certificates::{self, Signer};
use super::device::{EdgeNode, Identity};
use super::dial::Route;
use super::prepare::upgrade;
use super::secure::Secure;
use crate::protocol::Stream;
use crate::sparkplug;

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

/// A broker for who speaks with it beside the devices: over TCP, TLS and WebSocket, as a target.
pub(crate) struct Broker(Route);

impl Broker {
    pub(crate) async fn of(
        plan: &Plan,
        broker: &MqttTarget,
        permits: Vec<Permit>,
    ) -> Result<Self, String> {
        let (name, kind) = (String::new(), TargetKind::Mqtt(broker.clone()));
        let target = Target { name, kind };
        let (secure, upgrade) = (Secure::of(plan, &target).await?, upgrade(&target));
        Ok(Self(Route { permits, sources: Vec::new(), secure, upgrade }))
    }

    /// Over the first address that answers.
    pub(crate) async fn dial(&self) -> Result<Box<dyn Stream + Send>, String> {
        let mut why = "it has no address".to_owned();
        for ordinal in 0..self.0.permits.len() as u64 {
            match self.0.dial(ordinal, None).await {
                Ok(transport) => return Ok(Box::new(transport)),
                Err(lost) => why = lost.text,
            }
        }
        Err(why)
    }
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

/// What an edge node of Sparkplug says around its reports, each with its topic.
pub struct Edge {
    node: Box<EdgeNode>,
    /// Its id.
    id: Box<str>,
    /// The will of its connection.
    pub will: (String, Vec<u8>),
    /// In the order in which they are said.
    pub births: Vec<(String, Vec<u8>)>,
}

impl Edge {
    /// `None`: devices of this group are none.
    pub fn new(group: &Group, scope: &DeviceScope<'_>, now_us: u64) -> Option<Self> {
        let identity = Identity::render(group, scope, scope.index).ok()?;
        let mut node = EdgeNode::new(group, &identity, scope, 1)?;
        let id = identity.id;
        let now_ms = now_us / 1_000;
        let will = node.will(&id, now_ms);
        let places = node.places();
        let birth = |place| {
            let mut payload = Vec::new();
            node.birth(group, place, now_ms, &mut payload, |send, metrics, out| {
                let series = group.sends()[send].series;
                let message =
                    MessageScope { series, slot: 0, child: 0, incarnation: 0, n: 0, now_us };
                metrics.birth.render_message(scope, &message, &mut Walks::default(), out);
            });
            (node.topic("BIRTH", &id, place), payload)
        };
        let births = places.map(birth).collect();
        Some(Self { node, id, will: (will.topic, will.payload), births })
    }

    /// Ends the payload of a report.
    pub fn end_report(&mut self, payload: &mut Vec<u8>) {
        sparkplug::end(payload, self.node.take_seq());
    }

    /// What is said before a clean end.
    pub fn deaths(&mut self, now_us: u64) -> Vec<(String, Vec<u8>)> {
        let places = self.node.places().skip(1).chain([None]);
        places
            .map(|place| {
                (self.node.topic("DEATH", &self.id, place), self.node.death(place, now_us / 1_000))
            })
            .collect()
    }
}
