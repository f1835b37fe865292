//! f1: the planner's own benchmark, whose lines are taken as they are and get their goals here.

use std::env;
use std::process::Command;

use serde::Deserialize;

use super::Error;
use super::row::Row;
use crate::{command, paths};

const ID: &str = "f1";
const SLOPE_GOAL: f64 = 1.1;
/// Milliseconds for a plan of 100,000 nodes.
const LARGE_GOAL: f64 = 100.0;
/// Microseconds for a plan after one event.
const EVENT_GOAL: f64 = 20.0;

/// A line of the planner's benchmark.
#[derive(Deserialize)]
struct Line {
    id: String,
    arm: String,
    value: f64,
    unit: String,
    n: usize,
    low: f64,
    high: f64,
}

/// Builds and runs it.
pub fn measure() -> Result<Vec<Row>, Error> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::repository());
    cargo.args(["bench", "--quiet", "--package", "trainyard-planner", "--bench", "plan"]);
    let printed = command::run(&mut cargo)?;
    let rows = rows(&printed)?;
    if rows.is_empty() {
        return Err(Error::NoSamples {
            measure: ID.to_owned(),
            arm: "cargo bench --package trainyard-planner".to_owned(),
        });
    }
    Ok(rows)
}

/// The lines that are JSON; cargo may print others.
fn rows(printed: &str) -> Result<Vec<Row>, Error> {
    let lines = printed.lines().filter(|line| line.starts_with('{')).map(serde_json::from_str::<Line>);
    lines.map(|line| Ok(with_goal(line?))).collect()
}

fn with_goal(line: Line) -> Row {
    let Line { id, arm, value, unit, n, low, high } = line;
    let goal = match arm.as_str() {
        arm if arm.ends_with(" slope") => Some(SLOPE_GOAL),
        arm if arm.starts_with("event ") => Some(EVENT_GOAL),
        "chain 100000" | "wide 100000" | "layered 100000" => Some(LARGE_GOAL),
        _ => None,
    };
    let row = Row { id, arm, value, unit, n, low, high, goal: None, met: None, more: false };
    match goal {
        Some(goal) => row.at_most(goal),
        None => row,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_the_goals_of_the_design() {
        let line = |arm: &str, value: f64, unit: &str| {
            format!(r#"{{"id":"f1","arm":"{arm}","value":{value},"unit":"{unit}","n":15,"low":1.0,"high":200.0}}"#)
        };
        let printed = [
            "   Compiling nothing".to_owned(),
            line("chain 10", 0.01, "ms"),
            line("wide 100000", 120.0, "ms"),
            line("layered slope", 1.05, "log/log"),
            line("event in a chain of 100", 12.0, "us"),
        ]
        .join("\n");
        let rows = rows(&printed).unwrap();
        let judged: Vec<_> = rows.iter().map(|row| (row.goal, row.met)).collect();
        let expected = [(None, None), (Some(100.0), Some(false)), (Some(1.1), Some(true)), (Some(20.0), Some(true))];
        assert_eq!(judged, expected);
    }
}
