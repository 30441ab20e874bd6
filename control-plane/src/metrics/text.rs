//! Prometheus' text format.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::BOUNDS_US;
use super::families::{Family, Point, Value};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn render(families: &[Family<'_>]) -> String {
    let mut text = String::new();
    for Family { name, kind, help, points } in families {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for point in points {
            let labels = labels_of(point);
            match &point.value {
                Value::Number(n) => {
                    let _ = writeln!(text, "{name}{{{labels}}} {n}");
                }
                Value::Time(time) => {
                    for (bound, n) in BOUNDS_US.iter().zip(time.buckets) {
                        let le = *bound as f64 / 1e6;
                        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{le}\"}} {n}");
                    }
                    let (count, sum) = (time.count, time.sum_us as f64 / 1e6);
                    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
                    let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}");
                    let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
                }
            }
        }
    }
    text
}

fn labels_of(point: &Point<'_>) -> String {
    let label = |(name, value): &(&str, Cow<'_, str>)| format!("{name}=\"{}\"", escaped(value));
    point.labels.iter().map(label).collect::<Vec<_>>().join(",")
}

/// A label's value: names of scenarios and series are words already, so this is a second lock.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
