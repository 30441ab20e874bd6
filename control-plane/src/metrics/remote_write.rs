//! Prometheus remote write, version 1: the points of a scrape as snappy-compressed protobuf.

use prost::Message;

use super::BOUNDS_US;
use super::families::{Family, Point, Value};

pub(super) const HEADERS: &str = "Content-Type: application/x-protobuf\r\n\
    Content-Encoding: snappy\r\n\
    X-Prometheus-Remote-Write-Version: 0.1.0\r\n";

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// The body of a write and how many samples are in it.
pub(super) fn body(families: &[Family<'_>], now_us: u64) -> Result<(Vec<u8>, u64), String> {
    let mut timeseries = Vec::new();
    for family in families {
        for point in &family.points {
            add(&mut timeseries, family.name, point, (now_us / 1_000) as i64);
        }
    }
    let n = timeseries.len() as u64;
    let plain = WriteRequest { timeseries }.encode_to_vec();
    let body = snap::raw::Encoder::new().compress_vec(&plain).map_err(|error| error.to_string())?;
    Ok((body, n))
}

fn add(all: &mut Vec<TimeSeries>, name: &str, point: &Point<'_>, timestamp: i64) {
    let mut one = |suffix: &str, le: Option<String>, value: f64| {
        let label = |name: &str, value: &str| Label { name: name.into(), value: value.into() };
        let mut labels: Vec<Label> =
            point.labels.iter().map(|(name, value)| label(name, value)).collect();
        labels.push(label("__name__", &format!("{name}{suffix}")));
        labels.extend(le.map(|le| label("le", &le)));
        // The protocol wants them so.
        labels.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.push(TimeSeries { labels, samples: vec![Sample { value, timestamp }] });
    };
    match &point.value {
        Value::Number(n) => one("", None, *n as f64),
        Value::Time(time) => {
            for (bound, n) in BOUNDS_US.iter().zip(time.buckets) {
                one("_bucket", Some((*bound as f64 / 1e6).to_string()), n as f64);
            }
            one("_bucket", Some("+Inf".to_owned()), time.count as f64);
            one("_sum", None, time.sum_us as f64 / 1e6);
            one("_count", None, time.count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::super::{Process, families, text};
    use super::*;

    #[test]
    fn what_is_written_is_what_a_scrape_shows() {
        let samples = [sample()];
        let families = families::of(&samples, Process { n_runs: 1, n_agents: 2 });
        let (body, n) = body(&families, 5_000_000).unwrap();
        let plain = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
        let written = WriteRequest::decode(plain.as_slice()).unwrap();
        let scraped = text::render(&families);
        assert_eq!(n as usize, scraped.lines().filter(|line| !line.starts_with('#')).count());
        assert_eq!(n as usize, written.timeseries.len());
        for series in &written.timeseries {
            assert!(series.labels.is_sorted_by_key(|label| &label.name));
            let name = series.labels.iter().find(|label| label.name == "__name__").unwrap();
            let Sample { value, timestamp } = &series.samples[0];
            let line_of =
                |line: &&str| {
                    line.starts_with(&format!("{}{{", name.value))
                        && line.ends_with(&format!("}} {value}"))
                        && series.labels.iter().filter(|label| label.name != "__name__").all(
                            |label| line.contains(&format!("{}=\"{}\"", label.name, label.value)),
                        )
                };
            assert!(scraped.lines().any(|line| line_of(&line)), "{series:?}\n{scraped}");
            assert_eq!(*timestamp, 5_000);
        }
    }
}
