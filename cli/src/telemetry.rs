//! Logs, traces and metrics of this process. Contents of tasks, prompts and answers are in none of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use muster_api::MetricsRender;
use opentelemetry::{
    propagation::TextMapPropagator as _,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tokio_util::sync::CancellationToken;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    config::{Config, LogFormat},
    failure::Failure,
};

/// Upper bounds of the buckets of every `…_seconds` histogram.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// Between two rounds of forgetting what the metrics no longer need.
const UPKEEP: Duration = Duration::from_secs(5);

/// The path that OTLP over HTTP has for traces.
const OTLP_TRACES: &str = "/v1/traces";

/// What has to be flushed at the end.
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: PrometheusHandle,
}

/// Starts logging, tracing and measuring. To be called once, outside of any async runtime (the exporter has a
/// thread and a runtime of its own).
pub(crate) fn start(config: &Config, default_filter: &str, role: &'static str) -> Result<Telemetry, Failure> {
    let filter = config.log.as_deref().unwrap_or(default_filter);
    let filter =
        EnvFilter::try_new(filter).map_err(|error| Failure::usage(format!("the log filter `{filter}` is not understood: {error}")))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = match config.log_format {
        LogFormat::Text => lines.with_target(false).with_ansi(crate::output::watched()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let traces = config.otlp_endpoint.as_deref().map(|endpoint| exporter(endpoint, role)).transpose()?;
    // What is traced does not depend on what is logged.
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("muster"))
            .with_filter(EnvFilter::new("info,hyper=off,reqwest=off,opentelemetry=off"))
    });
    Registry::default()
        .with(logs.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(|error| Failure::failed(format!("logging cannot be started: {error}")))?;
    Ok(Telemetry { traces, metrics: recorder()? })
}

fn exporter(endpoint: &str, role: &'static str) -> Result<SdkTracerProvider, Failure> {
    let base = endpoint.trim_end_matches('/');
    let url = if base.ends_with(OTLP_TRACES) { base.to_owned() } else { format!("{base}{OTLP_TRACES}") };
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .with_timeout(Duration::from_secs(5))
        .build()
        .map_err(|error| Failure::usage(format!("otlp_endpoint cannot be used: {error}")))?;
    let resource = Resource::builder()
        .with_service_name("muster")
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(opentelemetry::KeyValue::new("muster.role", role))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

fn recorder() -> Result<PrometheusHandle, Failure> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .map_err(|error| Failure::failed(format!("the buckets of the metrics are refused: {error}")))?;
    builder.install_recorder().map_err(|error| Failure::failed(format!("metrics cannot be started: {error}")))
}

impl Telemetry {
    /// Renders the metrics, for the API.
    pub(crate) fn render(&self) -> MetricsRender {
        let handle = self.metrics.clone();
        Arc::new(move || handle.render())
    }

    /// Keeps the metrics small until `stop`: a server nobody scrapes would gather samples for ever.
    pub(crate) async fn upkeep(handle: PrometheusHandle, stop: CancellationToken) {
        while tokio::time::timeout(UPKEEP, stop.cancelled()).await.is_err() {
            handle.run_upkeep();
        }
    }

    /// The metrics of this process.
    pub(crate) fn metrics(&self) -> PrometheusHandle {
        self.metrics.clone()
    }

    /// Sends what has been traced. To be called at the end, outside of any async runtime.
    pub(crate) fn finish(self) {
        if let Some(provider) = self.traces
            && let Err(error) = provider.shutdown()
        {
            crate::output::note(format!("muster: the last traces were not sent: {error}"));
        }
    }
}

/// The header of W3C Trace Context.
const TRACEPARENT: &str = "traceparent";

/// The W3C trace context of the current span; none when nothing is traced.
pub(crate) fn trace_context() -> Option<String> {
    let context = Span::current().context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove(TRACEPARENT)
}

/// Makes a span the child of a W3C trace context. A context that is not understood changes nothing.
pub(crate) fn set_parent(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    if context.span().span_context().is_valid() {
        // It fails where nothing is traced.
        let _ = span.set_parent(context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_across_a_traceparent() {
        let provider = SdkTracerProvider::builder().build();
        let subscriber = Registry::default().with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test")));
        tracing::subscriber::with_default(subscriber, || {
            assert_eq!(trace_context(), None);
            let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            let span = tracing::info_span!("child");
            set_parent(&span, parent);
            let context = span.in_scope(trace_context).expect("a context");
            assert!(context.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && context != parent, "{context}");
            set_parent(&span, "nonsense");
        });
    }
}
