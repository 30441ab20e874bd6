//! A collector of traces and metrics that keeps what it gets, for tests.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use shoal_service_kit::Lifecycle;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// One span, as far as tests look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub service: String,
    pub name: String,
    /// In hexadecimal digits.
    pub trace: String,
    pub id: String,
    /// Empty: it is the first of its trace.
    pub parent: String,
}

/// Ends with this handle.
#[derive(Debug)]
pub struct Collector {
    addr: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<Metrics>>,
    lifecycle: Lifecycle,
}

/// The newest value of each metric and its attributes, `name{key=value,…}`; of a histogram its count.
type Metrics = BTreeMap<String, i64>;

struct Keep(Arc<Mutex<Vec<Span>>>);

struct KeepMetrics(Arc<Mutex<Metrics>>);

#[tonic::async_trait]
impl MetricsService for KeepMetrics {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = request.into_inner().resource_metrics.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_metrics);
        for metric in scopes.flat_map(|scope| scope.metrics) {
            let numbers = match metric.data {
                Some(Data::Gauge(gauge)) => gauge.data_points,
                Some(Data::Sum(sum)) => sum.data_points,
                Some(Data::Histogram(times)) => {
                    for point in times.data_points {
                        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                        let key = metric_key(&metric.name, point.attributes);
                        kept.insert(key, point.count as i64);
                    }
                    continue;
                }
                _ => continue,
            };
            for point in numbers {
                if let Some(Number::AsInt(n)) = point.value {
                    kept.insert(metric_key(&metric.name, point.attributes), n);
                }
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn metric_key(name: &str, attributes: Vec<KeyValue>) -> String {
    let text = |pair: KeyValue| match pair.value.and_then(|any| any.value) {
        Some(Value::StringValue(value)) => format!("{}={value}", pair.key),
        _ => pair.key,
    };
    format!("{name}{{{}}}", attributes.into_iter().map(text).collect::<Vec<_>>().join(","))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tonic::async_trait]
impl TraceService for Keep {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = attributes.into_iter().find(|pair| pair.key == "service.name");
            let service = match service.and_then(|pair| pair.value).and_then(|any| any.value) {
                Some(Value::StringValue(service)) => service,
                _ => String::new(),
            };
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Span {
                    service: service.clone(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Panics where loopback has no free port.
    pub async fn start() -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port of loopback");
        let addr = listener.local_addr().expect("it is bound");
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let metrics: Arc<Mutex<Metrics>> = Arc::default();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Keep(Arc::clone(&spans))))
            .add_service(MetricsServiceServer::new(KeepMetrics(Arc::clone(&metrics))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let lifecycle = Lifecycle::new();
        lifecycle.spawn_fallible("collector", server);
        Self { addr, spans, metrics, lifecycle }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The newest value of `name{key=value,…}`; of a histogram its count.
    pub fn metric(&self, key: &str) -> Option<i64> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.lifecycle.stop_hard();
    }
}
