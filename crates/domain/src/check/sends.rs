//! What the devices of a group publish: pace, topic, payload.

use super::Check;
use super::text::Scope;
use crate::ids::SeriesId;
use crate::plan::{Action, Arrivals, Pace, Phase, Publish, Qos, Send, WhileAway};
use crate::scenario::{self, Level, Written};
use crate::template::{Generator, Part, Template};
use crate::units;

/// The longest string of MQTT.
const MAX_TOPIC_BYTES: usize = 65_535;
/// A block of 1,024 of them is counted in 64 bits of nanoseconds.
const MAX_POISSON_NS: u64 = 24 * 3_600 * 1_000_000_000;

impl Check<'_> {
    pub(super) fn send(
        &self,
        written: &scenario::Send,
        series: SeriesId,
        (devices, has_churn): (Option<u64>, bool),
        scope: &Scope<'_>,
        timeout_us: Option<u64>,
    ) -> Option<Send> {
        let period_ns = match written.pace.as_ref() {
            Some(scenario::Pace::Every(every)) => self.nanos(every),
            Some(scenario::Pace::Rate(rate)) => self.period_of(rate, devices),
            None => None,
        };
        let arrivals = self.arrivals(written, period_ns, has_churn);
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
        let scope = Scope { level: Level::Message, period_ns, ..scope.clone() };
        if let Some(request) = &written.request {
            let request = self.request(request, &scope, timeout_us)?;
            let pace = Pace { period_ns: period_ns?, arrivals: arrivals?, phase };
            let action = Action::Http(Box::new(request));
            return Some(Send { series, pace, while_away, action });
        }
        let publish = written.publish.as_ref()?;
        let topic = publish.topic.as_ref().and_then(|topic| self.topic(topic, &scope));
        let qos = publish.qos.as_ref().map_or(Some(Qos::AtMostOnce), |qos| self.qos(qos));
        let retain = self.flag(publish.retain.as_ref());
        let payload = publish.payload.as_ref().and_then(|kind| {
            let (size, gzip) = (publish.size.as_ref(), publish.gzip.as_ref());
            self.finished(self.payload(kind, &scope)?, kind, size, gzip, &scope)
        });
        let ack_timeout_us = self.micros_or(publish.ack_timeout.as_ref(), 30_000_000);
        Some(Send {
            series,
            pace: Pace { period_ns: period_ns?, arrivals: arrivals?, phase },
            while_away,
            action: Action::Publish(Publish {
                topic: topic?,
                qos: qos?,
                retain: retain?,
                payload: payload?,
                ack_timeout_us: ack_timeout_us?,
            }),
        })
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

    pub(super) fn qos(&self, written: &Written) -> Option<Qos> {
        let resolved = self.resolve(written)?;
        match resolved.text.as_str() {
            "0" => Some(Qos::AtMostOnce),
            "1" => Some(Qos::AtLeastOnce),
            "2" => {
                self.out.later(written.place, &written.path, "QoS 2");
                None
            }
            _ => {
                self.misread(written, &resolved, "0 or 1");
                None
            }
        }
    }

    fn topic(&self, written: &Written, scope: &Scope<'_>) -> Option<Template> {
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
