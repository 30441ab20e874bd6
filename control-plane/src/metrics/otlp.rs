//! OTLP metrics over gRPC, to the collector that takes the traces.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AttributeValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tonic::transport::{Channel, Endpoint};

use super::families::{Family, Point, Value};
use super::{BOUNDS_US, TimeSample};

pub(super) type Collector = MetricsServiceClient<Channel>;

/// Connects when there is something to say, and again where it was lost.
pub(super) fn collector(url: &str) -> Result<Collector, String> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|_| format!("`{url}` found, http://host:port of an OTLP collector expected"))?;
    Ok(MetricsServiceClient::new(endpoint.connect_lazy()))
}

/// What is exported and how many points are in it.
pub(super) fn request(families: &[Family<'_>], now_us: u64) -> (ExportMetricsServiceRequest, u64) {
    let at_ns = now_us.saturating_mul(1_000);
    let with_points = families.iter().filter(|family| !family.points.is_empty());
    let metrics: Vec<Metric> = with_points.map(|family| metric(family, at_ns)).collect();
    let scope = InstrumentationScope {
        name: "shoal".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    let resource = Resource {
        attributes: vec![attribute("service.name", "shoal-control-plane")],
        ..Default::default()
    };
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..Default::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: Some(resource), scope_metrics, ..Default::default() }];
    let n = families.iter().map(|family| family.points.len() as u64).sum();
    (ExportMetricsServiceRequest { resource_metrics }, n)
}

/// Sums have no time of start: a control plane that was restarted goes on with those of before.
fn metric(family: &Family<'_>, at_ns: u64) -> Metric {
    let cumulative = AggregationTemporality::Cumulative as i32;
    let numbers = || family.points.iter().filter_map(|point| number(point, at_ns)).collect();
    let data = match family.kind {
        "gauge" => Data::Gauge(Gauge { data_points: numbers() }),
        "counter" => Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        _ => Data::Histogram(Histogram {
            data_points: family.points.iter().filter_map(|point| times(point, at_ns)).collect(),
            aggregation_temporality: cumulative,
        }),
    };
    let unit = if matches!(data, Data::Histogram(_)) { "s" } else { "1" };
    Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Default::default()
    }
}

fn number(point: &Point<'_>, at_ns: u64) -> Option<NumberDataPoint> {
    let Value::Number(n) = point.value else { return None };
    let n = i64::try_from(n).unwrap_or(i64::MAX);
    Some(NumberDataPoint {
        attributes: attributes(point),
        time_unix_nano: at_ns,
        value: Some(Number::AsInt(n)),
        ..Default::default()
    })
}

fn times(point: &Point<'_>, at_ns: u64) -> Option<HistogramDataPoint> {
    let Value::Time(TimeSample { buckets, sum_us, count, .. }) = point.value else { return None };
    let mut below = 0;
    let counts = buckets.iter().chain([count]);
    Some(HistogramDataPoint {
        attributes: attributes(point),
        time_unix_nano: at_ns,
        count: *count,
        sum: Some(*sum_us as f64 / 1e6),
        // Ours are cumulative over the buckets, OTLP's are not.
        bucket_counts: counts.map(|n| n - std::mem::replace(&mut below, *n)).collect(),
        explicit_bounds: BOUNDS_US.map(|us| us as f64 / 1e6).to_vec(),
        ..Default::default()
    })
}

fn attributes(point: &Point<'_>) -> Vec<KeyValue> {
    point.labels.iter().map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(name: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(AttributeValue::StringValue(value.to_owned())) };
    KeyValue { key: name.to_owned(), value: Some(value), ..Default::default() }
}
