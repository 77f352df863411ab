use std::sync::{Arc, Mutex};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[derive(Clone, Debug, Default)]
struct Collected(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Collected {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

fn traced<T>(sampler: Sampler, work: impl FnOnce() -> T) -> (T, Vec<SpanData>) {
    let collected = Collected::default();
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(sampler)))
        .with_simple_exporter(collected.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let out = tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    provider.shutdown().unwrap();
    let spans = collected.0.lock().unwrap().clone();
    (out, spans)
}

#[test]
fn a_span_continues_the_trace_of_its_caller() {
    let (handed_on, spans) = traced(Sampler::AlwaysOff, || {
        let span = tracing::info_span!("rpc");
        continue_from(&span, CALLER);
        span.in_scope(current_traceparent)
    });
    assert_eq!(spans[0].parent_span_id.to_string(), "b7ad6b7169203331");
    let own = spans[0].span_context.span_id();
    assert_eq!(handed_on, format!("00-0af7651916cd43dd8448eb211c80319c-{own}-01"));
}

#[test]
fn an_invalid_caller_begins_a_new_trace() {
    let invalid = ["", "x", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "\r\n"];
    for traceparent in invalid {
        let ((), spans) = traced(Sampler::AlwaysOn, || {
            let span = tracing::info_span!("rpc");
            continue_from(&span, traceparent);
            let _entered = span.enter();
        });
        assert_eq!(spans[0].parent_span_id, SpanId::INVALID, "{traceparent:?}");
        assert!(spans[0].span_context.is_valid());
    }
}

#[test]
fn a_cause_is_linked_and_stays_in_its_own_trace() {
    let ((), spans) = traced(Sampler::AlwaysOn, || {
        let span = tracing::info_span!("projected");
        link(&span, CALLER);
        link(&span, "invalid");
        let _entered = span.enter();
        link(&span, CALLER);
    });
    let links: Vec<_> = spans[0].links.iter().map(|link| link.span_context.span_id().to_string()).collect();
    assert_eq!(links, ["b7ad6b7169203331", "b7ad6b7169203331"]);
    assert_ne!(spans[0].span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
}

#[test]
fn ids_exist_where_nobody_samples_but_nothing_is_handed_on() {
    let ((ids, handed_on), spans) = traced(Sampler::AlwaysOff, || {
        tracing::info_span!("rpc").in_scope(|| (current_ids(), current_traceparent()))
    });
    assert!(ids.is_some());
    assert_eq!(handed_on, "");
    assert!(spans.is_empty());
    assert_eq!(current_ids(), None);
}
