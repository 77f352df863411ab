use std::io;
use std::sync::{Arc, Mutex};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat, work: impl FnOnce()) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff).build();
    let subscriber = tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test")))
        .with(layer(format, false, move || writer.clone()));
    tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn hostile() {
    let text = "one\r\ntwo\t\u{1b}[31m\u{85}";
    tracing::info_span!("rpc", rpc.method = "a.B/C", note = text)
        .in_scope(|| tracing::info!(caller.text = text, "said {text}"));
}

#[test]
fn a_json_line_carries_ids_and_fields() {
    let text = logged(LogFormat::Json, hostile);
    assert_eq!(text.lines().count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
    assert_eq!(line["span_id"].as_str().unwrap().len(), 16);
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["span"]["rpc.method"], "a.B/C");
    assert!(line["message"].as_str().unwrap().starts_with("said one\r\ntwo"));
}

#[test]
fn outside_of_spans_a_json_line_has_no_ids() {
    let text = logged(LogFormat::Json, || tracing::warn!(duration_ms = 3, "slow"));
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&line["message"], &line["duration_ms"]), (&"slow".into(), &3.into()));
    assert!(line.get("trace_id").is_none());
}

#[test]
fn a_text_line_cannot_be_forged() {
    let text = logged(LogFormat::Text, hostile);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(r"said one\r\ntwo"), "{text}");
    assert!(text.contains(" trace_id="), "{text}");
    assert!(!text.trim_end_matches('\n').contains(|c: char| c.is_control()), "{text:?}");
}
