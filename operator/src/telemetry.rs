//! The log: one JSON object a line for machines, or text for people, on standard error.
//!
//! What a reconcile works on (`run`, `namespace`, `stage`, `attempt`) are fields of its spans. In JSON they stand beside the
//! message's own, so that `jq 'select(.run == "iris-7")'` finds all of a run's lines.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::args::LogFormat;

/// The log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter was checked with the arguments, so it is not this.
    #[error("failed to read --log-level")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody was faster.
    #[error("a log has been started already")]
    Started(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// Starts the log of this process.
///
/// # Errors
/// If the filter is none, or a log has been started already.
pub fn start(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    tracing::subscriber::set_global_default(subscriber(format, filter, std::io::stderr)?)
        .map_err(TelemetryError::Started)
}

/// An error with its sources, each said once: some libraries repeat their source in their own text, others do not.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::try_new(filter)?).with_writer(writer);
    Ok(match format {
        LogFormat::Json => Box::new(builder.fmt_fields(JsonFields::new()).event_format(Lines).finish()),
        LogFormat::Text => Box::new(builder.with_ansi(false).finish()),
    })
}

/// One flat JSON object a line.
struct Lines;

impl<S> FormatEvent<S, JsonFields> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        // Outer spans first, then inner ones, then the event: the nearest has the last word.
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<JsonFields>>()
                && let Ok(Value::Object(fields)) = serde_json::from_str(fields)
            {
                line.extend(fields);
            }
        }
        event.record(&mut Fields(&mut line));
        let metadata = event.metadata();
        line.insert("time".to_owned(), jiff::Timestamp::now().to_string().into());
        line.insert("level".to_owned(), metadata.level().as_str().into());
        line.insert("target".to_owned(), metadata.target().into());
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Puts an event's fields into a line.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(format, filter, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_carries_what_is_worked_on_beside_its_own_fields() {
        let text = logged(LogFormat::Json, "info", || {
            let run = tracing::info_span!("run", run = "iris-7", namespace = "team");
            let _run = run.enter();
            let stage = tracing::info_span!("stage", stage = "train", attempt = 2);
            let _stage = stage.enter();
            tracing::warn!(attempt = 3, bytes = 12_u64, share = 0.5, done = true, error = %"a \"bad\"\nline", "failed");
            tracing::debug!("not logged");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let mut line: Value = serde_json::from_str(&text).unwrap();
        let time = line["time"].take();
        assert!(time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        insta::assert_yaml_snapshot!(line);
    }

    #[test]
    fn every_source_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Layer {
            text: &'static str,
            source: Option<Box<Layer>>,
        }
        let inner = Layer { text: "connection refused", source: None };
        let middle = Layer { text: "connect error: connection refused", source: Some(Box::new(inner)) };
        let outer = Layer { text: "failed to ask", source: Some(Box::new(middle)) };
        assert_eq!(chain(&outer), "failed to ask: connect error: connection refused");
    }

    #[test]
    fn text_is_for_people() {
        let text = logged(LogFormat::Text, "debug", || tracing::debug!(stage = "train", "started"));
        assert!(text.contains("DEBUG") && text.trim_end().ends_with("started stage=\"train\""), "{text}");
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        assert!(subscriber(LogFormat::Json, "x=loud", std::io::sink).is_err());
    }
}
