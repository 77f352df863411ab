//! Log lines: text or JSON, each event exactly one line, with the ids of the trace and span it belongs to.
//!
//! Control characters of logged values are escaped, so that no input can forge a line or steer a terminal.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::{DefaultFields, Format, Full, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::LogFormat;
use super::trace::current_ids;

/// The layer that writes log lines; `colours` only where a terminal reads the text.
pub(super) fn layer<S, W>(format: LogFormat, colours: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(writer);
    match format {
        LogFormat::Text => layer.event_format(Text(Format::default().with_ansi(colours))).boxed(),
        LogFormat::Json => {
            let json =
                Format::default().json().flatten_event(true).with_current_span(true).with_span_list(false);
            layer.fmt_fields(JsonFields::new()).event_format(JsonLine(json)).boxed()
        }
    }
}

/// Logs panics like any other event instead of printing them in a form of their own.
pub(super) fn panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("without a text");
        tracing::error!(panic.location = location, panic.text = text, "panicked");
    }));
}

struct Text(Format<Full>);

impl<S> FormatEvent<S, DefaultFields> for Text
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, DefaultFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::with_capacity(256);
        self.0.format_event(context, Writer::new(&mut line), event)?;
        escape_controls(line.trim_end_matches('\n'), &mut writer)?;
        if let Some(ids) = current_ids() {
            write!(writer, " {ids}")?;
        }
        writer.write_char('\n')
    }
}

struct JsonLine(Format<Json>);

impl<S> FormatEvent<S, JsonFields> for JsonLine
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    JsonFields: for<'writer> FormatFields<'writer>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(ids) = current_ids() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::with_capacity(512);
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let object = line.trim_end_matches('\n').strip_suffix('}').ok_or(fmt::Error)?;
        writeln!(writer, "{object},\"trace_id\":\"{}\",\"span_id\":\"{}\"}}", ids.trace, ids.span)
    }
}

/// Escapes control characters except ESC, which values cannot contain: the formatter has escaped theirs.
fn escape_controls(line: &str, writer: &mut Writer<'_>) -> fmt::Result {
    const ESCAPE: char = '\u{1b}';
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != ESCAPE) {
        let (clean, dirty) = rest.split_at(at);
        writer.write_str(clean)?;
        let mut chars = dirty.chars();
        if let Some(control) = chars.next() {
            write!(writer, "{}", control.escape_default())?;
        }
        rest = chars.as_str();
    }
    writer.write_str(rest)
}

#[cfg(test)]
mod tests;
