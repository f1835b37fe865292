//! Metrics: JSON lines that user code appends, in any language, from any number of processes. No line is ever fatal.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::BufRead;

use serde::Deserialize;
use serde_json::{Number, Value};

/// Most names that are kept, besides the declared ones.
pub(super) const MOST: usize = 10_000;
/// Most bytes of a line that is looked at.
const LINE: u64 = 64 * 1024;

/// What the lines say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Summary {
    /// By name: the last value without fold and slice, else the mean over folds.
    pub(super) values: BTreeMap<String, Value>,
    /// Lines that are no metrics.
    pub(super) bad: u64,
    /// The number of the first of them, from 1, and why.
    pub(super) first_bad: Option<(u64, String)>,
    /// Lines beyond [`MOST`] names.
    pub(super) dropped: u64,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    value: Value,
    #[serde(default)]
    fold: Option<Value>,
    #[serde(default)]
    slice: Option<Value>,
}

#[derive(Default)]
struct Series {
    whole: Option<Value>,
    folds: BTreeMap<String, f64>,
}

/// What lines say, while they come.
#[derive(Default)]
pub(crate) struct Collector {
    series: BTreeMap<String, Series>,
    summary: Summary,
    lines: u64,
}

/// Reads all lines; one that is not a metric is counted.
pub(super) fn read(lines: impl BufRead, declared: &[String]) -> Summary {
    let mut collector = Collector::default();
    collector.feed(lines, declared);
    collector.finish()
}

impl Collector {
    /// Reads lines to their end; one that is not a metric is counted.
    pub(crate) fn feed(&mut self, mut lines: impl BufRead, declared: &[String]) {
        let mut buffer = Vec::new();
        loop {
            self.lines += 1;
            buffer.clear();
            match std::io::Read::take(&mut lines, LINE).read_until(b'\n', &mut buffer) {
                Ok(0) => break,
                Err(error) => {
                    self.bad(error.to_string());
                    break;
                }
                Ok(_) => {}
            }
            if buffer.len() as u64 == LINE && !buffer.ends_with(b"\n") {
                self.bad(format!("it is longer than {} KiB", LINE >> 10));
                if lines.skip_until(b'\n').is_err() {
                    break;
                }
                continue;
            }
            let text = String::from_utf8_lossy(&buffer);
            if !text.trim().is_empty() {
                self.line(text.trim(), declared);
            }
        }
        self.lines -= 1;
    }

    fn line(&mut self, line: &str, declared: &[String]) {
        let (name, value, fold, slice) = match parse(line) {
            Ok(parsed) => parsed,
            Err(why) => return self.bad(why),
        };
        if !self.series.contains_key(&name) && self.series.len() >= MOST && !declared.contains(&name) {
            self.summary.dropped += 1;
            return;
        }
        let one = self.series.entry(name).or_default();
        match (fold, slice) {
            (None, false) => one.whole = Some(value),
            (Some(fold), false) => {
                one.folds.insert(fold, as_f64(&value));
            }
            // A slice is a part of the data, which says nothing of the whole.
            (_, true) => {}
        }
    }

    fn bad(&mut self, why: String) {
        self.summary.bad += 1;
        self.summary.first_bad.get_or_insert((self.lines, why));
    }

    /// The value of one metric so far.
    pub(crate) fn value(&self, name: &str) -> Option<Value> {
        self.series.get(name)?.value()
    }

    fn finish(self) -> Summary {
        let Self { series, mut summary, lines: _ } = self;
        summary.values = series.into_iter().filter_map(|(name, series)| Some((name, series.value()?))).collect();
        summary
    }
}

impl Series {
    fn value(&self) -> Option<Value> {
        self.whole.clone().or_else(|| {
            #[expect(clippy::cast_precision_loss, reason = "folds are few")]
            let count = self.folds.len() as f64;
            (count > 0.0).then(|| from_f64(self.folds.values().sum::<f64>() / count))
        })
    }
}

type Parsed = (String, Value, Option<String>, bool);

/// Name, value, fold and whether there is a slice.
fn parse(line: &str) -> Result<Parsed, String> {
    let quoted = quote_non_finite(line);
    let Line { name, value, fold, slice } = serde_json::from_str(&quoted).map_err(|error| error.to_string())?;
    let value = match value {
        Value::Number(number) => Value::Number(number),
        Value::String(text) => from_f64(match text.as_str() {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            _ => return Err(format!("the value {text:?} is not a number")),
        }),
        other => return Err(format!("the value {other} is not a number")),
    };
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    Ok((
        name.into_owned(),
        value,
        fold.filter(|fold| !fold.is_null()).map(|fold| fold.to_string()),
        slice.is_some_and(|s| !s.is_null()),
    ))
}

fn from_f64(value: f64) -> Value {
    Number::from_f64(value).map_or_else(
        || {
            Value::String(
                if value.is_nan() {
                    "NaN"
                } else if value > 0.0 {
                    "Infinity"
                } else {
                    "-Infinity"
                }
                .into(),
            )
        },
        Value::Number,
    )
}

fn as_f64(value: &Value) -> f64 {
    match value {
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN),
        Value::String(text) if text == "Infinity" => f64::INFINITY,
        Value::String(text) if text == "-Infinity" => f64::NEG_INFINITY,
        _ => f64::NAN,
    }
}

/// Python's `json` writes NaN and infinities as bare words, which are no JSON: puts them into quotes, outside of strings.
fn quote_non_finite(line: &str) -> Cow<'_, str> {
    if !line.contains("NaN") && !line.contains("Infinity") {
        return Cow::Borrowed(line);
    }
    let mut quoted = String::with_capacity(line.len() + 8);
    let mut rest = line;
    let mut in_string = false;
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !in_string && rest.starts_with(word));
        let taken = match (word, c) {
            (Some(word), _) => {
                quoted.push('"');
                quoted.push_str(word);
                quoted.push('"');
                word.len()
            }
            (None, '\\') if in_string => {
                let end = rest.char_indices().nth(2).map_or(rest.len(), |(end, _)| end);
                quoted.push_str(&rest[..end]);
                end
            }
            (None, c) => {
                in_string ^= c == '"';
                quoted.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Cow::Owned(quoted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn summary(text: &str) -> Summary {
        read(text.as_bytes(), &[])
    }

    #[test]
    fn the_last_whole_value_stands() {
        let summary = summary(
            r#"{"name": "loss", "value": 2.5, "step": 1}
{"name": "loss", "value": 1, "step": 2}

{"name": "loss", "value": 9, "fold": 0}
{"name": "loss", "value": 8, "slice": {"sex": "f"}}
{"name": "only slices", "value": 8, "slice": "a"}
"#,
        );
        assert_eq!(summary.values, BTreeMap::from([("loss".to_owned(), json!(1))]));
        assert_eq!(summary.bad, 0);
    }

    #[test]
    fn folds_alone_give_their_mean() {
        let summary = summary(
            r#"{"name": "auc", "value": 0.0, "fold": 0}
{"name": "auc", "value": 0.5, "fold": 0}
{"name": "auc", "value": 1.0, "fold": 1, "slice": null}"#,
        );
        assert_eq!(summary.values["auc"], json!(0.75));
    }

    #[test]
    fn python_words_are_kept_as_strings() {
        let summary = summary(
            r#"{"name": "a", "value": NaN}
{"name": "b", "value": -Infinity}
{"name": "c NaN \" Infinity", "value": Infinity}
{"name": "d", "value": "NaN"}
{"name": "e", "value": NaN, "fold": 1}"#,
        );
        let value = |name: &str| summary.values[name].clone();
        assert_eq!(
            (value("a"), value("b"), value("d"), value("e")),
            (json!("NaN"), json!("-Infinity"), json!("NaN"), json!("NaN"))
        );
        assert_eq!(value("c NaN \" Infinity"), json!("Infinity"));
        assert_eq!(summary.bad, 0);
    }

    #[test]
    fn a_bad_line_is_counted_and_the_others_stand() {
        let long = "x".repeat(100_000);
        let summary = summary(&format!(
            "nonsense\n{{\"name\": \"a\"}}\n{{\"name\": \"b\", \"value\": \"high\"}}\n{long}\n{{\"name\": \"c\", \"value\": 1}}\n{{\"name\": \"d\", \"va"
        ));
        assert_eq!(summary.values, BTreeMap::from([("c".to_owned(), json!(1))]));
        assert_eq!((summary.bad, summary.first_bad.map(|(line, _)| line)), (5, Some(1)));
    }

    #[test]
    fn names_are_bounded_but_for_declared_ones() {
        let mut text: String = (0..MOST + 5).map(|n| format!("{{\"name\": \"m{n}\", \"value\": 1}}\n")).collect();
        text.push_str("{\"name\": \"declared\", \"value\": 1}\n");
        let summary = read(text.as_bytes(), &["declared".to_owned()]);
        assert_eq!((summary.values.len(), summary.dropped), (MOST + 1, 5));
        assert!(summary.values.contains_key("declared"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            read(&bytes[..], &[]);
        }

        #[test]
        fn a_well_formed_line_keeps_its_value(name in "\\PC{1,20}", value in any::<f64>()) {
            let shown = if value.is_nan() { "NaN".to_owned() }
                else if value.is_infinite() { if value > 0.0 { "Infinity".into() } else { "-Infinity".into() } }
                else { serde_json::to_string(&value).unwrap() };
            let line = format!("{{\"name\": {}, \"value\": {shown}}}", serde_json::to_string(&name).unwrap());
            let summary = summary(&line);
            prop_assert_eq!(summary.bad, 0);
            prop_assert_eq!(&summary.values[&name], &from_f64(value));
        }

        #[test]
        fn json_is_left_alone(text in "[a-zNI\"\\\\{}:,0-9 -]{0,40}") {
            if serde_json::from_str::<Value>(&text).is_ok() {
                prop_assert_eq!(quote_non_finite(&text), text.as_str());
            }
        }
    }
}
