//! JUnit XML: every threshold is a test case, and so is whether the run can be trusted.

use std::fmt::Write as _;

use shoal_domain::report::{RunReport, ThresholdReport, ThresholdResult};
use shoal_domain::run::{Phase, Validity};

use super::escaped;
use crate::render::numbers::{in_unit, worst_window};

pub(super) fn render(report: &RunReport) -> String {
    let trust = trust(report);
    let failed = report.thresholds.iter().filter(|t| t.result != ThresholdResult::Passed).count();
    let tests = report.thresholds.len() + 1;
    let errors = usize::from(trust.is_some());
    let suite = escaped(&report.scenario.name);
    let time = report.duration_s;
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        xml,
        "<testsuites name=\"shoal\" tests=\"{tests}\" failures=\"{failed}\" errors=\"{errors}\" time=\"{time}\">"
    );
    let _ = write!(
        xml,
        "  <testsuite name=\"{suite}\" id=\"{}\" tests=\"{tests}\" failures=\"{failed}\" errors=\"{errors}\" skipped=\"0\" time=\"{time}\"",
        escaped(&report.run)
    );
    if let Some(at) = &report.started_at {
        // The schema wants it without a zone.
        let at = at.trim_end_matches('Z').split('.').next().unwrap_or_default();
        let _ = write!(xml, " timestamp=\"{}\"", escaped(at));
    }
    xml.push_str(">\n    <properties>\n");
    for (name, value) in properties(report) {
        let _ = writeln!(
            xml,
            "      <property name=\"{}\" value=\"{}\"/>",
            escaped(&name),
            escaped(&value)
        );
    }
    xml.push_str("    </properties>\n");
    let _ = write!(xml, "    <testcase classname=\"{suite}\" name=\"the run can be trusted\"");
    match &trust {
        None => xml.push_str("/>\n"),
        Some(why) => {
            let _ = write!(
                xml,
                ">\n      <error type=\"validity\" message=\"{0}\">{0}</error>\n    </testcase>\n",
                escaped(why)
            );
        }
    }
    for threshold in &report.thresholds {
        case(&mut xml, &suite, threshold);
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

fn properties(report: &RunReport) -> Vec<(String, String)> {
    let mut properties = vec![
        ("run".to_owned(), report.run.clone()),
        ("name".to_owned(), report.name.clone()),
        ("seed".to_owned(), report.seed.to_string()),
    ];
    for (name, value) in [("revision", &report.revision), ("started_by", &report.started_by)] {
        if !value.is_empty() {
            properties.push((name.to_owned(), value.clone()));
        }
    }
    for (name, value) in report.labels.iter() {
        properties.push((format!("label.{name}"), value.to_owned()));
    }
    properties
}

/// Why no verdict can be relied on; `None` if one can.
fn trust(report: &RunReport) -> Option<String> {
    let code = report.exit_code.unwrap_or(4);
    if code <= 1 {
        return None;
    }
    let reasons: Vec<&str> =
        report.validity_reasons.iter().map(|reason| reason.text.as_str()).collect();
    let word = match report.validity {
        Some(Validity::Valid) | None => report.phase.word(),
        Some(validity) => validity.word(),
    };
    let cause = report.cause.as_deref().filter(|_| report.phase != Phase::Finished);
    let why: Vec<&str> = cause.into_iter().chain(reasons).collect();
    Some(format!("{word}, exit code {code}: {}", why.join("; ")))
}

fn case(xml: &mut String, suite: &str, threshold: &ThresholdReport) {
    let name = escaped(&threshold.sentence());
    let _ = write!(xml, "    <testcase classname=\"{suite}\" name=\"{name}\"");
    if threshold.result == ThresholdResult::Passed {
        xml.push_str("/>\n");
        return;
    }
    let mut message = match threshold.value {
        Some(value) => format!(
            "{}, limit {}",
            in_unit(value, &threshold.unit),
            in_unit(threshold.limit, &threshold.unit)
        ),
        None => "no data, which fails".to_owned(),
    };
    if let Some(at) = threshold.breached_at_s {
        let _ = write!(message, ", broken at {at} s");
    }
    if let Some(worst) = worst_window(threshold) {
        let _ = write!(message, ", {worst}");
    }
    let message = escaped(&message);
    let _ = write!(
        xml,
        ">\n      <failure type=\"threshold\" message=\"{message}\">{message}</failure>\n    </testcase>\n"
    );
}
