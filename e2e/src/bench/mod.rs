//! `make bench`: what the documents claim, measured.
//!
//! | file | measures |
//! |---|---|
//! | [`a1`] | upstream succeeded to downstream Pod, on KWOK |
//! | [`a2`] | stages a second on KWOK |
//! | [`a3`] | the operator's processor time |
//! | [`a4`] | requests and bytes a stage |
//! | [`a5`] | memory with 10,000 live Pods |
//! | [`a6`] | small runs beside a large one |
//! | [`b1`] | seconds a hop on the real kubelet, and the time to the first instruction |
//! | [`b2`] | a fan-out and its join on the real kubelet |
//! | [`c1`] | a large file, and with c2 many small ones, against `s5cmd` |
//! | [`d1`] | finished runs, and with d2 a restart beside them |
//! | [`e1`] | what the runner costs |
//! | [`f1`] | the planner alone |
//! | [`t1`] | the start and the restart of a training on the real kubelet |
//! | [`t2`] | what a training of 1,000 ranks asks for, on KWOK |
//!
//! Rules: arms take turns in one run on one machine; every figure is a median with an interval ([`stats`]); times of API objects
//! are the API server's own ([`audit`]), times of processes are what the user's program says. What an engine could do at best on
//! this cluster, the [`null_engine`] shows. No test depends on any of this.

pub mod a1;
pub mod a2;
pub mod a3;
pub mod a4;
pub mod a5;
pub mod a6;
mod arms;
pub mod audit;
pub mod b1;
pub mod b2;
pub mod c1;
pub mod d1;
pub mod document;
pub mod e1;
mod error;
pub mod f1;
pub mod graphs;
pub mod load;
pub mod machine;
pub mod null_engine;
pub mod operator;
pub mod plot;
pub mod process;
pub mod row;
pub mod stats;
pub mod step;
pub mod t1;
pub mod t2;
pub mod world;

use std::collections::BTreeMap;

pub use error::Error;

use serde::{Deserialize, Serialize};

use crate::progress;
use machine::Machine;
use row::Row;
use world::World;

/// Name of the file with the figures.
pub const RESULTS: &str = "results.json";
/// Name of the file that says on what each measure was made.
pub const MACHINE: &str = "machine.json";

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Measure {
    /// From a stage's success to the next Pod, on KWOK.
    A1,
    /// Stages a second on KWOK.
    A2,
    /// The operator's processor time for 1,000 stages.
    A3,
    /// Requests and bytes a stage, on KWOK.
    A4,
    /// Memory with 10,000 live Pods.
    A5,
    /// Small runs beside a large one, on KWOK.
    A6,
    /// Seconds a hop on the real kubelet; with b3, the time to the first instruction.
    B1,
    /// A fan-out and its join on the real kubelet.
    B2,
    /// A large file both ways, against s5cmd.
    C1,
    /// Many small files both ways, against s5cmd.
    C2,
    /// What finished runs cost; with d2, a restart beside them.
    D1,
    /// What the runner costs.
    E1,
    /// The planner alone.
    F1,
    /// The start and the restart of a training on the real kubelet.
    T1,
    /// What a training of 1,000 ranks asks for, on KWOK.
    T2,
}

impl Measure {
    /// In the order in which they are made: the quick ones first, the one that leaves the API server with most to tidy up last.
    const ALL: [Self; 15] = [
        Self::F1,
        Self::E1,
        Self::C1,
        Self::C2,
        Self::A1,
        Self::A4,
        Self::B1,
        Self::B2,
        Self::T1,
        Self::A2,
        Self::A3,
        Self::A6,
        Self::T2,
        Self::D1,
        Self::A5,
    ];

    fn needs_cluster(self) -> bool {
        !matches!(self, Self::C1 | Self::C2 | Self::E1 | Self::F1)
    }

    fn words(self) -> &'static str {
        match self {
            Self::A1 => "a1: hops on KWOK",
            Self::A2 => "a2: stages a second",
            Self::A3 => "a3: the operator's processor time",
            Self::A5 => "a5: live Pods",
            Self::A6 => "a6: small runs beside a large one",
            Self::B2 => "b2: a fan-out and its join",
            Self::A4 => "a4: requests and bytes",
            Self::B1 => "b1: hops on the kubelet",
            Self::C1 => "c1: a large file",
            Self::C2 => "c2: many small files",
            Self::D1 => "d1: finished runs",
            Self::E1 => "e1: the runner",
            Self::F1 => "f1: the planner",
            Self::T1 => "t1: a training of four",
            Self::T2 => "t2: a training of 1,000",
        }
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster.
    pub name: String,
    /// Only these; empty means all.
    pub only: Vec<Measure>,
    /// How often each arm is measured.
    pub repeat: usize,
    /// The command line, for the record.
    pub command: String,
}

/// Measures, writes `target/bench/results.json` and `target/bench/machine.json`, and returns the figures.
pub fn run(options: &Options) -> Result<Vec<Row>, Error> {
    let chosen = |measure: &Measure| options.only.is_empty() || options.only.contains(measure);
    let measures: Vec<Measure> = Measure::ALL.into_iter().filter(chosen).collect();
    let machine = Machine::now(options.command.clone(), options.repeat);
    let mut kept = Kept::read()?;
    let world = measures.iter().any(|measure| measure.needs_cluster()).then(|| World::up(&options.name)).transpose()?;
    let mut rows = Vec::new();
    for measure in measures {
        let work = || match (measure, &world) {
            (Measure::C1, _) => c1::measure(c1::Load::File, options.repeat),
            (Measure::C2, _) => c1::measure(c1::Load::Directory, options.repeat),
            (Measure::E1, _) => e1::measure(options.repeat),
            (Measure::F1, _) => f1::measure(),
            (Measure::A1, Some(world)) => a1::measure(world, options.repeat),
            (Measure::A4, Some(world)) => a4::measure(world, options.repeat),
            (Measure::B1, Some(world)) => b1::measure(world, options.repeat),
            (Measure::D1, Some(world)) => d1::measure(world, options.repeat),
            (Measure::A2, Some(world)) => a2::measure(world, options.repeat),
            (Measure::A3, Some(world)) => a3::measure(world, options.repeat),
            (Measure::A5, Some(world)) => a5::measure(world, options.repeat),
            (Measure::A6, Some(world)) => a6::measure(world, options.repeat),
            (Measure::B2, Some(world)) => b2::measure(world, options.repeat),
            (Measure::T1, Some(world)) => t1::measure(world, options.repeat),
            (Measure::T2, Some(world)) => t2::measure(world, options.repeat),
            (_, None) => Err(Error::ForeignCluster),
        };
        let measured = progress::long_step(measure.words(), work)?;
        // Each time: what follows may fail, and this took minutes.
        kept.replace(&measured, &machine.clone().after());
        kept.write()?;
        rows.extend(measured);
    }
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(rows)
}

/// The figures of the last time that each measure was made, and on what that was.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The figures, by measure.
    pub rows: Vec<Row>,
    /// On what they were measured, by measure.
    pub machines: BTreeMap<String, Machine>,
}

impl Kept {
    /// Those of the document, and in their place what was measured in this tree since.
    pub fn read() -> Result<Self, Error> {
        let kept: Self = row::read(&document::figures_path())?.unwrap_or_default();
        let made = Self {
            rows: row::read(&row::folder().join(RESULTS))?.unwrap_or_default(),
            machines: row::read(&row::folder().join(MACHINE))?.unwrap_or_default(),
        };
        Ok(kept.with(&made))
    }

    /// With newer figures in the place of those of the same measures.
    fn with(mut self, newer: &Self) -> Self {
        for (measure, machine) in &newer.machines {
            let rows: Vec<Row> = newer.rows.iter().filter(|row| row.id == *measure).cloned().collect();
            self.replace(&rows, machine);
        }
        self
    }

    /// Puts new figures in the place of those of the same measures.
    fn replace(&mut self, rows: &[Row], machine: &Machine) {
        self.rows.retain(|old| rows.iter().all(|new| new.id != old.id));
        self.rows.extend_from_slice(rows);
        self.rows.sort_by(|a, b| a.id.cmp(&b.id));
        self.machines.extend(rows.iter().map(|row| (row.id.clone(), machine.clone())));
    }

    fn write(&self) -> Result<(), Error> {
        row::write(&row::folder().join(MACHINE), &self.machines)?;
        row::write(&row::folder().join(RESULTS), &self.rows)
    }
}

/// Whose turn it is: every round has every arm once, and each begins with another one.
#[derive(Clone, Debug)]
pub struct Turns {
    rounds: usize,
    arms: usize,
    next: usize,
}

impl Turns {
    /// So many rounds of so many arms.
    #[must_use]
    pub fn new(rounds: usize, arms: usize) -> Self {
        Self { rounds, arms, next: 0 }
    }
}

impl Iterator for Turns {
    /// The round and the arm.
    type Item = (usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let round = self.next.checked_div(self.arms)?;
        if round >= self.rounds {
            return None;
        }
        let arm = (self.next + round) % self.arms;
        self.next += 1;
        Some((round, arm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_that_is_made_again_leaves_the_others() {
        let row = |id: &str, value: f64| Row::new(id, "x", "ms", &[value]).unwrap();
        let machine = Machine::now("one".to_owned(), 5);
        let mut kept = Kept::default();
        kept.replace(&[row("f1", 1.0), row("a1", 2.0)], &machine);
        kept.replace(&[row("a1", 3.0)], &Machine { command: "two".to_owned(), ..machine });
        let values: Vec<_> = kept.rows.iter().map(|row| (row.id.as_str(), row.value)).collect();
        assert_eq!(values, [("a1", 3.0), ("f1", 1.0)]);
        assert_eq!((kept.machines["a1"].command.as_str(), kept.machines["f1"].command.as_str()), ("two", "one"));
    }

    #[test]
    fn what_was_measured_since_stands_in_for_what_the_document_quotes() {
        let kept = |id: &str, value: f64| {
            let mut kept = Kept::default();
            kept.replace(&[Row::new(id, "x", "ms", &[value]).unwrap()], &Machine::now("one".to_owned(), 5));
            kept
        };
        let all = kept("f1", 1.0).with(&kept("a1", 2.0)).with(&kept("f1", 3.0)).with(&Kept::default());
        let values: Vec<_> = all.rows.iter().map(|row| (row.id.as_str(), row.value)).collect();
        assert_eq!(values, [("a1", 2.0), ("f1", 3.0)]);
    }

    #[test]
    fn every_round_has_every_arm_and_begins_with_another() {
        let turns: Vec<_> = Turns::new(3, 2).collect();
        assert_eq!(turns, [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]);
        assert_eq!(Turns::new(3, 0).next(), None);
    }
}
