//! Groups and their series.

use super::Check;
use super::sends::Speaks;
use super::sparkplug::CERTIFICATES;
use super::text::{Columns, Scope, Value, ValueKind};
use crate::diagnostics::{Place, suggest};
use crate::ids::SeriesId;
use crate::outcome::Operation;
use crate::plan::{Behaviour, Churn, Credentials, Group, Let, Reconnect, Series, Target};
use crate::scenario::{self, Level, Written};
use crate::template::{Generator, Part, Template};

/// Of a whole file: what 4096 blocks and 32-byte trackers are designed for.
pub(super) const MAX_DEVICES: u64 = 10_000_000;
const MAX_CHURN_US: u64 = 24 * 3_600 * 1_000_000;
/// Of a whole file, per second: beyond it a number was mistyped.
const MAX_RATE: f64 = 10_000_000.0;

pub(super) const RESERVED: [&str; 5] = ["all", "connect", "subscribe", "disconnect", "devices"];

impl Check<'_> {
    /// Groups in the file's order (`None` where any is not usable), and all series.
    pub(super) fn groups(&self, targets: Option<&[Target]>) -> (Option<Vec<Group>>, Vec<Series>) {
        let mut series = Vec::new();
        let mut groups = Some(Vec::new());
        let (mut devices, mut rate) = (0_u64, 0.0_f64);
        let counts = self.device_counts();
        for (index, (written, count)) in self.file.groups.iter().zip(counts).enumerate() {
            self.reserved(&written.name, written.place, &written.path);
            for send in &written.sends {
                let path = format!("{}.send.{}", written.path, send.name);
                self.reserved(&send.name, send.place, &path);
            }
            let group = self.group(written, (index, count), targets, &mut series);
            if let Some(group) = &group {
                devices = devices.saturating_add(group.devices);
                rate += group
                    .sends()
                    .iter()
                    .map(|send| group.devices as f64 * 1e9 / send.pace.period_ns as f64)
                    .sum::<f64>();
            }
            match (group, &mut groups) {
                (Some(group), Some(groups)) => groups.push(group),
                _ => groups = None,
            }
        }
        self.totals(devices, rate);
        (groups, series)
    }

    fn totals(&self, devices: u64, rate: f64) {
        let Some(first) = self.file.groups.first() else {
            let start = Place { line: 1, column: 1 };
            self.out.report(start, "groups", "at least one group is expected", None);
            return;
        };
        let counted = self.file.devices.as_ref().or(first.devices.as_ref());
        let place = counted.map_or(first.place, |devices| devices.place);
        if devices > MAX_DEVICES {
            let message =
                format!("{devices} devices in all groups, at most {MAX_DEVICES} are allowed");
            self.out.report(place, "groups", message, None);
        }
        if rate > MAX_RATE {
            let message = format!(
                "{rate:.0} messages per second in all groups, at most {MAX_RATE:.0} are allowed"
            );
            self.out.report(place, "groups", message, None);
        }
    }

    pub(super) fn reserved(&self, name: &str, place: Place, path: &str) {
        if RESERVED.contains(&name) {
            let help = Some(format!("reserved: {}", RESERVED.join(", ")));
            self.out.report(place, path, format!("`{name}` is a reserved name"), help);
        }
    }

    fn group(
        &self,
        written: &scenario::Group,
        (index, devices): (usize, Option<u64>),
        targets: Option<&[Target]>,
        series: &mut Vec<Series>,
    ) -> Option<Group> {
        let its_target = written
            .target
            .as_ref()
            .and_then(|target| self.file.targets.iter().find(|known| known.name == target.text));
        let its_mqtt = its_target.is_some_and(|target| target.mqtt.is_some());
        let name = &written.name;
        let next = SeriesId(series.len() as u32);
        series.push(Series {
            operation: Operation::Connect,
            name: "connect".to_owned(),
            group: index,
        });
        for send in &written.sends {
            let (operation, name) = (send.operation, send.name.clone());
            series.push(Series { operation, name, group: index });
        }
        self.step_series(written, index, series);
        self.listener_series(written, index, series);
        if its_mqtt {
            let name = "disconnect".to_owned();
            series.push(Series { operation: Operation::Disconnect, name, group: index });
        }
        let series_of = |name: &str| {
            let ours = series[next.index()..].iter().position(|known| known.name == name)?;
            Some(SeriesId(next.0 + ours as u32))
        };
        if let Some(target) = its_target {
            self.fits_target(written, target);
        }

        let target = written.target.as_ref().and_then(|target| self.target_of(target, targets));
        let rows = written.rows.as_ref().map(|rows| self.rows(rows, devices));
        // What a table that cannot be read has is not known, which is no second mistake.
        let columns = match &rows {
            None => Columns::None,
            Some(None) => Columns::Unknown,
            Some(Some(rows)) => Columns::Of(rows),
        };
        let id = self.device_id(written, devices, columns);
        let (lets, known) = self.lets(written, columns);
        let scope = Scope {
            level: Level::Device,
            lets: &known,
            captures: &written.captures,
            columns,
            ..Scope::plan()
        };
        let secret_scope = Scope { secrets: true, ..scope.clone() };
        let username = self.optional(written.username.as_ref(), &secret_scope);
        let password = self.optional(written.password.as_ref(), &secret_scope);
        if let (Some(password), None) = (&written.password, &written.username) {
            let message = "a password needs a username beside it (MQTT 3.1.1)";
            self.out.report(password.place, &password.path, message, None);
        }
        let certificate = match &written.certificate {
            Some(certificate) => self.certificate(certificate, &secret_scope).map(Some),
            None => Some(None),
        };
        let bearer = self.optional(written.bearer.as_ref(), &secret_scope);
        if let (Some(bearer), Some(_)) = (&written.bearer, &written.username) {
            let message = "exactly one of bearer and username is expected";
            self.out.report(bearer.place, &bearer.path, message, None);
        }
        let is_mqtt = target
            .is_none_or(|index| targets.is_none_or(|targets| targets[index].mqtt().is_some()));
        let sas = match &written.sas {
            Some(sas) => self.sas(sas, written, is_mqtt, &secret_scope).map(Some),
            None => Some(None),
        };
        let reconnect = self.reconnect(written);
        let max_in_flight =
            written.max_in_flight.as_ref().map_or(Some(10), |most| self.whole(most, 1, 65_535));
        let connect_within_us = self.micros_or(written.connect_within.as_ref(), 60_000_000);
        let churn = written.churn.as_ref().map_or(Some(None), |churn| self.churn(churn).map(Some));
        let has_churn = written.churn.is_some();
        let timeout_us = target.and_then(|index| Some(targets?[index].http()?.timeout_us));
        let protocol = target.and_then(|index| Some(targets?[index].mqtt()?.protocol));
        let will = match &written.will {
            Some(will) => self.will(will, &scope).map(Some),
            None => Some(None),
        };
        let speaks = Speaks { timeout_us, protocol };
        let its_plan = target.and_then(|index| Some(&targets?[index]));
        let mut edge_node = self.edge_node(written, its_plan, &scope);
        let mut sends = Some(Vec::new());
        for (i, send) in written.sends.iter().enumerate() {
            let id = SeriesId(next.0 + 1 + i as u32);
            let node = edge_node.as_mut().and_then(Option::as_mut);
            match (self.send(send, id, (devices, has_churn), &scope, speaks, node), &mut sends) {
                (Some(send), Some(sends)) => sends.push(send),
                _ => sends = None,
            }
        }
        let listeners = self.listeners(&written.listeners, &series_of, &scope);
        for peer in &written.peers {
            self.known_group(peer);
        }
        let on_start = self.steps(&written.on_start, &series_of, &scope, timeout_us);
        let on_stop = self.steps(&written.on_stop, &series_of, &scope, timeout_us);
        let behaviour = match &written.closed_loop {
            Some(closed) => {
                self.closed_loop(closed, &series_of, &scope, timeout_us).map(Behaviour::Closed)
            }
            None => sends.map(Behaviour::Open),
        };
        let (username, password, bearer, sas) = (username?, password?, bearer?, sas?);
        let certificate = certificate?;
        Some(Group {
            name: name.clone(),
            target: target?,
            load: 0,
            devices: devices?,
            rows: rows.map_or(Some(None), |rows| rows.map(Some))?,
            id: id?,
            lets: lets?,
            credentials: written.has_credentials.then_some(Credentials {
                username,
                password,
                bearer,
                certificate,
                sas,
            }),
            reconnect: reconnect?,
            max_in_flight: max_in_flight? as u32,
            connect_within_us: connect_within_us?,
            place: written
                .labels
                .iter()
                .filter_map(|label| {
                    Some((label.key().to_owned(), self.resolve(label)?.text.clone()))
                })
                .collect(),
            churn: churn?,
            will: will?,
            sparkplug: match edge_node? {
                None => None,
                Some(node) => {
                    let [births, deaths] = CERTIFICATES.map(&series_of);
                    Some(node.finish(births?, deaths?))
                }
            },
            connect: next,
            disconnect: its_mqtt.then(|| series_of("disconnect")).flatten(),
            listeners: listeners?,
            subscribe: series_of("subscribe"),
            captures: written.captures.clone(),
            on_start: on_start?,
            on_stop: on_stop?,
            behaviour: behaviour?,
        })
    }

    /// A series for each subscription and its replies, one for those of commands.
    fn listener_series(&self, written: &scenario::Group, index: usize, series: &mut Vec<Series>) {
        let mut add = |operation, name: String| {
            series.push(Series { operation, name, group: index });
        };
        if let Some(sparkplug) = &written.sparkplug {
            self.certificates_are_new(written, sparkplug.place);
            for name in CERTIFICATES {
                add(Operation::Publish, name.to_owned());
            }
        }
        let is_told = written.sparkplug.is_some();
        if is_told || written.sends.iter().any(|send| send.command.is_some()) {
            add(Operation::Subscribe, "subscribe".to_owned());
        }
        for listener in &written.listeners {
            self.reserved(&listener.name, listener.place, &listener.path);
            let reply = super::commands::reply_series(&listener.name);
            let is_taken = |send: &scenario::Send| send.name == listener.name || send.name == reply;
            if written.sends.iter().any(is_taken) {
                let message = format!("`{}` is a series already", listener.name);
                self.out.report(listener.place, &listener.path, message, None);
            }
            add(Operation::Subscribe, listener.name.clone());
            if listener.reply.is_some() {
                add(Operation::Publish, reply);
            }
        }
    }

    fn target_of(&self, written: &Written, targets: Option<&[Target]>) -> Option<usize> {
        let resolved = self.resolve(written)?;
        let found = self.file.targets.iter().position(|target| target.name == resolved.text);
        if found.is_none() {
            let help = suggest(
                &resolved.text,
                self.file.targets.iter().map(|target| target.name.as_str()),
            );
            let message = format!("no target `{}`", resolved.text);
            self.out.report(written.place, &written.path, message, help);
        }
        // Positions agree only where every target of the file is usable.
        targets.and(found)
    }

    pub(super) fn known_group(&self, written: &Written) {
        if self.file.groups.iter().any(|group| group.name == written.text) {
            return;
        }
        let names = self.file.groups.iter().map(|group| group.name.as_str());
        let help = suggest(&written.text, names);
        self.out.report(written.place, &written.path, format!("no group `{}`", written.text), help);
    }

    fn device_id(
        &self,
        written: &scenario::Group,
        devices: Option<u64>,
        columns: Columns<'_>,
    ) -> Option<Template> {
        let Some(id) = &written.id else {
            let mut template = Template::literal(&format!("{}-", written.name));
            template.push_value(Generator::Index);
            return Some(template);
        };
        let scope = Scope { level: Level::Device, is_id: true, columns, ..Scope::plan() };
        let template = self.template(id, &scope)?;
        let tells_apart = template.parts().iter().any(|part| match part {
            Part::Literal(_) => false,
            Part::Value(Generator::Row(column)) => self.is_unique(*column, columns, devices, id),
            Part::Value(generator) => generator.tells_devices_apart(),
        });
        if !tells_apart && devices.is_some_and(|devices| devices > 1) {
            let help = Some("put ${index} into it".to_owned());
            let message = "devices of one group would share this id";
            self.out.report(id.place, &id.path, message, help);
            return None;
        }
        Some(template)
    }

    /// Whether this column alone makes an id. Where it does not, it says which rows are alike and
    /// is content, so that one mistake is one line.
    fn is_unique(
        &self,
        column: usize,
        columns: Columns<'_>,
        devices: Option<u64>,
        id: &Written,
    ) -> bool {
        if let (Columns::Of(rows), Some(devices)) = (columns, devices)
            && let Some((first, second)) = rows.twice(column, devices)
        {
            let name = &rows.columns()[column];
            let text = rows.cell(first, column).unwrap_or_default();
            let message = format!(
                "devices {first} and {second} would share this id: both have `{text}` in `row.{name}`"
            );
            self.out.report(id.place, &id.path, message, None);
        }
        true
    }

    /// Each may use those before it.
    fn lets(
        &self,
        written: &scenario::Group,
        columns: Columns<'_>,
    ) -> (Option<Vec<Let>>, Vec<(String, ValueKind)>) {
        let mut lets = Some(Vec::new());
        let mut known: Vec<(String, ValueKind)> = Vec::new();
        for value in &written.lets {
            let scope = Scope { level: Level::Device, lets: &known, columns, ..Scope::plan() };
            let pieces = self.pieces(value, &scope);
            let kind = match pieces.as_deref() {
                Some([Value { generator: Generator::Text(text), kind }]) => match kind {
                    ValueKind::Text if value.text.contains("${") => ValueKind::Text,
                    _ if value.style == crate::yaml::Style::Quoted
                        && !value.text.contains("${") =>
                    {
                        ValueKind::Text
                    }
                    _ if super::json::number(text).as_ref() == Some(text) => ValueKind::Number,
                    _ => ValueKind::Text,
                },
                Some([Value { kind: ValueKind::Number, .. }]) => ValueKind::Number,
                _ => ValueKind::Text,
            };
            let name = value.key().to_owned();
            match (pieces, &mut lets) {
                (Some(pieces), Some(lets)) => {
                    let mut template = Template::default();
                    for piece in pieces {
                        template.push_value(piece.text());
                    }
                    lets.push(Let { name: name.clone(), value: template });
                }
                _ => lets = None,
            }
            known.push((name, kind));
        }
        (lets, known)
    }

    fn churn(&self, written: &scenario::Churn) -> Option<Churn> {
        let day_long = |written: Option<&Written>| {
            let us = self.micros(written?)?;
            if us > MAX_CHURN_US {
                let resolved = self.resolve(written?)?;
                self.misread(written?, &resolved, "a duration of at most 24h");
                return None;
            }
            Some(us)
        };
        let (stay_us, away_us) = (day_long(written.stay.as_ref()), day_long(written.away.as_ref()));
        Some(Churn { stay_us: stay_us?, away_us: away_us? })
    }

    fn optional(&self, written: Option<&Written>, scope: &Scope<'_>) -> Option<Option<Template>> {
        match written {
            Some(written) => self.template(written, scope).map(Some),
            None => Some(None),
        }
    }

    fn reconnect(&self, written: &scenario::Group) -> Option<Reconnect> {
        let first_us = self.micros_or(written.reconnect_first.as_ref(), 1_000_000)?;
        let max_us = match &written.reconnect_max {
            Some(most) => self.micros(most)?,
            None => first_us.max(60_000_000),
        };
        if max_us < first_us
            && let Some(most) = &written.reconnect_max
        {
            let resolved = self.resolve(most)?;
            self.misread(most, &resolved, "a duration of at least `first`");
            return None;
        }
        Some(Reconnect { first_us, max_us })
    }
}
