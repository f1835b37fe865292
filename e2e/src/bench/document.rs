//! The figures in `docs/performance.md`, and the plots that it shows: generated from the files of a benchmark, so that the document
//! quotes nothing else.

use std::fs;
use std::path::PathBuf;

use super::machine::Machine;
use super::plot;
use super::row::{self, Row};
use super::{Error, Kept};
use crate::paths;

const BEGIN: &str = "<!-- bench:begin -->\n";
const END: &str = "<!-- bench:end -->";

/// The document.
#[must_use]
pub fn path() -> PathBuf {
    paths::repository().join("docs/performance.md")
}

/// The figures that the document quotes, as a file beside it.
#[must_use]
pub fn figures_path() -> PathBuf {
    path().with_file_name("figures.json")
}

/// Name of the folder of plots beside the document.
const PLOTS: &str = "plots";

/// Writes the figures that are kept into the document, and their file and their plots beside it. Returns the figures.
pub fn write() -> Result<Vec<Row>, Error> {
    let kept = Kept::read()?;
    let path = path();
    let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
    let text = between(&text, &figures(&kept)).ok_or_else(|| Error::Marks(path.clone()))?;
    fs::write(&path, text).map_err(Error::file(&path))?;
    row::write(&figures_path(), &kept)?;
    let folder = path.with_file_name(PLOTS);
    fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    for plot in plot::plots(&kept.rows) {
        let path = folder.join(plot.name).with_extension("svg");
        fs::write(&path, plot.svg()).map_err(Error::file(path))?;
    }
    Ok(kept.rows)
}

/// `text` with `figures` between its marks.
fn between(text: &str, figures: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{figures}{END}{after}"))
}

/// Each time of measuring as a sentence, with the table of its figures.
fn figures(kept: &Kept) -> String {
    if kept.rows.is_empty() {
        return "Not measured yet.\n".to_owned();
    }
    let mut out = String::new();
    let mut times: Vec<&Machine> = kept.machines.values().collect();
    times.sort_by(|a, b| a.began.cmp(&b.began));
    times.dedup();
    for machine in times {
        let made = |row: &&Row| kept.machines.get(&row.id) == Some(machine);
        out.push_str(&sentence(machine));
        out.push_str(
            "\n\n| # | arm | median | interval | unit | n | goal | met |\n|---|---|---:|---|---|---:|---|---|\n",
        );
        for row in kept.rows.iter().filter(made) {
            let [id, arm, value, low, high, unit, n, goal, met] = row::columns(row);
            let goal = goal.replace("<=", "≤").replace(">=", "≥");
            out.push_str(&format!("| {id} | {arm} | {value} | {low} to {high} | {unit} | {n} | {goal} | {met} |\n"));
        }
        out.push('\n');
    }
    for plot in plot::plots(&kept.rows) {
        out.push_str(&format!("![{id}: {title}]({PLOTS}/{id}.svg)\n\n", id = plot.name, title = plot.title));
    }
    let (met, measured) = row::goals(&kept.rows);
    out.push_str(&format!("{met} of {measured} goals met.\n"));
    out
}

fn sentence(machine: &Machine) -> String {
    let Machine { began, commit, processor, cores, memory, kernel, load, versions, repeat, command, optimized } =
        machine;
    let versions: Vec<String> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let [before, after] = load;
    let profile = if *optimized { "" } else { " (the null engine not optimized)" };
    format!(
        "`{command}`{profile} at {began}, commit {commit}, {repeat} repeats; {processor}, {cores} cores, {memory} MiB, Linux \
         {kernel}; load average {before} before and {after} after; {}.",
        versions.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = format!("# A\n{BEGIN}old\n{END}\nrest\n");
        assert_eq!(between(&text, "new\n").unwrap(), format!("# A\n{BEGIN}new\n{END}\nrest\n"));
        assert_eq!(between("# A\n", "new\n"), None);
    }

    #[test]
    fn the_figures_say_where_they_come_from() {
        let machine = Machine {
            began: "2026-01-01T00:00:00Z".into(),
            commit: "abc".into(),
            processor: "A CPU".into(),
            cores: 2,
            memory: 1024,
            kernel: "6.1".into(),
            load: ["0.10".into(), "0.90".into()],
            versions: vec![("etcd".into(), "v3".into())],
            repeat: 5,
            command: "trainyard-e2e bench".into(),
            optimized: true,
        };
        let rows = [Row::new("a1", "p50", "ms", &[5.0, 6.0, 7.0]).unwrap().at_most(6.0)];
        let expected = "\
`trainyard-e2e bench` at 2026-01-01T00:00:00Z, commit abc, 5 repeats; A CPU, 2 cores, 1024 MiB, Linux 6.1; load average 0.10 before and 0.90 after; etcd v3.

| # | arm | median | interval | unit | n | goal | met |
|---|---|---:|---|---|---:|---|---|
| a1 | p50 | 6 | 5 to 7 | ms | 3 | ≤ 6 | yes |

1 of 1 goals met.
";
        let kept = Kept { rows: rows.to_vec(), machines: [("a1".to_owned(), machine)].into() };
        assert_eq!(figures(&kept), expected);
        assert_eq!(figures(&Kept::default()), "Not measured yet.\n");

        let growth = [("0", 9.0), ("100", 9.5)]
            .map(|(runs, value)| Row::new("d1", &format!("idle RSS, {runs} finished runs"), "MiB", &[value]).unwrap());
        let text = figures(&Kept { rows: growth.to_vec(), ..Kept::default() });
        assert!(text.contains("(plots/d1.svg)\n\n0 of 0 goals met.\n"), "{text}");
    }

    /// The document itself has the marks.
    #[test]
    fn the_document_has_its_marks() {
        let text = fs::read_to_string(path()).unwrap();
        assert!(between(&text, "").is_some());
    }
}
