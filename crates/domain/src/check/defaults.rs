//! The thresholds that hold unless the file says otherwise on the same path.
//!
//! Silent passes are forbidden: something was sent, no device failed, and at least 95 % of the
//! planned load was kept.

use crate::outcome::Operation;
use crate::plan::{Comparison, Group, Limit, Metric, Region, Series, Subject, Threshold};

pub(super) fn defaults(groups: &[Group], series: &[Series]) -> Vec<Threshold> {
    let mut defaults = Vec::new();
    let mut add = |path: String, subject, metric, comparison, sign: &str, limit, shown: &str| {
        defaults.push(Threshold {
            text: format!("{path} {sign} {shown}"),
            subject,
            metric,
            comparison,
            limit,
            stage: None,
            region: Region::All,
            windows: None,
            abort_after_us: None,
            is_default: true,
        });
    };
    for operation in [Operation::Publish, Operation::Command, Operation::Http] {
        // What is only answered need not be sent at all.
        let is_reply = |id: usize| {
            let replies = groups.iter().flat_map(|group| &group.listeners);
            replies.flat_map(|listener| &listener.reply).any(|reply| reply.series.index() == id)
        };
        let mut planned = series.iter().enumerate().filter(|(id, _)| !is_reply(*id));
        if planned.any(|(_, series)| series.operation == operation) {
            let subject = Subject::All(operation);
            let path = format!("all.{}.sent", operation.word());
            add(path, subject, Metric::Sent, Comparison::Greater, ">", Limit::Count(0.0), "0");
        }
    }
    for (index, group) in groups.iter().enumerate() {
        let path = format!("{}.devices.failed", group.name);
        let subject = Subject::Devices(index);
        add(path, subject, Metric::DevicesFailed, Comparison::Equal, "==", Limit::Count(0.0), "0");
        for send in group.sends() {
            let path = format!("{}.{}.sent", group.name, series[send.series.index()].name);
            let subject = Subject::Series(send.series);
            let limit = Limit::Ratio(0.95);
            add(path, subject, Metric::Sent, Comparison::AtLeast, ">=", limit, "95%");
        }
    }
    defaults
}
