//! Subscriptions, replies and commands: what they name must be there when they need it.

use super::Check;
use super::text::Scope;
use crate::ids::SeriesId;
use crate::plan::{Command, Listener, Properties, Publish, Qos, Read, Reply};
use crate::scenario::{self, Level, Written};
use crate::template::Template;

/// What a device reads of one message at most.
const MAX_READ: usize = 32;

impl Check<'_> {
    /// `scope` is that of the message.
    pub(super) fn command(
        &self,
        written: &scenario::Command,
        scope: &Scope<'_>,
    ) -> Option<Command> {
        let to = written.to.as_ref().and_then(|to| self.group_named(to));
        let timeout_us = self.micros_or(written.timeout.as_ref(), 30_000_000);
        let message = Scope { has_addressee: true, ..scope.clone() };
        let publish = self.bare_publish(&written.message, &message, timeout_us);
        let device = Scope { level: Level::Device, ..scope.clone() };
        let filter = written.filter.as_ref().and_then(|filter| self.filter_of(filter, &device));
        let reply_id = written.reply_id.as_ref().and_then(|id| self.pointer(id));
        Some(Command {
            to: to?,
            publish: publish?,
            filter: filter?,
            reply_id: reply_id?,
            timeout_us: timeout_us?,
        })
    }

    /// `series_of` knows the series of this group by name; `scope` is that of a device.
    pub(super) fn listeners(
        &self,
        written: &[scenario::Listener],
        series_of: &dyn Fn(&str) -> Option<SeriesId>,
        scope: &Scope<'_>,
    ) -> Option<Vec<Listener>> {
        let listeners: Vec<_> =
            written.iter().map(|listener| self.listener(listener, series_of, scope)).collect();
        listeners.into_iter().collect()
    }

    fn listener(
        &self,
        written: &scenario::Listener,
        series_of: &dyn Fn(&str) -> Option<SeriesId>,
        scope: &Scope<'_>,
    ) -> Option<Listener> {
        let filter = written.filter.as_ref().and_then(|filter| self.filter_of(filter, scope));
        let qos = self.qos(written.qos.as_ref());
        if written.read.len() > MAX_READ {
            let message = format!("at most {MAX_READ} values are read of a message");
            self.out.report(written.place, &written.path, message, None);
        }
        let read: Vec<_> = written
            .read
            .iter()
            .map(|(name, pointer)| {
                Some(Read { name: name.clone(), pointer: self.pointer(pointer)? })
            })
            .collect();
        let names: Vec<String> = written.read.iter().map(|(name, _)| name.clone()).collect();
        let scope = Scope { level: Level::Message, message: &names, ..scope.clone() };
        let reply = match &written.reply {
            None => Some(None),
            Some(reply) => self.reply(reply, &written.name, series_of, &scope).map(Some),
        };
        Some(Listener {
            series: series_of(&written.name)?,
            filter: filter?,
            qos: qos?,
            read: read.into_iter().collect::<Option<_>>()?,
            reply: reply?,
        })
    }

    fn reply(
        &self,
        written: &scenario::Reply,
        name: &str,
        series_of: &dyn Fn(&str) -> Option<SeriesId>,
        scope: &Scope<'_>,
    ) -> Option<Reply> {
        let after_us = match &written.after {
            Some(after) => self.micros(after),
            None => Some(0),
        };
        let publish = self.bare_publish(written.message.as_ref()?, scope, Some(30_000_000))?;
        if publish.qos == Qos::ExactlyOnce {
            let message = "a reply is sent with QoS 0 or 1";
            self.out.report(written.place, &written.path, message, None);
        }
        Some(Reply { series: series_of(&reply_series(name))?, after_us: after_us?, publish })
    }

    fn bare_publish(
        &self,
        written: &scenario::Message,
        scope: &Scope<'_>,
        timeout_us: Option<u64>,
    ) -> Option<Publish> {
        let topic = written.topic.as_ref().and_then(|topic| self.topic(topic, scope));
        let qos = self.qos(written.qos.as_ref());
        let retain = self.flag(written.retain.as_ref());
        let payload = written.payload.as_ref().and_then(|payload| self.payload(payload, scope));
        Some(Publish {
            topic: topic?,
            qos: qos?,
            retain: retain?,
            payload: payload?,
            properties: Properties::default(),
            ack_timeout_us: timeout_us?,
        })
    }

    fn group_named(&self, written: &Written) -> Option<usize> {
        // Its absence is reported with all other peers.
        self.file.groups.iter().position(|group| group.name == written.text)
    }

    fn filter_of(&self, written: &Written, scope: &Scope<'_>) -> Option<Template> {
        let wrong = written.text.is_empty()
            || written.text.contains('\0')
            || written.text.split('/').rev().skip(1).any(|level| level == "#");
        if wrong {
            let message = "a topic filter is expected, in which + is a whole level and # the last";
            return self.refuse(written, message.to_owned(), None);
        }
        self.template(written, scope)
    }

    /// RFC 6901.
    fn pointer(&self, written: &Written) -> Option<String> {
        let resolved = self.resolve(written)?;
        if resolved.text.is_empty() || resolved.text.starts_with('/') {
            return Some(resolved.text);
        }
        self.misread(written, &resolved, "a JSON pointer, like /id");
        None
    }
}

/// Replies are counted beside what they answer.
pub(super) fn reply_series(listener: &str) -> String {
    format!("{listener}-reply")
}
