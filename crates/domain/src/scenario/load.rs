//! `load`, `thresholds` and `fleet`.

use super::fields::{Field, Fields, Written, items, word, written};
use crate::diagnostics::{Collector, Place};
use crate::yaml::{Kind, Node};

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) name: Option<Written>,
    pub(crate) kind: StageKind,
}

#[derive(Debug)]
pub(crate) enum StageKind {
    Ramp {
        to: Option<Written>,
        time: Option<RampTime>,
    },
    HoldFor(Written),
    HoldUntil(Written),
    Storm(Storm),
    Arrive(Arrive),
    /// Reported already.
    Unknown,
}

impl StageKind {
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Ramp { .. } => "ramp",
            Self::HoldFor(_) | Self::HoldUntil(_) => "hold",
            Self::Storm(_) => "storm",
            Self::Arrive(_) => "arrive",
            Self::Unknown => "stage",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) group: Option<Written>,
    pub(crate) share: Option<Written>,
    pub(crate) leave: Option<Written>,
    pub(crate) away: Option<Written>,
    pub(crate) back_within: Option<Written>,
}

#[derive(Debug)]
pub(crate) struct Arrive {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) rate: Option<Written>,
    pub(crate) lasts: Option<Written>,
    pub(crate) stay: Option<Written>,
}

#[derive(Debug)]
pub(crate) enum RampTime {
    Rate(Written),
    Over(Written),
}

#[derive(Debug)]
pub(crate) struct ThresholdLine {
    pub(crate) line: Written,
    pub(crate) stage: Option<Written>,
    pub(crate) region: Option<Written>,
    pub(crate) windows: Option<Written>,
    pub(crate) held: Option<Written>,
    pub(crate) abort_after: Option<Written>,
}

impl ThresholdLine {
    /// A line without options.
    fn plain(line: Written) -> Self {
        Self { line, stage: None, region: None, windows: None, held: None, abort_after: None }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Fleet {
    pub(crate) min_agents: Option<Written>,
    pub(crate) accept: Option<Written>,
    pub(crate) lease: Option<Written>,
    pub(crate) on_agent_loss: Option<Written>,
    pub(crate) rebalance: Option<Written>,
    pub(crate) spread_over: Option<Written>,
}

/// The stages of one load, with the place of their key.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) stages: Vec<Stage>,
}

/// In a group's own load, what a stage is for needs no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    File,
    Group,
}

pub(super) fn load(field: &Field<'_>, owner: Owner, out: &Collector) -> Load {
    let path = &field.path;
    let items = items(field.node, path, out);
    let stages = items
        .iter()
        .enumerate()
        .filter_map(|(i, item)| stage(item, &format!("{path}[{i}]"), owner, out))
        .collect();
    Load { path: path.clone(), place: field.key_place, stages }
}

fn stage(node: &Node, path: &str, owner: Owner, out: &Collector) -> Option<Stage> {
    let mut fields = Fields::open(node, path, out)?;
    let name = fields.text("name");
    let chosen = fields.exactly_one(&["ramp", "hold", "storm", "arrive"]);
    fields.close();
    let mut kind = StageKind::Unknown;
    if let Some((word, field)) = chosen
        && let Some(inner) = Fields::open(field.node, &field.path, out)
    {
        kind = match word {
            "ramp" => ramp(inner),
            "hold" => hold(inner),
            "arrive" => arrive(inner),
            _ => storm(inner, owner, out),
        };
    }
    Some(Stage { path: path.to_owned(), place: node.place, name, kind })
}

fn ramp(mut fields: Fields<'_>) -> StageKind {
    let to = fields.required_text("to");
    let time = fields.exactly_one(&["rate", "over"]);
    let time = time.and_then(|(key, _)| {
        let text = fields.text(key)?;
        Some(if key == "rate" { RampTime::Rate(text) } else { RampTime::Over(text) })
    });
    fields.close();
    StageKind::Ramp { to, time }
}

fn hold(mut fields: Fields<'_>) -> StageKind {
    let kind = fields.exactly_one(&["for", "until"]).and_then(|(key, _)| {
        let text = fields.text(key)?;
        Some(if key == "for" { StageKind::HoldFor(text) } else { StageKind::HoldUntil(text) })
    });
    fields.close();
    kind.unwrap_or(StageKind::Unknown)
}

fn storm(mut fields: Fields<'_>, owner: Owner, out: &Collector) -> StageKind {
    let group = match owner {
        Owner::File => fields.required_text("group"),
        Owner::Group => fields.text("group"),
    };
    let storm = Storm {
        path: fields.path.clone(),
        place: fields.place,
        group,
        share: fields.required_text("share"),
        leave: fields.text("leave").filter(|leave| word(leave, &["cut", "disconnect"], out)),
        away: fields.required_text("away"),
        back_within: fields.required_text("back_within"),
    };
    fields.close();
    StageKind::Storm(storm)
}

fn arrive(mut fields: Fields<'_>) -> StageKind {
    let arrive = Arrive {
        path: fields.path.clone(),
        place: fields.place,
        rate: fields.required_text("rate"),
        lasts: fields.required_text("for"),
        stay: fields.required_text("stay"),
    };
    fields.close();
    StageKind::Arrive(arrive)
}

pub(crate) fn thresholds(node: &Node, path: &str, out: &Collector) -> Vec<ThresholdLine> {
    let items = items(node, path, out);
    items
        .iter()
        .enumerate()
        .filter_map(|(i, item)| {
            let path = format!("{path}[{i}]");
            if !matches!(item.kind, Kind::Map(_)) {
                let line = written(item, &path, out)?;
                return Some(ThresholdLine::plain(line));
            }
            let mut fields = Fields::open(item, &path, out)?;
            let line = fields.required_text("expect");
            let (stage, region) = (fields.text("in"), fields.text("region"));
            let (windows, held) = (fields.text("windows"), fields.text("held"));
            let abort_after = fields.text("abort_after");
            fields.close();
            Some(ThresholdLine { line: line?, stage, region, windows, held, abort_after })
        })
        .collect()
}

pub(crate) fn fleet(mut fields: Fields<'_>, out: &Collector) -> Fleet {
    let fleet = Fleet {
        min_agents: fields.text("min_agents"),
        accept: fields.text("accept"),
        lease: fields.text("lease"),
        on_agent_loss: fields.text("on_agent_loss"),
        rebalance: fields.text("rebalance"),
        spread_over: fields.text("spread_over"),
    };
    if let Some(accept) = &fleet.accept {
        word(accept, &["degraded", "valid"], out);
    }
    if let Some(on_loss) = &fleet.on_agent_loss {
        word(on_loss, &["abort", "continue", "reassign"], out);
    }
    if let Some(rebalance) = &fleet.rebalance {
        word(rebalance, &["off", "on"], out);
    }
    fields.close();
    fleet
}
