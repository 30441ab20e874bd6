//! Prometheus' protobuf format, the only one in which a scraper gets native histograms: their buckets
//! grow evenly, so that a percentile is read within a few percent wherever it lies. The classic buckets
//! stand beside them, for a Prometheus that keeps only those.

use prost::Message;
use shoal_domain::histogram::Exponential;
use shoal_proto::prometheus as wire;

use super::BOUNDS_US;
use super::families::{Family, Point, Value};
use super::{TimeSample, families};

pub(super) const CONTENT_TYPE: &str = "application/vnd.google.protobuf; \
    proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// Whether a scraper that says this would rather have protobuf than text.
pub(super) fn is_wanted(accept: &str) -> bool {
    let (mut protobuf, mut text) = (0.0_f64, 0.0_f64);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
        let kind = parts.next().unwrap_or_default();
        let parameters: Vec<(String, String)> = parts
            .filter_map(|part| {
                let (name, value) = part.split_once('=')?;
                Some((name.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
            })
            .collect();
        let value = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str())
        };
        let q = value("q").map_or(Some(1.0), |q| q.parse().ok());
        let q = q.filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0);
        match kind.as_str() {
            "application/vnd.google.protobuf"
                if value("proto") == Some("io.prometheus.client.metricfamily")
                    && value("encoding") == Some("delimited") =>
            {
                protobuf = protobuf.max(q);
            }
            "text/plain" | "text/*" | "*/*" => text = text.max(q),
            _ => {}
        }
    }
    protobuf > 0.0 && protobuf >= text
}

/// Families one after the other, each after its length; one without a point says nothing.
pub(super) fn render(families: &[Family<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for family in families.iter().filter(|family| !family.points.is_empty()) {
        bytes.extend(to_wire(family).encode_length_delimited_to_vec());
    }
    bytes
}

fn to_wire(family: &families::Family<'_>) -> wire::MetricFamily {
    let kind = match family.kind {
        "counter" => wire::MetricType::Counter,
        "histogram" => wire::MetricType::Histogram,
        _ => wire::MetricType::Gauge,
    };
    wire::MetricFamily {
        name: Some(family.name.to_owned()),
        help: Some(family.help.to_owned()),
        r#type: Some(kind.into()),
        metric: family.points.iter().map(|point| metric(kind, point)).collect(),
        ..wire::MetricFamily::default()
    }
}

fn metric(kind: wire::MetricType, point: &Point<'_>) -> wire::Metric {
    let label = |(name, value): &(&'static str, std::borrow::Cow<'_, str>)| wire::LabelPair {
        name: Some((*name).to_owned()),
        value: Some(value.clone().into_owned()),
    };
    let mut metric =
        wire::Metric { label: point.labels.iter().map(label).collect(), ..Default::default() };
    match (&point.value, kind) {
        (Value::Time(time), _) => metric.histogram = Some(histogram(time)),
        (Value::Number(n), wire::MetricType::Counter) => {
            metric.counter = Some(wire::Counter { value: Some(*n as f64), ..Default::default() });
        }
        (Value::Number(n), _) => metric.gauge = Some(wire::Gauge { value: Some(*n as f64) }),
    }
    metric
}

fn histogram(time: &TimeSample) -> wire::Histogram {
    let bucket = |(bound, n): (&u64, u64)| wire::Bucket {
        cumulative_count: Some(n),
        upper_bound: Some(*bound as f64 / 1e6),
        ..wire::Bucket::default()
    };
    let (positive_span, positive_delta) = spans(&time.native);
    wire::Histogram {
        sample_count: Some(time.count),
        sample_sum: Some(time.sum_us as f64 / 1e6),
        bucket: BOUNDS_US.iter().zip(time.buckets).map(bucket).collect(),
        schema: Some(Exponential::SCHEMA),
        // Below the microsecond that is the finest we measure.
        zero_threshold: Some(1e-7),
        zero_count: Some(time.native.zero),
        positive_span,
        positive_delta,
        ..wire::Histogram::default()
    }
}

/// Stretches of neighbouring buckets, and what each count is more than the one before it.
fn spans(native: &Exponential) -> (Vec<wire::BucketSpan>, Vec<i64>) {
    let mut spans: Vec<wire::BucketSpan> = Vec::new();
    let mut deltas = Vec::new();
    let (mut next, mut before) = (0, 0);
    for (index, count) in &native.buckets {
        let gap = index - next;
        match spans.last_mut() {
            Some(last) if gap == 0 => last.length = last.length.map(|length| length + 1),
            _ => spans.push(wire::BucketSpan { offset: Some(gap), length: Some(1) }),
        }
        deltas.push(*count as i64 - before);
        (next, before) = (index + 1, *count as i64);
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::super::Process;
    use super::super::tests::sample;
    use super::*;

    const ASKS_FOR_NATIVE: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

    #[test]
    fn who_prefers_protobuf_gets_it_and_everybody_else_text() {
        assert!(is_wanted(ASKS_FOR_NATIVE));
        let later = ASKS_FOR_NATIVE.replace("delimited,", "delimited;q=0.6,");
        assert!(is_wanted(&later), "0.6 before 0.5");
        for text in [
            "",
            "*/*",
            "text/plain",
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
            "text/plain, application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5",
            "application/vnd.google.protobuf",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=x",
        ] {
            assert!(!is_wanted(text), "{text}");
        }
    }

    fn decoded(mut bytes: &[u8]) -> Vec<wire::MetricFamily> {
        let mut families = Vec::new();
        while !bytes.is_empty() {
            families.push(wire::MetricFamily::decode_length_delimited(&mut bytes).unwrap());
        }
        families
    }

    #[test]
    fn a_scraper_that_knows_the_public_schema_reads_what_the_text_says() {
        let (samples, process) = ([sample()], Process { n_runs: 1, n_agents: 2 });
        let families = decoded(&render(&families::of(&samples, process)));
        let of = |name: &str| families.iter().find(|family| family.name() == name).unwrap();
        assert_eq!(of("shoal_agents").metric[0].gauge.unwrap().value(), 2.0);
        let attempts = of("shoal_attempts_total");
        assert_eq!(attempts.r#type(), wire::MetricType::Counter);
        assert_eq!(attempts.metric[0].counter.as_ref().unwrap().value(), 3.0);
        let labels: Vec<&str> = attempts.metric[0].label.iter().map(|one| one.value()).collect();
        assert_eq!(labels, ["calm-otter", "small", "g", "s", "publish"]);

        let times = of("shoal_response_time_seconds").metric[0].histogram.as_ref().unwrap();
        assert_eq!((times.sample_count(), times.sample_sum()), (3, 0.072));
        assert_eq!(times.bucket[0].cumulative_count(), 1);
        // Back to indices and counts, as Prometheus reads them.
        let (mut at, mut count, mut deltas) = (0, 0, times.positive_delta.iter());
        let mut buckets = Vec::new();
        for span in &times.positive_span {
            at += span.offset();
            for _ in 0..span.length() {
                count += deltas.next().unwrap();
                buckets.push((at, count));
                at += 1;
            }
        }
        assert_eq!(deltas.next(), None);
        let base = 2f64.powf(2f64.powi(-times.schema()));
        let bounds: Vec<f64> = buckets.iter().map(|(at, _)| base.powi(*at)).collect();
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<i64>(), 3);
        for (upper, value) in bounds.iter().zip([0.0009, 0.0011, 0.07]) {
            assert!((upper / base..=*upper).contains(&value), "{value} in {bounds:?}");
        }
    }
}
