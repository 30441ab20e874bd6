//! Readiness probes: the first device of each observed group connects, sends one message per observed
//! series, and leaves, before the run begins.
//!
//! It connects as it will in the run, and the messages are those of its first slots; only their number
//! is one that no message of a run has ([`stamp::PROBE`]). Nothing here is recorded: probes are no part
//! of the run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shoal_domain::ids::ObserverId;
use shoal_domain::plan::{Plan, Qos, Send};
use shoal_domain::stamp;
use shoal_domain::template::{DeviceScope, MessageScope, Template, Walks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::certificates::{self, Signer};
use super::device::{Identity, MAX_PACKET, addressee, scope};
use super::dial::Route;
use super::prepare::Prepared;
use super::transport::Transport;
use crate::mqtt::encode::{self, Delivery, Head, property};
use crate::mqtt::{Event, Open, Rules, Session, What};

/// For a PUBACK or PUBCOMP.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// More of a topic is not told.
const MAX_TOLD: usize = 120;
const READ_BUFFER: usize = 4 * 1024;

/// What the probes of an agent need, beyond the shard that waits for its start.
pub(crate) struct Prober {
    plan: Arc<Plan>,
    seed: u64,
    mark: String,
    secrets: Arc<BTreeMap<String, String>>,
    routes: Arc<BTreeMap<usize, Route>>,
    signers: Arc<BTreeMap<usize, Signer>>,
    groups: Vec<usize>,
}

impl Prepared {
    /// `None` where this agent has none to send: others hold the devices, or nobody waits for one.
    pub(crate) fn prober(&self) -> Option<Prober> {
        let job = &self.job;
        let is_first = |group: &usize| {
            let mut blocks = job.shard.blocks.iter();
            blocks.any(|block| block.group == *group && block.devices.contains(&0))
        };
        let groups = 0..job.plan.groups.len();
        let is_probed = |group: &usize| job.plan.probed_sends(*group).next().is_some();
        let groups: Vec<usize> = groups.filter(is_first).filter(is_probed).collect();
        (!groups.is_empty()).then(|| Prober {
            plan: Arc::clone(&job.plan),
            seed: job.seed,
            mark: job.run.mark(),
            secrets: Arc::clone(&job.secrets),
            routes: Arc::clone(&self.routes),
            signers: Arc::clone(&self.signers),
            groups,
        })
    }
}

/// Why a device could not probe.
enum Unsent {
    /// The target does not want this device, which is a result of the run and no reason against it.
    Refused(String),
    Failed(String),
}

impl<S: Into<String>> From<S> for Unsent {
    fn from(why: S) -> Self {
        Self::Failed(why.into())
    }
}

impl Prober {
    /// Who waits for which, and what was sent where (`None`: its device was refused, and nobody
    /// needs to wait); `unix_us` is control-plane time.
    pub(crate) async fn send(
        self,
        unix_us: impl Fn() -> u64,
    ) -> Result<Vec<(ObserverId, Option<String>)>, String> {
        let mut sent = Vec::new();
        for group in &self.groups {
            let name = &self.plan.groups[*group].name;
            let failed = |why| format!("group {name} cannot send its readiness probe: {why}");
            self.send_of(*group, &unix_us, &mut sent).await.map_err(failed)?;
        }
        Ok(sent)
    }

    async fn send_of(
        &self,
        index: usize,
        unix_us: &impl Fn() -> u64,
        sent: &mut Vec<(ObserverId, Option<String>)>,
    ) -> Result<(), String> {
        let group = &self.plan.groups[index];
        let base = scope(self.seed, &self.mark, index, &self.secrets);
        let identity = Identity::render(group, &base, 0).map_err(|error| error.to_string())?;
        let device = identity.scope(group, &base, 0);
        let greeted = self.connect(index, &identity, &device, unix_us()).await;
        let mut dialogue = match greeted {
            Ok(dialogue) => dialogue,
            Err(Unsent::Failed(why)) => return Err(why),
            Err(Unsent::Refused(why)) => {
                let device = &identity.id;
                tracing::warn!(group = group.name, %device, why, "no readiness probe: refused");
                for (_, send) in self.plan.probed_sends(index) {
                    sent.extend(self.waiting(send).map(|observer| (observer, None)));
                }
                return Ok(());
            }
        };
        for (place, send) in self.plan.probed_sends(index) {
            let what = dialogue.publish(&self.plan, &device, (place, send), unix_us()).await?;
            let target = &self.plan.targets[group.target].name;
            let what = format!("device {} sent {what} of target {target}", identity.id);
            let waiting = self.waiting(send);
            sent.extend(waiting.map(|observer| (observer, Some(what.clone()))));
        }
        dialogue.leave().await
    }

    /// Who waits for the probe of a series.
    fn waiting(&self, send: &Send) -> impl Iterator<Item = ObserverId> + use<'_> {
        let (probes, series) = (self.plan.probes().into_iter(), send.series);
        let is_of = move |id: &ObserverId| self.plan.observers[id.index()].of == series;
        probes.map(|probe| probe.observer).filter(is_of)
    }

    async fn connect(
        &self,
        index: usize,
        identity: &Identity,
        device: &DeviceScope<'_>,
        unix_us: u64,
    ) -> Result<Dialogue, Unsent> {
        let group = &self.plan.groups[index];
        let target = self.plan.targets[group.target].mqtt().ok_or("its target speaks no MQTT")?;
        let wanted = group.credentials.as_ref().and_then(|login| login.certificate.as_ref());
        let signer = self.signers.get(&index);
        let shown = wanted
            .map(|wanted| certificates::of_device(&self.plan, wanted, signer, device))
            .transpose()?;
        let route = self.routes.get(&group.target).ok_or("its target has no address")?;
        let own = route.secure.as_ref().and_then(|secure| secure.own_config(shown));
        let base = scope(self.seed, &self.mark, index, &self.secrets);
        let login = identity.credentials(group, &base, 0, unix_us / 1_000_000);
        let (username, password) = login.map_err(|error| error.to_string())?;
        let hello = encode::connect(&encode::Hello {
            protocol: target.protocol,
            client_id: &identity.id,
            keep_alive_s: target.keep_alive_us.div_ceil(1_000_000).min(u64::from(u16::MAX)) as u16,
            // What is kept for this device is left to its first connection of the run.
            clean_start: target.clean_start,
            session_expiry_s: target.session_expiry_s,
            max_packet: MAX_PACKET,
            username: username.as_deref(),
            password: password.as_deref(),
            // It says goodbye, so there is none.
            will: None,
        });
        let hello = hello.map_err(|error| error.to_string())?;
        let rules = Rules {
            protocol: target.protocol,
            max_packet: MAX_PACKET,
            expects_messages: !target.clean_start,
        };
        let patience = Duration::from_micros(target.connect_timeout_us);
        let is_refused = AtomicBool::new(false);
        let greeting = async {
            let transport = route.dial(0, own).await.map_err(|lost| lost.text)?;
            let mut dialogue = Dialogue { transport, session: Session::new(rules) };
            dialogue.say(&hello).await?;
            let accepted = |event: Event<'_>| match event {
                Event::Accepted(_) => Some(Ok(())),
                Event::Refused(refusal) => {
                    is_refused.store(true, Ordering::Relaxed);
                    Some(Err(refusal.text))
                }
                Event::Ended(refusal) => Some(Err(refusal.text)),
                _ => None,
            };
            dialogue.hear(accepted).await?;
            Ok(dialogue)
        };
        let late = |_| format!("no CONNACK within {patience:?}");
        let greeted: Result<Dialogue, String> =
            timeout(patience, greeting).await.map_err(late).and_then(|greeted| greeted);
        greeted.map_err(|why| match is_refused.load(Ordering::Relaxed) {
            true => Unsent::Refused(why),
            false => Unsent::Failed(why),
        })
    }
}

/// A device that does one thing after the other.
struct Dialogue {
    transport: Transport,
    session: Session,
}

impl Dialogue {
    /// The first slot of a series, with the number that only a probe has; where it went.
    async fn publish(
        &mut self,
        plan: &Plan,
        device: &DeviceScope<'_>,
        (place, send): (usize, &Send),
        now_us: u64,
    ) -> Result<String, String> {
        let publish = send.publish().ok_or("it publishes nothing")?;
        let to = addressee(plan, device, send, 0);
        let device = DeviceScope { captured: &to, ..*device };
        let (incarnation, n) = (0, stamp::PROBE);
        let message =
            MessageScope { series: send.series, slot: 0, child: 0, incarnation, n, now_us };
        let message = message.behind(send.pace.children);
        let mut walks = Walks::default();
        let mut render = |template: &Template| {
            let mut out = Vec::new();
            template.render_message(&device, &message, &mut walks, &mut out);
            out
        };
        let (topic, payload) = (render(&publish.topic), render(&publish.payload));
        let kind = publish.properties.content_type.as_ref().map(&mut render);
        let user = publish.properties.user.iter();
        let user: Vec<(&str, Vec<u8>)> =
            user.map(|(name, value)| (name.as_str(), render(value))).collect();
        let pid = match publish.qos {
            Qos::AtMostOnce => 0,
            _ => self.session.next_pid().ok_or("no packet id is free")?,
        };
        let head = Head {
            protocol: self.session.protocol(),
            delivery: Delivery { qos: publish.qos, pid },
            retain: publish.retain,
            dup: false,
        };
        let properties = |out: &mut Vec<u8>| {
            if let Some(seconds) = publish.properties.message_expiry_s {
                property::message_expiry(out, seconds);
            }
            if let Some(kind) = &kind {
                property::content_type(out, |out| out.extend_from_slice(kind))?;
            }
            for (name, value) in &user {
                property::user(out, name, |out| out.extend_from_slice(value))?;
            }
            Ok(())
        };
        let mut packet = Vec::new();
        let topic_out = |out: &mut Vec<u8>| out.extend_from_slice(&topic);
        let payload_out = |out: &mut Vec<u8>| out.extend_from_slice(&payload);
        encode::publish(&mut packet, head, topic_out, properties, payload_out)
            .map_err(|error| error.to_string())?;
        self.say(&packet).await?;
        if publish.qos != Qos::AtMostOnce {
            let (send, n_bytes) = (place as u16, payload.len() as u32);
            let what = What::Slot { send, slot: 0, n, now_us, qos: publish.qos, n_bytes };
            let (intended_us, sent_us) = (now_us, now_us);
            let (expired, released) = (false, false);
            self.session.opened(Open { pid, what, expired, released, intended_us, sent_us });
            let answered = |event: Event<'_>| match event {
                Event::Done(_) => Some(Ok(())),
                Event::Rejected(_, refusal) | Event::Ended(refusal) => Some(Err(refusal.text)),
                _ => None,
            };
            let late = |_| format!("its message was not acknowledged within {ANSWER_WITHIN:?}");
            timeout(ANSWER_WITHIN, self.hear(answered)).await.map_err(late)??;
        }
        let topic: String = String::from_utf8_lossy(&topic).chars().take(MAX_TOLD).collect();
        Ok(format!("{} bytes to topic {topic}", payload.len()))
    }

    async fn leave(mut self) -> Result<(), String> {
        self.say(&encode::DISCONNECT).await?;
        // What was said has left; how the peer takes the end is its affair.
        let _ = self.transport.shutdown().await;
        Ok(())
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), String> {
        let broken = |error| format!("the connection broke: {error}");
        self.transport.write_all(bytes).await.map_err(broken)?;
        self.transport.flush().await.map_err(broken)
    }

    /// Until something is what is waited for.
    async fn hear(
        &mut self,
        mut is_it: impl FnMut(Event<'_>) -> Option<Result<(), String>>,
    ) -> Result<(), String> {
        let mut buffer = vec![0; READ_BUFFER];
        loop {
            let read = self.transport.read(&mut buffer).await;
            let n = match read.map_err(|error| format!("the connection broke: {error}"))? {
                0 => return Err("the peer closed the connection".to_owned()),
                n => n,
            };
            let (mut answers, mut found) = (Vec::new(), None);
            let each = |event: Event<'_>| found = found.take().or_else(|| is_it(event));
            let received = self.session.receive(&buffer[..n], &mut answers, each);
            received.map_err(|broken| broken.to_string())?;
            if !answers.is_empty() {
                self.say(&answers).await?;
            }
            if let Some(found) = found {
                return found;
            }
        }
    }
}
