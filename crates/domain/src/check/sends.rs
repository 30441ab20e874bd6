//! What the devices of a group publish: pace, topic, payload.

use super::Check;
use super::sparkplug::EdgeNode;
use super::text::Scope;
use crate::ids::SeriesId;
use crate::plan::{
    Action, Arrivals, Pace, Phase, Properties, Protocol, Publish, Qos, Send, WhileAway, Will,
};
use crate::scenario::{self, Level, Payload, Written};
use crate::template::{Generator, Part, Template};
use crate::units;

/// The longest string of MQTT.
const MAX_TOPIC_BYTES: usize = 65_535;
/// A block of 1,024 of them is counted in 64 bits of nanoseconds.
const MAX_POISSON_NS: u64 = 24 * 3_600 * 1_000_000_000;
/// Behind one connection.
const MAX_CHILDREN: u64 = 100_000;

/// What the group's target says about its sends; `None` where it is of another kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speaks {
    pub(super) timeout_us: Option<u64>,
    pub(super) protocol: Option<Protocol>,
}

impl Check<'_> {
    pub(super) fn send(
        &self,
        written: &scenario::Send,
        series: SeriesId,
        (devices, has_churn): (Option<u64>, bool),
        scope: &Scope<'_>,
        speaks: Speaks,
        edge_node: Option<&mut EdgeNode>,
    ) -> Option<Send> {
        let replay = written.replay.as_ref();
        let replayed = replay.and_then(|replay| self.replay(written, replay, has_churn));
        let children = self.children(written)?;
        let period_ns = match written.pace.as_ref() {
            _ if replay.is_some() => replayed.as_ref().map(|replayed| replayed.period_ns),
            Some(scenario::Pace::Every(every)) => self.share_of(every, children),
            Some(scenario::Pace::Rate(rate)) => self.period_of(rate, devices),
            None => None,
        };
        let arrivals = match replay {
            Some(_) => replayed.as_ref().map(|replayed| replayed.arrivals.clone()),
            None => self.arrivals(written, period_ns, has_churn),
        };
        let phase = match written.phase.as_ref().map(|phase| phase.text.as_str()) {
            Some("together") => Phase::Together,
            Some("random") => Phase::Random,
            _ => Phase::Spread,
        };
        let while_away = match written.while_away.as_ref().map(|away| away.text.as_str()) {
            Some("buffer") => WhileAway::Buffer,
            Some("fail") => WhileAway::Fail,
            _ => WhileAway::Skip,
        };
        let scope = Scope {
            level: Level::Message,
            // Each of them counts its own slots.
            period_ns: period_ns.map(|ns| ns.saturating_mul(u64::from(children))),
            has_children: written.children.is_some(),
            ..scope.clone()
        };
        if let Some(request) = &written.request {
            let request = self.request(request, &scope, speaks.timeout_us)?;
            let pace = Pace { period_ns: period_ns?, children, arrivals: arrivals?, phase };
            let action = Action::Http(Box::new(request));
            return Some(Send { series, pace, while_away, action });
        }
        if let Some(command) = &written.command {
            let command = self.command(command, &scope)?;
            let pace = Pace { period_ns: period_ns?, children, arrivals: arrivals?, phase };
            let action = Action::Command(Box::new(command));
            return Some(Send { series, pace, while_away, action });
        }
        if let Some(metrics) = &written.metrics {
            let metrics = self.metrics(metrics, edge_node?, &scope)?;
            let pace = Pace { period_ns: period_ns?, children, arrivals: arrivals?, phase };
            let action = Action::Sparkplug(Box::new(metrics));
            return Some(Send { series, pace, while_away, action });
        }
        let publish = written.publish.as_ref()?;
        let topic = match (&publish.topic, replay, &replayed) {
            (Some(topic), ..) => self.topic(topic, &scope),
            (None, Some(replay), Some(replayed)) => self.recorded_topic(replay, replayed),
            (None, ..) => None,
        };
        let qos = self.qos(publish.qos.as_ref());
        let retain = self.flag(publish.retain.as_ref());
        let payload = publish.payload.as_ref().and_then(|kind| {
            let (size, gzip) = (publish.size.as_ref(), publish.gzip.as_ref());
            let payload = match kind {
                Payload::Recorded => replayed.as_ref()?.payload(),
                kind => self.payload(kind, &scope)?,
            };
            self.finished(payload, kind, size, gzip, &scope)
        });
        let properties = self.properties(publish, topic.as_ref(), &scope, speaks.protocol);
        let ack_timeout_us = self.micros_or(publish.ack_timeout.as_ref(), 30_000_000);
        Some(Send {
            series,
            pace: Pace { period_ns: period_ns?, children, arrivals: arrivals?, phase },
            while_away,
            action: Action::Publish(Publish {
                topic: topic?,
                qos: qos?,
                retain: retain?,
                payload: payload?,
                properties: properties?,
                ack_timeout_us: ack_timeout_us?,
            }),
        })
    }

    /// Devices behind each connection, for this entry.
    fn children(&self, written: &scenario::Send) -> Option<u32> {
        let Some(children) = &written.children else { return Some(1) };
        let wrong = if written.replay.is_some() {
            Some("a replay has no `children`: a recording is one device's")
        } else if written.metrics.is_some() {
            Some(
                "Sparkplug names the devices of an edge node itself: write `device` beside its metrics",
            )
        } else {
            None
        };
        if let Some(message) = wrong {
            self.out.report(children.place, &children.path, message, None);
            return None;
        }
        self.whole(children, 1, MAX_CHILDREN).map(|n| n as u32)
    }

    /// The distance of the slots that so many devices share.
    fn share_of(&self, every: &Written, children: u32) -> Option<u64> {
        let share_ns = self.nanos(every)? / u64::from(children);
        if share_ns < 1_000 {
            let resolved = self.resolve(every)?;
            self.misread(every, &resolved, "a period that leaves each of the children 1us");
            return None;
        }
        Some(share_ns)
    }

    fn arrivals(
        &self,
        written: &scenario::Send,
        period_ns: Option<u64>,
        has_churn: bool,
    ) -> Option<Arrivals> {
        let poisson = written.arrivals.as_ref().filter(|arrivals| arrivals.text == "poisson");
        let Some(poisson) = poisson else {
            let Some(jitter) = &written.jitter else {
                return Some(Arrivals::Even { jitter_ppm: 0 });
            };
            let resolved = self.resolve(jitter)?;
            let jitter_ppm = units::millionths(&resolved.text);
            if jitter_ppm.is_none() {
                self.misread(jitter, &resolved, "a share of the period of at most 100%, like 20%");
            }
            return jitter_ppm.map(|jitter_ppm| Arrivals::Even { jitter_ppm });
        };
        for other in [&written.jitter, &written.phase].into_iter().flatten() {
            let message = format!("`{}` has no meaning beside `arrivals: poisson`", other.key());
            self.out.report(other.place, &other.path, message, None);
        }
        if has_churn {
            let message = "a group with `churn` sends the same number in each visit: poisson \
                           arrivals have no such number";
            self.out.report(poisson.place, &poisson.path, message, None);
        }
        if period_ns? > MAX_POISSON_NS {
            let message = "poisson arrivals need a mean period of at most 24h";
            self.out.report(poisson.place, &poisson.path, message, None);
            return None;
        }
        Some(Arrivals::Poisson)
    }

    /// Fixed once per device, unlike a message.
    pub(super) fn will(&self, written: &scenario::Message, scope: &Scope<'_>) -> Option<Will> {
        let topic = written.topic.as_ref().and_then(|topic| self.topic(topic, scope));
        let qos = self.qos(written.qos.as_ref());
        let retain = self.flag(written.retain.as_ref());
        let payload = written.payload.as_ref().and_then(|payload| self.payload(payload, scope));
        Some(Will { topic: topic?, qos: qos?, retain: retain?, payload: payload? })
    }

    fn properties(
        &self,
        publish: &scenario::Publish,
        topic: Option<&Template>,
        scope: &Scope<'_>,
        protocol: Option<Protocol>,
    ) -> Option<Properties> {
        let scalars = [&publish.message_expiry, &publish.content_type, &publish.topic_alias];
        let written = scalars.into_iter().flatten();
        for written in written.chain(publish.properties.iter().map(|(_, value)| value)) {
            if protocol == Some(Protocol::V3) {
                let help = Some("write `protocol: 5` in its target".to_owned());
                let message = format!("`{}` needs MQTT 5", key_of(written));
                self.out.report(written.place, &written.path, message, help);
            }
        }
        let message_expiry_s = match &publish.message_expiry {
            Some(expiry) => Some(self.whole_seconds(expiry)?),
            None => None,
        };
        let content_type = match &publish.content_type {
            Some(text) => Some(self.template(text, scope)?),
            None => None,
        };
        let mut user = Vec::new();
        for (name, value) in &publish.properties {
            user.push((name.clone(), self.template(value, scope)?));
        }
        let topic_alias = self.flag(publish.topic_alias.as_ref())?;
        if let (Some(written), true, Some(topic)) = (&publish.topic_alias, topic_alias, topic)
            && !topic.is_fixed_per_device()
        {
            let message = "a topic that changes from message to message cannot have an alias";
            self.out.report(written.place, &written.path, message, None);
        }
        Some(Properties { message_expiry_s, content_type, user, topic_alias })
    }

    /// MQTT counts these in 32 bits of seconds.
    pub(super) fn whole_seconds(&self, written: &Written) -> Option<u32> {
        let us = self.micros(written)?;
        match u32::try_from(us / 1_000_000) {
            Ok(seconds) if us % 1_000_000 == 0 => Some(seconds),
            _ => {
                let resolved = self.resolve(written)?;
                self.misread(written, &resolved, "whole seconds, at most 136 years");
                None
            }
        }
    }

    fn period_of(&self, written: &Written, devices: Option<u64>) -> Option<u64> {
        let rate = self.rate(written)?;
        let period_ns = rate.time_of(devices?);
        if period_ns.is_none_or(|ns| ns < 1_000) {
            let resolved = self.resolve(written)?;
            let needs = "a rate that gives each device a period from 1us to 500 years";
            self.misread(written, &resolved, needs);
            return None;
        }
        period_ns
    }

    pub(super) fn qos(&self, written: Option<&Written>) -> Option<Qos> {
        let Some(written) = written else { return Some(Qos::AtMostOnce) };
        let resolved = self.resolve(written)?;
        match resolved.text.as_str() {
            "0" => Some(Qos::AtMostOnce),
            "1" => Some(Qos::AtLeastOnce),
            "2" => Some(Qos::ExactlyOnce),
            _ => {
                self.misread(written, &resolved, "0, 1 or 2");
                None
            }
        }
    }

    pub(super) fn topic(&self, written: &Written, scope: &Scope<'_>) -> Option<Template> {
        let topic = self.template(written, scope)?;
        let mut texts = Vec::new();
        for part in topic.parts() {
            match part {
                Part::Literal(text) => texts.push(text.as_str()),
                Part::Value(Generator::Choice { options, .. }) => {
                    texts.extend(options.iter().filter_map(|option| match option {
                        Generator::Text(text) => Some(text.as_str()),
                        _ => None,
                    }));
                }
                Part::Value(_) => {}
            }
        }
        let wrong = if topic.parts().is_empty() {
            Some("a topic may not be empty".to_owned())
        } else if let Some(wildcard) =
            texts.iter().find_map(|text| text.find(['+', '#']).map(|at| &text[at..=at]))
        {
            Some(format!("`{wildcard}` is a wildcard: a message is published to one topic"))
        } else if texts.iter().any(|text| text.contains('\0')) {
            Some("a topic may not hold the character U+0000".to_owned())
        } else if texts.iter().map(|text| text.len()).sum::<usize>() > MAX_TOPIC_BYTES {
            Some(format!("a topic has at most {MAX_TOPIC_BYTES} bytes"))
        } else {
            None
        };
        match wrong {
            Some(message) => {
                self.out.report(written.place, &written.path, message, None);
                None
            }
            None => Some(topic),
        }
    }
}

/// Of a user property, the key above its name.
fn key_of(written: &Written) -> &str {
    match written.path.rsplit('.').nth(1) {
        Some("properties") => "properties",
        _ => written.key(),
    }
}
