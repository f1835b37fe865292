//! Plots of how a figure grows, as SVG that needs nothing but a browser. Pure.

use std::fmt::Write as _;

use super::row::Row;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
/// Around the plot itself: left, top, right, bottom.
const MARGINS: [f64; 4] = [70.0, 40.0, 110.0, 50.0];
/// Told apart also by those who see no red and green.
const COLOURS: [&str; 3] = ["#0072b2", "#d55e00", "#009e73"];

/// What grows over what.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// Name of the file, without its ending.
    pub name: &'static str,
    /// What is seen.
    pub title: String,
    /// What grows, from left to right.
    pub across: Axis,
    /// What it costs.
    pub up: Axis,
    /// Curves by their names.
    pub curves: Vec<(String, Vec<(f64, f64)>)>,
    /// The most that it may cost.
    pub goal: Option<f64>,
}

/// One axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it is, and its unit.
    pub label: &'static str,
    /// Whether each step is ten times the one before.
    pub logarithmic: bool,
}

/// Every plot that these figures have points for.
#[must_use]
pub fn plots(rows: &[Row]) -> Vec<Plot> {
    let planner = ["chain", "wide", "layered"].map(|shape| {
        let points = rows.iter().filter(|row| row.id == "f1" && row.unit == "ms").filter_map(|row| {
            let nodes = row.arm.strip_prefix(shape)?.trim().parse().ok()?;
            Some((nodes, row.value))
        });
        (shape.to_owned(), points.collect::<Vec<(f64, f64)>>())
    });
    let planner = Plot {
        name: "f1",
        title: "A plan of a pipeline, by its nodes".to_owned(),
        across: Axis { label: "nodes", logarithmic: true },
        up: Axis { label: "ms", logarithmic: true },
        curves: planner.into(),
        goal: None,
    };
    let idle = |row: &Row| {
        let count = row.arm.strip_prefix("idle RSS, ")?.strip_suffix(" finished runs")?;
        Some((count.parse().ok()?, row.value))
    };
    let of_runs = || rows.iter().filter(|row| row.id == "d1");
    let runs = Plot {
        name: "d1",
        title: "Resident memory of an idle operator, by finished runs in the API".to_owned(),
        across: Axis { label: "finished runs", logarithmic: false },
        up: Axis { label: "MiB", logarithmic: false },
        curves: vec![("idle".to_owned(), of_runs().filter_map(idle).collect())],
        goal: of_runs().filter(|row| row.unit == "MiB").find_map(|row| row.goal),
    };
    let complete = |plot: &Plot| plot.curves.iter().all(|(_, points)| points.len() > 1);
    [planner, runs].into_iter().filter(complete).collect()
}

impl Axis {
    /// Where the axis begins and ends, and what is written along it.
    fn scale(&self, values: impl Iterator<Item = f64> + Clone) -> Scale {
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(f64::NEG_INFINITY, f64::max);
        if self.logarithmic {
            let (begin, end) = (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
            let ticks = steps(begin, end, 1.0).into_iter().map(|power| 10_f64.powf(power)).collect();
            return Scale { logarithmic: true, begin, end, ticks };
        }
        let power = 10_f64.powf((most / 4.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|part| part * power).into_iter().find(|step| step * 5.0 >= most);
        let step = step.unwrap_or(power);
        let end = (most / step).ceil() * step;
        Scale { logarithmic: false, begin: 0.0, end, ticks: steps(0.0, end, step) }
    }
}

fn steps(begin: f64, end: f64, step: f64) -> Vec<f64> {
    let mut steps = vec![begin];
    while let Some(last) = steps.last()
        && last + step / 2.0 < end
    {
        steps.push(last + step);
    }
    steps
}

struct Scale {
    logarithmic: bool,
    begin: f64,
    end: f64,
    ticks: Vec<f64>,
}

impl Scale {
    /// From 0 at the begin to 1 at the end.
    fn place(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.log10() } else { value };
        (value - self.begin) / (self.end - self.begin)
    }
}

impl Plot {
    /// The picture.
    #[must_use]
    pub fn svg(&self) -> String {
        let points = || self.curves.iter().flat_map(|(_, points)| points.iter().copied());
        let across = self.across.scale(points().map(|(x, _)| x));
        let up = self.up.scale(points().map(|(_, y)| y).chain(self.goal));
        let [left, top, right, bottom] = MARGINS;
        let (wide, high) = (WIDTH - left - right, HEIGHT - top - bottom);
        let x = |value: f64| left + across.place(value) * wide;
        let y = |value: f64| top + (1.0 - up.place(value)) * high;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <title>{}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n",
            self.title
        );
        let mut text = |x: f64, y: f64, anchor: &str, colour: &str, words: &str| {
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"
            );
        };
        text(left, top - 18.0, "start", "#000", &self.title);
        text(left + wide / 2.0, HEIGHT - 12.0, "middle", "#444", self.across.label);
        text(left - 8.0, top - 2.0, "end", "#444", self.up.label);
        for tick in &across.ticks {
            text(x(*tick), top + high + 18.0, "middle", "#444", &number(*tick));
        }
        for tick in &up.ticks {
            text(left - 8.0, y(*tick) + 4.0, "end", "#444", &number(*tick));
        }
        for ((name, points), colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            if let Some((_, last)) = points.last() {
                text(left + wide + 8.0, y(*last) + 4.0, "start", colour, name);
            }
        }
        if let Some(goal) = self.goal {
            text(left + wide + 8.0, y(goal) + 4.0, "start", "#444", "goal");
        }
        let mut line = |points: &[(f64, f64)], style: &str| {
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(out, "<polyline points=\"{}\" fill=\"none\" {style}/>", path.join(" "));
        };
        for tick in &up.ticks {
            line(&[(left, y(*tick)), (left + wide, y(*tick))], "stroke=\"#ddd\"");
        }
        line(&[(left, top), (left, top + high), (left + wide, top + high)], "stroke=\"#444\"");
        if let Some(goal) = self.goal {
            line(&[(left, y(goal)), (left + wide, y(goal))], "stroke=\"#444\" stroke-dasharray=\"6 4\"");
        }
        let mut points_of = Vec::new();
        for ((_, points), colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            let placed: Vec<_> = points.iter().map(|point| (x(point.0), y(point.1))).collect();
            line(&placed, &format!("stroke=\"{colour}\" stroke-width=\"2\""));
            points_of.push((placed, colour));
        }
        for (points, colour) in points_of {
            for (x, y) in points {
                let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
            }
        }
        out.push_str("</svg>\n");
        out
    }
}

/// A tick as people read it: `0.001`, `10,000`.
fn number(value: f64) -> String {
    if value < 1.0 {
        let text = format!("{value:.4}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let first = digits.len() % 3;
    let mut out = digits[..first].to_owned();
    for (index, group) in digits.as_bytes()[first..].chunks(3).enumerate() {
        if index > 0 || first > 0 {
            out.push(',');
        }
        out.extend(group.iter().map(|digit| char::from(*digit)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, arm: &str, unit: &str, value: f64) -> Row {
        Row::new(id, arm, unit, &[value]).unwrap()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let linear = Axis { label: "", logarithmic: false };
        let ticks = |axis: &Axis, values: &[f64]| axis.scale(values.iter().copied()).ticks;
        assert_eq!(ticks(&linear, &[0.0, 100.0, 10_000.0]), [0.0, 2000.0, 4000.0, 6000.0, 8000.0, 10_000.0]);
        assert_eq!(ticks(&linear, &[12.4, 25.0]), [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]);
        let logarithmic = Axis { label: "", logarithmic: true };
        assert_eq!(ticks(&logarithmic, &[10.0, 900.0]), [10.0, 100.0, 1000.0]);
        assert_eq!(
            [0.0, 0.001, 0.1, 1.0, 10.0, 1000.0, 25_000.0, 100_000.0, 1_000_000.0].map(number),
            ["0", "0.001", "0.1", "1", "10", "1,000", "25,000", "100,000", "1,000,000"].map(str::to_owned)
        );
    }

    #[test]
    fn a_plot_needs_points_for_all_of_its_curves() {
        let mut rows = vec![row("d1", "idle RSS, 0 finished runs", "MiB", 10.0)];
        assert_eq!(plots(&rows), []);
        rows.push(row("d1", "idle RSS, 10000 finished runs", "MiB", 11.0).at_most(25.0));
        rows.push(row("d1", "idle, 10000 finished runs, a minute", "CPU-s", 0.01).at_most(0.1));
        for shape in ["chain", "wide"] {
            rows.extend([(10, 0.01), (100, 0.1)].map(|(n, ms)| row("f1", &format!("{shape} {n}"), "ms", ms)));
        }
        rows.push(row("f1", "chain slope", "log/log", 1.0));
        let found = plots(&rows);
        assert_eq!((found.len(), found[0].name, found[0].goal), (1, "d1", Some(25.0)));
        assert_eq!(found[0].curves[0].1, [(0.0, 10.0), (10_000.0, 11.0)]);
        rows.extend([(10, 0.02), (100, 0.2)].map(|(n, ms)| row("f1", &format!("layered {n}"), "ms", ms)));
        assert_eq!(plots(&rows).iter().map(|plot| plot.name).collect::<Vec<_>>(), ["f1", "d1"]);
    }

    #[test]
    fn a_picture_shows_each_point_within_its_frame() {
        let plot = Plot {
            name: "x",
            title: "T".to_owned(),
            across: Axis { label: "nodes", logarithmic: true },
            up: Axis { label: "MiB", logarithmic: false },
            curves: vec![("one".to_owned(), vec![(10.0, 0.0), (1000.0, 20.0)])],
            goal: Some(25.0),
        };
        let svg = plot.svg();
        let [left, top, right, bottom] = MARGINS;
        assert!(svg.contains(&format!("<circle cx=\"{left:.1}\" cy=\"{:.1}\"", HEIGHT - bottom)), "{svg}");
        let last = top + (HEIGHT - top - bottom) * 0.2;
        assert!(svg.contains(&format!("<circle cx=\"{:.1}\" cy=\"{last:.1}\"", WIDTH - right)), "{svg}");
        assert!(svg.contains(">goal</text>") && svg.contains(">one</text>") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
