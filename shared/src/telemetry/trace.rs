//! Trace contexts in the form of the W3C header `traceparent`: taken from a caller, handed on, linked.
//!
//! What is not a valid `traceparent` counts as none: the trace begins anew.

use std::collections::HashMap;
use std::fmt;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceId};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Name of the header.
pub const TRACEPARENT: &str = "traceparent";

/// The current span as a `traceparent`; empty outside of a span and in a trace that nobody samples.
#[must_use]
pub fn current_traceparent() -> String {
    Context::map_current(|context| {
        let span = context.span();
        let current = span.span_context();
        if current.is_valid() && current.is_sampled() {
            format!("00-{}-{}-01", current.trace_id(), current.span_id())
        } else {
            String::new()
        }
    })
}

/// Links `span` to the span that `traceparent` names: its cause, in another trace. Does nothing where that is invalid.
pub fn link(span: &Span, traceparent: &str) {
    if let Some(cause) = parse(traceparent) {
        span.add_link(cause);
    }
}

/// Makes `span`, not entered yet, a child of the caller's span. Does nothing where `traceparent` is invalid.
pub fn continue_from(span: &Span, traceparent: &str) {
    if let Some(caller) = parse(traceparent) {
        // Refused only where the span is filtered out or no telemetry is installed: then there is nothing to continue.
        span.set_parent(Context::new().with_remote_span_context(caller)).ok();
    }
}

/// The ids of the current span, for log lines; `None` outside of spans.
#[must_use]
pub fn current_ids() -> Option<Ids> {
    Context::map_current(|context| {
        let span = context.span();
        let current = span.span_context();
        current.is_valid().then(|| Ids { trace: current.trace_id(), span: current.span_id() })
    })
}

/// Ids of a span; shown in lowercase hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Id of the trace, 16 bytes.
    pub trace: TraceId,
    /// Id of the span, 8 bytes.
    pub span: SpanId,
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trace_id={} span_id={}", self.trace, self.span)
    }
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    if traceparent.is_empty() {
        return None;
    }
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    let remote = context.span().span_context().clone();
    remote.is_valid().then_some(remote)
}

#[cfg(test)]
mod tests;
