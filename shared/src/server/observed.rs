//! One call as seen by operators: its span in the caller's trace, its duration by method and code.

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Code;
use tracing::Span;

use super::methods::{Method, code_name};
use crate::telemetry::trace;

/// A call under way; its end is recorded once: as `CANCELLED` where it is dropped before an end was known, as `INTERNAL` where a
/// panic drops it.
#[derive(Debug)]
pub(super) struct Observed {
    method: Arc<Method>,
    began: Instant,
    span: Span,
    ended: bool,
}

impl Observed {
    /// A call that begins now.
    pub(super) fn begin(method: Arc<Method>, headers: &HeaderMap) -> Self {
        let span = tracing::info_span!(
            "rpc",
            otel.name = &*method.name,
            otel.kind = "server",
            otel.status_code = tracing::field::Empty,
            rpc.system.name = "grpc",
            rpc.method = &*method.name,
            rpc.status_code = tracing::field::Empty,
        );
        if let Some(traceparent) = headers.get(trace::TRACEPARENT).and_then(|value| value.to_str().ok()) {
            trace::continue_from(&span, traceparent);
        }
        Self { method, began: Instant::now(), span, ended: false }
    }

    /// The span to work in.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// Records the end; the first one counts.
    pub(super) fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let duration = self.began.elapsed();
        self.method.durations(code).record(duration.as_secs_f64());
        self.span.record("rpc.status_code", code_name(code));
        let _entered = self.span.enter();
        let duration_ms = (duration.as_secs_f64() * 1e6).round() / 1e3;
        if matches!(code, Code::Unknown | Code::Internal | Code::DataLoss) {
            self.span.record("otel.status_code", "ERROR");
            tracing::warn!(rpc.status_code = code_name(code), duration_ms, "call failed");
        } else {
            tracing::debug!(rpc.status_code = code_name(code), duration_ms, "call ended");
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.end(if std::thread::panicking() { Code::Internal } else { Code::Cancelled });
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::server::methods::Methods;
    use crate::telemetry::metrics;

    #[test]
    fn an_unknown_end_is_a_cancel_or_a_panic() {
        let metrics = metrics::handle();
        let method = Methods::of(&[]).get("/any").clone();
        drop(Observed::begin(Arc::clone(&method), &HeaderMap::new()));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _observed = Observed::begin(method, &HeaderMap::new());
            panic!("expected by the test");
        }));
        assert!(panicked.is_err());
        let text = metrics.render();
        for code in ["CANCELLED", "INTERNAL"] {
            let series = format!("rpc_method=\"_OTHER\",rpc_status_code=\"{code}\"}} 1");
            assert!(text.contains(&series), "{text}");
        }
    }
}
