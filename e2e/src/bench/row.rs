//! A figure, the file of all figures, and the table of them. Pure but for reading and writing the file.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Error;
use super::stats::{self, Summary};
use crate::paths;

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The measure, such as `a1`.
    pub id: String,
    /// What was measured within it.
    pub arm: String,
    /// The median.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// How many samples the median is of.
    pub n: usize,
    /// Lower end of the median's interval.
    pub low: f64,
    /// Upper end of the median's interval.
    pub high: f64,
    /// What the value is to be at most; `null` for what is only there to compare with.
    pub goal: Option<f64>,
    /// Whether it is.
    pub met: Option<bool>,
    /// Whether the goal is what the value is to be at least.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl Row {
    /// The figure that samples give.
    pub fn new(id: &str, arm: &str, unit: &str, samples: &[f64]) -> Result<Self, Error> {
        let nothing = || Error::NoSamples { measure: id.to_owned(), arm: arm.to_owned() };
        let Summary { value, low, high, n } = stats::summary(samples).ok_or_else(nothing)?;
        let (id, arm, unit) = (id.to_owned(), arm.to_owned(), unit.to_owned());
        Ok(Self { id, arm, value, unit, n, low, high, goal: None, met: None, more: false })
    }

    /// With the most that the value may be.
    #[must_use]
    pub fn at_most(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self.met = Some(self.value <= goal);
        self
    }

    /// With the least that the value may be.
    #[must_use]
    pub fn at_least(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self.met = Some(self.value >= goal);
        self.more = true;
        self
    }
}

/// The folder of all that a benchmark leaves.
#[must_use]
pub fn folder() -> PathBuf {
    paths::repository().join("target/bench")
}

/// Replaces a file of figures.
pub fn write(path: &Path, content: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(content)?;
    text.push('\n');
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).and_then(|()| fs::write(path, text)).map_err(Error::file(path))
}

/// What such a file holds; `None` without it.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => {
            Ok(Some(serde_json::from_str(&text).map_err(|source| Error::Kept { path: path.to_owned(), source })?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path)(error)),
    }
}

/// The figures as a table, and how many goals are met, as its last line.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut cells = vec![["ID", "ARM", "VALUE", "LOW", "HIGH", "UNIT", "N", "GOAL", "MET"].map(str::to_owned)];
    cells.extend(rows.iter().map(columns));
    let mut widths = [0; 9];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &cells {
        let line: Vec<String> = row
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(index, (cell, width))| {
                // Numbers are read from their last digit.
                if matches!(index, 2..=4 | 6 | 7) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            })
            .collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    let (met, measured) = goals(rows);
    out.push_str(&format!("bench: {met} of {measured} goals met\n"));
    out
}

/// How many goals are met, and how many there are.
#[must_use]
pub fn goals(rows: &[Row]) -> (usize, usize) {
    (rows.iter().filter(|row| row.met == Some(true)).count(), rows.iter().filter(|row| row.met.is_some()).count())
}

/// The cells of a figure, as people read them.
#[must_use]
pub fn columns(row: &Row) -> [String; 9] {
    let Row { id, arm, value, unit, n, low, high, goal, met, more } = row;
    let sign = if *more { ">=" } else { "<=" };
    [
        id.clone(),
        arm.clone(),
        number(*value),
        number(*low),
        number(*high),
        unit.clone(),
        n.to_string(),
        goal.map_or_else(String::new, |goal| format!("{sign} {}", number(goal))),
        met.map_or("", |met| if met { "yes" } else { "no" }).to_owned(),
    ]
}

/// With about three digits that count.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        vec![
            Row::new("a1", "p50", "ms", &[5.5, 5.25, 6.0, 5.0, 5.75]).unwrap().at_most(6.0),
            Row::new("a4", "chain of 100, requests a stage", "1", &[3.125]).unwrap().at_most(3.0),
            Row::new("a2", "share", "ratio", &[0.95]).unwrap().at_least(0.9),
            Row::new("a4", "bytes a stage", "B", &[2345.6]).unwrap(),
        ]
    }

    #[test]
    fn the_table_ends_with_the_goals() {
        let expected = "\
ID  ARM                             VALUE   LOW  HIGH  UNIT   N    GOAL  MET
a1  p50                               5.5     5     6  ms     5    <= 6  yes
a4  chain of 100, requests a stage   3.12  3.12  3.12  1      1    <= 3  no
a2  share                            0.95  0.95  0.95  ratio  1  >= 0.9  yes
a4  bytes a stage                    2346  2346  2346  B      1
bench: 2 of 3 goals met
";
        assert_eq!(table(&rows()), expected);
    }

    #[test]
    fn the_file_has_the_fields_that_others_read() {
        let json = serde_json::to_value(&rows()[0]).unwrap();
        let expected = serde_json::json!({"id": "a1", "arm": "p50", "value": 5.5, "unit": "ms", "n": 5, "low": 5.0, "high": 6.0, "goal": 6.0, "met": true});
        assert_eq!(json, expected);
        let json = serde_json::to_value(&rows()[2]).unwrap();
        assert_eq!((&json["goal"], &json["met"], &json["more"]), (&0.9.into(), &true.into(), &true.into()));
        let json = serde_json::to_value(&rows()[3]).unwrap();
        assert!(json["goal"].is_null() && json["met"].is_null());
    }

    #[test]
    fn without_samples_there_is_no_figure() {
        let error = Row::new("a1", "p50", "ms", &[]).unwrap_err();
        assert!(error.to_string().contains("a1"), "{error}");
    }

    #[test]
    fn numbers_keep_the_digits_that_count() {
        let shown = [0.0, 0.000_12, 0.5549, 5.0, 12.345, 123.45, 98_765.4].map(number);
        assert_eq!(shown, ["0", "0.0001", "0.55", "5", "12.35", "123.5", "98765"].map(str::to_owned));
    }
}
