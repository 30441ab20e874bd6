//! Traces of our own parts, delivered by OTLP where the environment names a collector.
//!
//! A trace has the number of what it is about (a run), and its first span a number made of it. So
//! parts in different processes join one trace without telling each other anything, also after a
//! restart. Nothing is traced per message. Invariant: a collector that is slow or gone costs spans,
//! which are counted, and nothing else: delivery has a thread and a runtime of its own.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, SdkTracer,
    SdkTracerProvider, SpanData, SpanExporter,
};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Where the collector listens, like `http://127.0.0.1:4317`; unset: nothing is traced.
pub const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Spans that wait for delivery; more are lost.
const QUEUE: usize = 2_048;
const DELIVER_EVERY: Duration = Duration::from_secs(1);
/// What a process waits for its last spans.
const LAST: Duration = Duration::from_secs(2);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Ends with the process: dropped, it delivers what is left and says what was lost.
#[derive(Debug)]
pub(crate) struct Delivery {
    provider: SdkTracerProvider,
    counts: Arc<Counts>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Debug, Default)]
struct Counts {
    delivered: AtomicU64,
    lost: AtomicU64,
}

/// Counts what the collector took and what it did not.
#[derive(Debug)]
struct Counting {
    exporter: opentelemetry_otlp::SpanExporter,
    counts: Arc<Counts>,
}

impl SpanExporter for Counting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let n = batch.len() as u64;
        let delivered = self.exporter.export(batch).await;
        let counter = match &delivered {
            Ok(()) => &self.counts.delivered,
            Err(_) => &self.counts.lost,
        };
        counter.fetch_add(n, Relaxed);
        delivered
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

thread_local! {
    /// The trace whose first span is being made.
    static FIRST_OF: Cell<Option<u128>> = const { Cell::new(None) };
}

#[derive(Debug, Default)]
struct Numbers(RandomIdGenerator);

impl IdGenerator for Numbers {
    fn new_trace_id(&self) -> TraceId {
        FIRST_OF.get().map_or_else(|| self.0.new_trace_id(), TraceId::from)
    }

    fn new_span_id(&self) -> SpanId {
        FIRST_OF.get().map_or_else(|| self.0.new_span_id(), first_span_of)
    }
}

/// Never 0, which is no id.
fn first_span_of(number: u128) -> SpanId {
    SpanId::from((number as u64) | 1)
}

/// Of the trace `number`; without a collector it stays an ordinary span. Not to be entered before.
pub fn in_trace(span: tracing::Span, number: u128) -> tracing::Span {
    let first = SpanContext::new(
        TraceId::from(number),
        first_span_of(number),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    // It fails where nobody traces, which is most often.
    let _ = span.set_parent(Context::new().with_remote_span_context(first));
    span
}

/// The first span of a trace, once all of it is known: whoever owns the thing says it at its end.
pub fn first_span(
    number: u128,
    name: &'static str,
    started: SystemTime,
    attributes: impl IntoIterator<Item = (&'static str, String)>,
) {
    let Some(tracer) = TRACER.get() else { return };
    let attributes = attributes.into_iter().map(|(name, value)| KeyValue::new(name, value));
    let builder = SpanBuilder::from_name(name)
        .with_start_time(started)
        .with_attributes(attributes.collect::<Vec<_>>());
    FIRST_OF.set(Some(number));
    let mut span = tracer.build_with_context(builder, &Context::new());
    FIRST_OF.set(None);
    span.end();
}

impl Delivery {
    /// `None`: no collector is named.
    pub(crate) fn start(service: &'static str) -> Result<Option<Self>, String> {
        let endpoint = std::env::var(ENDPOINT_VARIABLE).unwrap_or_default();
        if endpoint.is_empty() {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let entered = runtime.enter();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(LAST)
            .build()
            .map_err(|error| error.to_string())?;
        drop(entered);
        let counts: Arc<Counts> = Arc::default();
        let exporter = Counting { exporter, counts: Arc::clone(&counts) };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_scheduled_delay(DELIVER_EVERY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_id_generator(Numbers::default())
            .with_resource(Resource::builder().with_service_name(service).build())
            .build();
        // A second one in this process would be a second `init`, which is refused.
        let _ = TRACER.set(provider.tracer("shoal"));
        Ok(Some(Self { provider, counts, runtime: Some(runtime) }))
    }

    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("shoal")
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let ended = self.provider.shutdown_with_timeout(LAST);
        let lost = self.counts.lost.load(Relaxed);
        if lost > 0 || ended.is_err() {
            let delivered = self.counts.delivered.load(Relaxed);
            tracing::warn!(lost, delivered, "the collector did not take all spans");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
