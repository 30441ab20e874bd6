//! The tables of the report: series, slots, failures, the far end, history, agents, configuration.

use std::fmt::Write as _;

use serde_json::Value;
use shoal_domain::export::RunExport;
use shoal_domain::report::{HostReport, RunReport, SeriesReport, TimeReport};

use crate::render::export::escaped;
use crate::render::export::requests::held;
use crate::render::numbers::{bytes, count, in_unit, micros, percent, rate, seconds};

pub(super) fn tables(html: &mut String, report: &RunReport) {
    html.push_str("<section><h2>Series</h2><div class=\"scroll\"><table><thead><tr><th>series</th><th>operation</th><th>stage</th><th class=\"n\">count</th><th class=\"n\">errors</th><th class=\"n\">rate/s</th><th>time</th><th class=\"n\">min</th><th class=\"n\">mean</th><th class=\"n\">p50</th><th class=\"n\">p90</th><th class=\"n\">p95</th><th class=\"n\">p99</th><th class=\"n\">p99.9</th><th class=\"n\">max</th></tr></thead><tbody>");
    for series in &report.series {
        let class = if series.stage == "all" { "whole" } else { "part" };
        let times: Vec<(&str, &TimeReport)> = [
            ("response", &series.response_time_us),
            ("service", &series.service_time_us),
            ("send lag", &series.send_lag_us),
        ]
        .into_iter()
        .filter_map(|(name, time)| Some((name, time.as_ref()?)))
        .collect();
        let rows = times.len().max(1);
        let error_class = if series.errors > 0 { " bad" } else { "" };
        let _ = write!(
            html,
            "<tr class=\"{class}\"><td rowspan=\"{rows}\">{}</td><td rowspan=\"{rows}\">{}</td><td rowspan=\"{rows}\">{}</td><td rowspan=\"{rows}\" class=\"n\">{}</td><td rowspan=\"{rows}\" class=\"n{error_class}\">{}</td><td rowspan=\"{rows}\" class=\"n\">{}</td>",
            escaped(&format!("{}.{}", series.group, series.name)),
            series.operation.word(),
            escaped(&series.stage),
            count(series.count),
            count(series.errors),
            rate(series.rate_per_s)
        );
        for (n, (name, time)) in times.iter().enumerate() {
            if n > 0 {
                let _ = write!(html, "</tr><tr class=\"{class}\">");
            }
            let _ = write!(html, "<td>{name}</td>");
            for value in [
                time.min as f64,
                time.mean,
                time.p50 as f64,
                time.p90 as f64,
                time.p95 as f64,
                time.p99 as f64,
                time.p999 as f64,
                time.max as f64,
            ] {
                let _ = write!(html, "<td class=\"n\">{}</td>", micros(value));
            }
        }
        if times.is_empty() {
            html.push_str("<td colspan=\"9\">no samples</td>");
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div></section>\n");
    slots(html, report);
}

/// Where every planned slot went.
fn slots(html: &mut String, report: &RunReport) {
    let with_slots: Vec<&SeriesReport> =
        report.series.iter().filter(|s| s.stage == "all" && s.slots.is_some()).collect();
    if with_slots.is_empty() {
        return;
    }
    html.push_str("<section><h2>Where every planned slot went</h2><p class=\"hint\">planned = sent + missed + not connected + away + unsent + unassigned</p><div class=\"scroll\"><table><thead><tr><th>series</th><th class=\"n\">planned</th><th class=\"n\">sent</th><th class=\"n\">missed</th><th class=\"n\">not connected</th><th class=\"n\">away</th><th class=\"n\">unsent</th><th class=\"n\">unassigned</th><th class=\"n\">held</th><th class=\"n\">acknowledged</th></tr></thead><tbody>");
    for series in with_slots {
        let Some(slots) = series.slots else { continue };
        let _ =
            write!(html, "<tr><td>{}</td>", escaped(&format!("{}.{}", series.group, series.name)));
        for n in [
            slots.planned,
            slots.sent,
            slots.missed,
            slots.not_connected,
            slots.away,
            slots.unsent,
            slots.unassigned,
            slots.held,
        ] {
            let _ = write!(html, "<td class=\"n\">{}</td>", count(n));
        }
        let acked = series.acked.map_or("-".into(), count);
        let _ = write!(html, "<td class=\"n\">{acked}</td></tr>");
    }
    html.push_str("</tbody></table></div></section>\n");
}

pub(super) fn failures(html: &mut String, report: &RunReport) {
    if report.failures.is_empty() {
        return;
    }
    html.push_str("<section><h2>Failures</h2><div class=\"scroll\"><table><thead><tr><th>series</th><th>class</th><th class=\"n\">count</th><th class=\"n\">first</th><th class=\"n\">last</th><th>text</th><th>devices</th></tr></thead><tbody>");
    for failure in &report.failures {
        let _ = write!(
            html,
            "<tr><td>{}</td><td><code>{}</code></td><td class=\"n bad\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"wrap\">{}</td><td class=\"wrap\">{}</td></tr>",
            escaped(&failure.series),
            failure.class.word(),
            count(failure.count),
            seconds(failure.first_s),
            seconds(failure.last_s),
            escaped(&failure.text),
            escaped(&failure.devices.join(", "))
        );
    }
    html.push_str("</tbody></table></div></section>\n");
}

/// Every field of every observer, as the document has it.
pub(super) fn observers(html: &mut String, report: &RunReport) {
    let Ok(Value::Array(observers)) = serde_json::to_value(&report.observers) else { return };
    let whole: Vec<&Value> = observers.iter().filter(|o| o["stage"] == "all").collect();
    if whole.is_empty() {
        return;
    }
    html.push_str("<section><h2>End to end</h2><div class=\"grid\">");
    for observer in whole {
        let title = format!(
            "{} reads {} ({})",
            observer["name"].as_str().unwrap_or("-"),
            observer["of"].as_str().unwrap_or("-"),
            observer["source"].as_str().unwrap_or("-")
        );
        let _ = write!(html, "<div><h3>{}</h3><table><tbody>", escaped(&title));
        for (name, value) in observer.as_object().into_iter().flatten() {
            if ["name", "of", "source", "stage"].contains(&name.as_str()) {
                continue;
            }
            if let Some(shown) = shown(name, value) {
                let word = escaped(&name.trim_end_matches("_us").replace('_', " "));
                let _ = write!(html, "<tr><td>{word}</td><td class=\"n\">{shown}</td></tr>");
            }
        }
        html.push_str("</tbody></table></div>");
    }
    html.push_str("</div></section>\n");
}

/// A value by what its name says of its unit; `None`: nothing to show.
fn shown(name: &str, value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => {
            let number = number.as_f64()?;
            Some(if name.ends_with("_ratio") {
                percent(number)
            } else if name.ends_with("_us") {
                micros(number)
            } else {
                in_unit(number, "count")
            })
        }
        Value::Object(time) => {
            let stat = |stat: &str| Some(format!("{stat} {}", micros(time.get(stat)?.as_f64()?)));
            let stats: Vec<String> =
                ["p50", "p95", "p99", "max"].into_iter().filter_map(stat).collect();
            (!stats.is_empty()).then(|| stats.join(", "))
        }
        Value::String(text) => Some(escaped(text)),
        Value::Bool(is) => Some(if *is { "yes" } else { "no" }.into()),
        Value::Array(items) if !items.is_empty() => Some(count(items.len() as u64)),
        Value::Array(_) | Value::Null => None,
    }
}

pub(super) fn history(html: &mut String, export: &RunExport) {
    html.push_str("<section><h2>Stages and events</h2><div class=\"grid\"><div class=\"scroll\"><table><thead><tr><th>stage</th><th>kind</th><th class=\"n\">from</th><th class=\"n\">to</th><th>groups</th></tr></thead><tbody>");
    for stage in &export.stages {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"wrap\">{}</td></tr>",
            escaped(&stage.name),
            escaped(&stage.kind),
            seconds(stage.from_s),
            seconds(stage.to_s),
            escaped(&stage.groups.join(", "))
        );
    }
    html.push_str("</tbody></table></div><div class=\"scroll\"><table><thead><tr><th class=\"n\">run time</th><th>event</th><th>text</th></tr></thead><tbody>");
    for event in &export.report.events {
        let at = event.at_s.map_or("-".into(), |at| format!("{at:.1} s"));
        let _ = write!(
            html,
            "<tr><td class=\"n\" title=\"{}\">{at}</td><td>{}</td><td class=\"wrap\">{}</td></tr>",
            escaped(&event.at),
            escaped(&event.kind),
            escaped(&event.text)
        );
    }
    html.push_str("</tbody></table></div></div></section>\n");
}

/// What could be read of it.
fn runs_on(host: &HostReport) -> String {
    let HostReport { name, system, kernel, processor, processors, memory_bytes, .. } = host;
    let noise = (host.echo_p50_us > 0).then(|| {
        let (timer, echo) = (micros(host.timer_p99_us as f64), micros(host.echo_p50_us as f64));
        format!("timers late by {timer}, an echo takes {echo}")
    });
    let memory = (*memory_bytes > 0).then(|| bytes(*memory_bytes));
    let processors = match processor.is_empty() {
        true => format!("{processors} processors"),
        false => format!("{processors} × {processor}"),
    };
    let parts = [name.clone(), system.clone(), kernel.clone(), processors];
    let parts = parts.into_iter().chain(memory).chain(noise).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(", ")
}

pub(super) fn agents(html: &mut String, report: &RunReport) {
    if report.agents.is_empty() {
        return;
    }
    html.push_str("<section><h2>Agents</h2><div class=\"scroll\"><table><thead><tr><th>agent</th><th>state</th><th class=\"n\">devices</th><th class=\"n\">cores used</th><th class=\"n\">memory</th><th class=\"n\">descriptors</th><th class=\"n\">received</th><th class=\"n\">sent</th><th class=\"n\">longest stall</th><th class=\"n\">stalled</th><th class=\"n\">missed</th><th class=\"n\">send lag p99</th><th class=\"n\">waited</th><th class=\"n\">pressure</th><th class=\"n\">stolen</th><th class=\"n\">throttled</th><th class=\"n\">descriptor errors</th><th class=\"n\">port errors</th><th>totals proved</th><th>build</th><th>runs on</th></tr></thead><tbody>");
    for agent in &report.agents {
        let class = if ["lost", "silent"].contains(&agent.state.as_str()) { "bad" } else { "" };
        let proved = match agent.totals_proved {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let _ = write!(
            html,
            "<tr><td>{}</td><td class=\"{class}\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.2}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{proved}</td><td>{}</td><td>{}</td></tr>",
            escaped(&agent.agent),
            escaped(&agent.state),
            count(agent.devices),
            agent.cpu_cores,
            bytes(agent.memory_max_bytes),
            count(agent.descriptors_max),
            bytes(agent.network_received_bytes),
            bytes(agent.network_sent_bytes),
            micros(agent.stall_max_us as f64),
            micros(agent.stalled_us as f64),
            count(agent.missed),
            agent.send_lag_p99_us.map_or_else(|| "-".to_owned(), |us| micros(us as f64)),
            percent(agent.waited_ratio),
            percent(agent.pressure_ratio),
            percent(agent.stolen_ratio),
            percent(agent.throttled_ratio),
            count(agent.descriptor_errors),
            count(agent.port_errors),
            escaped(&agent.build),
            escaped(&agent.host.as_ref().map(runs_on).unwrap_or_default())
        );
    }
    html.push_str("</tbody></table></div></section>\n");
}

pub(super) fn configuration(html: &mut String, export: &RunExport) {
    let report = &export.report;
    html.push_str("<section><h2>Configuration</h2><div class=\"scroll\"><table><tbody>");
    let mut row = |name: &str, value: &str| {
        let _ = write!(
            html,
            "<tr><td>{}</td><td class=\"wrap\"><code>{}</code></td></tr>",
            escaped(name),
            escaped(value)
        );
    };
    row("server", &report.server);
    row("seed", &report.seed.to_string());
    row("scenario sha256", &report.scenario.sha256);
    if let Some(log) = &report.request_log {
        row("request log", &held(log));
    }
    for (name, value) in &report.scenario.vars {
        row(&format!("vars.{name}"), value);
    }
    html.push_str("</tbody></table></div>\n<details open><summary>The scenario</summary><pre>");
    html.push_str(&escaped(&export.scenario_text));
    html.push_str("</pre></details></section>\n");
}
