//! Observers: what they name must exist and carry a stamp, and what is asked of them their source
//! must have.

use std::ops::RangeInclusive;

use super::Check;
use super::text::Scope;
use super::thresholds::{Named, shape};
use crate::diagnostics::suggest;
use crate::ids::{ObserverId, SeriesId};
use crate::plan::{
    self, Credentials, Group, Metric, MqttSource, Protocol, Qos, Send, Series, Source, Subject,
};
use crate::scenario::{self, Written};
use crate::template::Template;
use crate::threshold::{Line, OBSERVED_COUNTERS, OBSERVED_DURATIONS, OBSERVED_TIMES};
use crate::units;

const DRAIN_US: u64 = 30_000_000;
const PROBE_US: u64 = 30_000_000;
const PROBE_RANGE_US: RangeInclusive<u64> = 100_000..=600_000_000;

impl Check<'_> {
    /// In the file's order; `None` where any observer is not usable.
    pub(super) fn observers(
        &self,
        groups: Option<&[Group]>,
        series: &[Series],
    ) -> Option<Vec<plan::Observer>> {
        let mut observers = Some(Vec::new());
        for written in &self.file.observers {
            match (self.observer(written, groups, series), &mut observers) {
                (Some(observer), Some(observers)) => observers.push(observer),
                _ => observers = None,
            }
        }
        observers
    }

    fn observer(
        &self,
        written: &scenario::Observer,
        groups: Option<&[Group]>,
        series: &[Series],
    ) -> Option<plan::Observer> {
        let name = &written.name;
        let is_taken = super::groups::RESERVED.contains(&name.as_str())
            || self.file.groups.iter().any(|group| group.name == *name);
        if is_taken {
            let message = format!("`{name}` is taken: groups and observers share one namespace");
            self.out.report(written.place, &written.path, message, None);
        }
        let drain_us = self.micros_or(written.drain.as_ref(), DRAIN_US);
        let probe_us = self.probe(written.probe.as_ref());
        let is_marked = written.has_read;
        let of =
            written.of.as_ref().and_then(|of| self.observed_series(of, is_marked, groups, series));
        let mqtt = written.mqtt.as_ref().and_then(|mqtt| self.mqtt_source(mqtt));
        let kafka = written.kafka.as_ref().and_then(|kafka| self.kafka_source(kafka));
        let eventhubs = written.eventhubs.as_ref().and_then(|hub| self.eventhubs_source(hub));
        let nats = written.nats.as_ref().and_then(|nats| self.nats_source(nats));
        let webhook = written.webhook.as_ref().and_then(|webhook| self.webhook_source(webhook));
        // Where the source is wrong itself, nothing follows from it.
        let has_headers = mqtt.as_ref().is_none_or(|mqtt| mqtt.broker.protocol == Protocol::V5);
        let source = mqtt.map(|mqtt| Source::Mqtt(Box::new(mqtt)));
        let source = source.or(kafka.map(Source::Kafka)).or(eventhubs.map(Source::EventHubs));
        let source = source.or(nats.map(Source::Nats)).or(webhook.map(Source::Webhook));
        let read = match (written.has_read, &written.read) {
            (false, _) => Some(None),
            (true, None) => None,
            (true, Some(read)) => {
                let send = of.and_then(|of| send_of(groups?, series, of));
                self.read_fields(read, has_headers, send).map(Some)
            }
        };
        let (name, of, read) = (name.clone(), of?, read?);
        let (drain_us, probe_us) = (drain_us?, probe_us?);
        Some(plan::Observer { name, of, read, drain_us, probe_us, source: source? })
    }

    fn probe(&self, written: Option<&Written>) -> Option<Option<u64>> {
        let Some(written) = written else { return Some(Some(PROBE_US)) };
        let needs = "a duration from 100ms to 10m, like 30s, or off";
        self.read(written, needs, |text| match (text, units::duration_ns(text)) {
            ("off", _) => Some(None),
            (_, ns) => ns.map(|ns| ns / 1_000).filter(|us| PROBE_RANGE_US.contains(us)).map(Some),
        })
    }

    /// The series must exist, send by a schedule, and put a stamp where it can be found unless
    /// its events are known by other fields.
    fn observed_series(
        &self,
        of: &Written,
        has_read: bool,
        groups: Option<&[Group]>,
        series: &[Series],
    ) -> Option<SeriesId> {
        let known: Vec<String> =
            self.file.groups.iter().flat_map(|group| self.series_of(group)).collect();
        if !known.contains(&of.text) {
            let sent = known.iter().map(String::as_str).filter(|path| !path.ends_with(".connect"));
            let help = suggest(&of.text, sent);
            return self.refuse(of, format!("no series `{}`", of.text), help);
        }
        let groups = groups?;
        let path = |series: &Series| format!("{}.{}", groups[series.group].name, series.name);
        let position = series.iter().position(|series| path(series) == of.text)?;
        let id = SeriesId(position as u32);
        let Some(send) = send_of(groups, series, id) else {
            let message = format!("`{}` sends by no schedule: only a `send` is observed", of.text);
            return self.refuse(of, message, None);
        };
        if !has_read && !carries_stamp(send) {
            let message =
                format!("`{}` carries no ${{stamp}}, by which its events are known", of.text);
            let help = "put ${stamp} into a field of the payload, the topic or a property, or say in `read` \
                        where the platform has its own fields";
            let help = Some(help.to_owned());
            return self.refuse(of, message, help);
        }
        Some(id)
    }

    fn mqtt_source(&self, mqtt: &scenario::MqttSource) -> Option<MqttSource> {
        let broker = self.mqtt(&mqtt.broker);
        let filter = mqtt.filter.as_ref().and_then(|filter| self.filter(filter));
        let qos = match &mqtt.qos {
            Some(qos) => self.reader_qos(qos),
            None => Some(Qos::AtLeastOnce),
        };
        let share = match &mqtt.share {
            Some(share) => self.share(share).map(Some),
            None => Some(None),
        };
        let scope = Scope { secrets: true, ..Scope::plan() };
        let username = self.observer_login(mqtt.username.as_ref(), &scope);
        let password = self.observer_login(mqtt.password.as_ref(), &scope);
        if let (Some(password), None) = (&mqtt.password, &mqtt.username) {
            self.refuse::<()>(password, "a password needs a username beside it".to_owned(), None);
        }
        let (username, password) = (username?, password?);
        let has_login = username.is_some() || password.is_some();
        let credentials = has_login.then_some(Credentials {
            username,
            password,
            bearer: None,
            certificate: None,
            sas: None,
        });
        Some(MqttSource { broker: broker?, filter: filter?, qos: qos?, share: share?, credentials })
    }

    fn reader_qos(&self, written: &Written) -> Option<Qos> {
        let resolved = self.resolve(written)?;
        match resolved.text.as_str() {
            "0" => Some(Qos::AtMostOnce),
            "1" => Some(Qos::AtLeastOnce),
            _ => {
                self.misread(written, &resolved, "0 or 1");
                None
            }
        }
    }

    fn observer_login(
        &self,
        written: Option<&Written>,
        scope: &Scope<'_>,
    ) -> Option<Option<Template>> {
        match written {
            Some(written) => self.template(written, scope).map(Some),
            None => Some(None),
        }
    }

    fn filter(&self, written: &Written) -> Option<String> {
        let resolved = self.resolve(written)?;
        if is_filter(&resolved.text) {
            return Some(resolved.text);
        }
        let needs = "a topic filter, in which + is a whole level and # the last one";
        self.misread(written, &resolved, needs);
        None
    }

    fn share(&self, written: &Written) -> Option<String> {
        let resolved = self.resolve(written)?;
        let fits = !resolved.text.is_empty() && !resolved.text.contains(['/', '+', '#', '\0']);
        if fits {
            return Some(resolved.text);
        }
        self.misread(written, &resolved, "a name without `/`, `+` or `#`");
        None
    }

    /// A threshold's path that begins with an observer's name.
    pub(super) fn observed(
        &self,
        position: usize,
        rest: &[&str],
        line: &Line<'_>,
        written: &Written,
    ) -> Option<Named> {
        let observer = &self.file.observers[position];
        let subject = Subject::Observer(ObserverId(position as u32));
        let (word, statistic) = match rest {
            [word] => (*word, None),
            [word, statistic] => (*word, Some(*statistic)),
            _ => return self.refuse(written, shape(line.path), None),
        };
        if let Some((_, metric)) = OBSERVED_TIMES.iter().find(|(known, _)| *known == word) {
            let is_blind =
                matches!(observer.source, "mqtt" | "webhook") && word != "end_to_end_delay";
            if is_blind {
                let source = observer.source;
                let message =
                    format!("`{word}` needs the time of enqueueing, which {source} does not carry");
                return self.refuse(written, message, Some("use end_to_end_delay".to_owned()));
            }
            return Some(Named::Plan(subject, metric(self.statistic(word, statistic, written)?)));
        }
        let count = OBSERVED_COUNTERS.iter().find(|(known, _)| *known == word);
        let count = count.map(|(_, count)| Metric::Observed(*count));
        let duration = OBSERVED_DURATIONS.iter().find(|(known, _)| *known == word);
        let Some(metric) = count.or(duration.map(|(_, metric)| *metric)) else {
            let counters = OBSERVED_COUNTERS.iter().map(|(known, _)| *known);
            let times = OBSERVED_TIMES.iter().map(|(known, _)| *known);
            let durations = OBSERVED_DURATIONS.iter().map(|(known, _)| *known);
            let help = suggest(word, counters.chain(times).chain(durations));
            return self.refuse(written, format!("`{word}` is no metric of an observer"), help);
        };
        if statistic.is_some() {
            let message = format!("`{word}` is one number and has no statistic");
            return self.refuse(written, message, None);
        }
        Some(Named::Plan(subject, metric))
    }
}

fn send_of<'g>(groups: &'g [Group], series: &[Series], of: SeriesId) -> Option<&'g Send> {
    groups[series[of.index()].group].sends().iter().find(|send| send.series == of)
}

fn carries_stamp(send: &Send) -> bool {
    send.publish().is_some_and(|publish| {
        let properties = &publish.properties.user;
        publish.payload.has_stamp()
            || publish.topic.has_stamp()
            || properties.iter().any(|(_, value)| value.has_stamp())
    })
}

fn is_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    !text.is_empty()
        && text.len() <= 65_535
        && !text.contains('\0')
        && levels.iter().enumerate().all(|(at, level)| match *level {
            "+" => true,
            "#" => at + 1 == levels.len(),
            level => !level.contains(['+', '#']),
        })
}
