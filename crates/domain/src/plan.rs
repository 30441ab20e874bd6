//! The plan: a scenario that passed every check, with every expression that stands outside a
//! message evaluated. What is true here is never validated again.
//!
//! Times are run time (since `t0`): `_us` microseconds, `_ns` nanoseconds where a rate must not
//! drift. A plan is a value: two processes that parse the same text with the same variables hold
//! equal plans, which [`Plan::hash`] proves before the first send.

mod groups;
mod http;
mod load;
mod sends;
mod sources;
mod sparkplug;
mod targets;
mod thresholds;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

pub use self::groups::{
    Behaviour, Certificate, Churn, Credentials, Group, Let, Listener, Pem, Read, Reconnect, Reply,
    Sas, Will,
};
pub use self::http::{
    Body, BodyCheck, Capture, CaptureFrom, Expect, HttpProtocol, HttpRequest, HttpTarget, Loop,
    Method, StatusRange, Step, Task, Wait,
};
pub use self::load::{Leave, Load, Stage, StageKind, Storm};
pub use self::sends::{
    Action, Arrivals, Command, Offsets, Pace, Phase, Properties, Publish, Qos, Recorded, Send,
    WhileAway,
};
pub use self::sources::{
    EventHubsSource, KafkaLogin, KafkaSource, MqttSource, NatsLogin, NatsSource, SaslMechanism,
    Source, WebhookSource,
};
pub use self::sparkplug::{Metrics, Sparkplug};
pub use self::targets::{Endpoint, FileRef, MqttTarget, Protocol, Target, TargetKind, Tls};
pub use self::thresholds::{
    Comparison, Limit, Metric, Observed, Region, Statistic, Subject, Threshold, Windows,
};
use crate::fields::{DeviceIs, Fields};
use crate::files::{File, FileId};
use crate::ids::{ObserverId, SeriesId};
use crate::outcome::Operation;
use crate::run::Probe;

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub name: String,
    /// Every variable with the value it had, as text; for the record.
    pub vars: BTreeMap<String, String>,
    /// Pinned in the file; otherwise the run draws a fresh one.
    pub seed: Option<u64>,
    /// The files that go with the run; a [`FileId`] is an index into this.
    pub files: Vec<File>,
    pub targets: Vec<Target>,
    pub groups: Vec<Group>,
    /// All series of all groups; a [`SeriesId`] is an index into this.
    pub series: Vec<Series>,
    /// Of all loads, one load after the other; a [`StageId`](crate::ids::StageId) is an index into this.
    pub stages: Vec<Stage>,
    /// Which groups follow which stages; every group follows one load.
    pub loads: Vec<Load>,
    /// What reads the platform's output; an [`ObserverId`] is an index into this.
    pub observers: Vec<Observer>,
    /// The file's and the default ones that no other replaced, in that order.
    pub thresholds: Vec<Threshold>,
    pub fleet: Fleet,
    pub stop_timeout_us: u64,
    pub max_duration_us: Option<u64>,
}

/// The key of results: operation × name × group (results are split by stage as well).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    pub operation: Operation,
    pub name: String,
    /// Index into [`Plan::groups`].
    pub group: usize,
}

/// Reads the platform's output and finds the messages of one series in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observer {
    pub name: String,
    /// An open-model series whose messages carry `${stamp}`, or the fields that are read.
    pub of: SeriesId,
    /// `None`: its events are known by `${stamp}`.
    pub read: Option<Fields>,
    /// How long it waits, after the load, for what has not arrived.
    pub drain_us: u64,
    /// How long the readiness probe may take to come out; `None`: none is sent.
    pub probe_us: Option<u64>,
    pub source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    pub min_agents: u32,
    /// Whether a DEGRADED run may pass.
    pub accept_degraded: bool,
    pub lease_us: u64,
    pub on_agent_loss: OnAgentLoss,
    /// Agents that join while the run goes on get devices of the others.
    pub rebalance: bool,
    /// Each value of this label gets the same share, whatever its agents can carry.
    pub spread_over: Option<String>,
}

/// What becomes of the devices of an agent that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAgentLoss {
    /// The others take them over.
    Reassign,
    Continue,
    Abort,
}

impl Observer {
    /// Whether it must know the ids of all devices that it reads of.
    pub fn needs_ids(&self) -> bool {
        self.read.as_ref().is_some_and(|fields| fields.device_is == DeviceIs::Id)
    }

    /// By so much the times that its events carry may be early.
    pub fn resolution_us(&self) -> u64 {
        self.read.as_ref().map_or(0, |fields| fields.resolution_us)
    }
}

impl Plan {
    /// Run time at which the last stage of the longest load ends.
    pub fn end_us(&self) -> u64 {
        self.stages.iter().map(|stage| stage.end_us).max().unwrap_or(0)
    }

    /// Devices of all groups that follow a load.
    pub fn devices_of(&self, load: usize) -> u64 {
        self.loads[load].groups.iter().map(|group| self.groups[*group].devices).sum()
    }

    /// Devices that run when each stage begins, of its load.
    pub fn levels(&self) -> Vec<u64> {
        let mut levels = vec![0; self.stages.len()];
        for load in &self.loads {
            let mut level = 0;
            for stage in load.stages.clone() {
                levels[stage] = level;
                level = self.stages[stage].kind.level_after(level);
            }
        }
        levels
    }

    /// The stages that a group follows.
    pub fn stages_of(&self, group: usize) -> &[Stage] {
        &self.stages[self.loads[self.groups[group].load].stages.clone()]
    }

    pub fn devices(&self) -> u64 {
        self.groups.iter().map(|group| group.devices).sum()
    }

    pub fn file(&self, id: FileId) -> &File {
        &self.files[id.index()]
    }

    /// `group.name`, as in metric paths.
    pub fn series_path(&self, id: SeriesId) -> String {
        let series = &self.series[id.index()];
        format!("{}.{}", self.groups[series.group].name, series.name)
    }

    /// Whether a series waits for replies (steps) instead of keeping a schedule.
    pub fn is_closed(&self, id: SeriesId) -> bool {
        let group = &self.groups[self.series[id.index()].group];
        group.steps().any(|step| step.series == id)
    }

    /// Whether what a series counts is acknowledged by the target.
    pub fn is_acknowledged(&self, id: SeriesId) -> bool {
        let group = &self.groups[self.series[id.index()].group];
        let is_certificate =
            group.sparkplug.as_ref().is_some_and(|node| [node.births, node.deaths].contains(&id));
        let send = group.sends().iter().find(|send| send.series == id);
        !is_certificate && send.is_none_or(Send::is_acknowledged)
    }

    /// The send that an observer looks for.
    pub fn observed(&self, observer: &Observer) -> Option<&Send> {
        let group = &self.groups[self.series[observer.of.index()].group];
        group.sends().iter().find(|send| send.series == observer.of)
    }

    /// Whether any observer needs the receipts of a series.
    pub fn is_observed(&self, series: SeriesId) -> bool {
        self.observers.iter().any(|observer| observer.of == series)
    }

    /// What has to come through the platform before the start.
    pub fn probes(&self) -> Vec<Probe> {
        let probe = |(n, observer): (usize, &Observer)| {
            let within_us = observer.probe_us?;
            Some(Probe { observer: ObserverId(n as u32), name: observer.name.clone(), within_us })
        };
        self.observers.iter().enumerate().filter_map(probe).collect()
    }

    /// The sends of a group that readiness probes are made of, with their places.
    pub fn probed_sends(&self, group: usize) -> impl Iterator<Item = (usize, &Send)> {
        let waits = |observer: &Observer| observer.probe_us.map(|_| observer.of);
        let probed: Vec<SeriesId> = self.observers.iter().filter_map(waits).collect();
        let sends = self.groups[group].sends().iter().enumerate();
        sends.filter(move |(_, send)| probed.contains(&send.series))
    }

    /// The longest drain of all observers.
    pub fn drain_us(&self) -> u64 {
        self.observers.iter().map(|observer| observer.drain_us).max().unwrap_or(0)
    }

    /// What all processes of a run must agree on: every fact of the plan, hashed.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(format!("{self:?}").as_bytes()).into()
    }

    /// The most connects per second that the plan declares: its steepest ramp, arrival or storm
    /// and all churn; 100/s where it declares none.
    pub fn spawn_rate(&self) -> f64 {
        let per_second = |n: u64, us: u64| n as f64 * 1e6 / us.max(1) as f64;
        let rate = |stage: &Stage| {
            let lasts_us = stage.end_us - stage.start_us;
            match stage.kind {
                StageKind::Ramp { from, to } => per_second(to.saturating_sub(from), lasts_us),
                StageKind::Hold => 0.0,
                StageKind::Storm(storm) => per_second(storm.devices, storm.back_within_us),
                StageKind::Arrive { arrivals, .. } => per_second(arrivals, lasts_us),
            }
        };
        let churn = self.groups.iter().filter_map(|group| {
            let Churn { stay_us, away_us } = group.churn?;
            Some(per_second(group.devices, stay_us + away_us))
        });
        // Loads run side by side, the stages of one load one after the other.
        let most: f64 = self
            .loads
            .iter()
            .map(|load| self.stages[load.stages.clone()].iter().map(rate).fold(0.0, f64::max))
            .chain(churn)
            .sum();
        if most > 0.0 { most } else { 100.0 }
    }
}
