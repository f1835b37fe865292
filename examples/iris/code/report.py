"""Writes the run's report: one HTML file with nothing outside it, so that it can be mailed and opened anywhere.

It runs whatever happened (`finally`), so each part of it may be missing and is then said to be. The arguments say how each
stage ended, such as train=Succeeded."""

import html
import json
import os
import sys

from stage import input_path, output_directory, params

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2430; background: #fff; max-width: 54rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem } p { margin: .4rem 0 }
table { border-collapse: collapse; width: 100% } caption { text-align: left; color: #5a6172; padding-bottom: .3rem }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #dfe2ea } td.number { font-variant-numeric: tabular-nums }
.fail { font-weight: 600; color: #a11f1f } .quiet { color: #5a6172 } svg { max-width: 30rem; display: block } svg text { font: 14px system-ui, sans-serif }
"""


def text(value):
    """Data as text of HTML. All data goes through here: a name is not to become markup."""
    return html.escape(f"{value:.3f}" if isinstance(value, float) else str(value))


def table(caption, head, rows):
    def cell(value):
        return f'<td class="number">{text(value)}</td>' if isinstance(value, (int, float)) else f"<td>{text(value)}</td>"

    header = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "\n".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows)
    return f"<table><caption>{text(caption)}</caption><thead><tr>{header}</tr></thead>\n<tbody>{body}</tbody></table>"


def confusion_svg(labels, matrix):
    """A square a pair of species: the darker, the larger its share of the row. The number says the same without colour."""
    side, left, top = 96, 110, 56
    size = side * len(labels)
    parts = [
        f'<svg viewBox="0 0 {left + size + 4} {top + size + 4}" role="img" aria-label="Confusion matrix">',
        f'<text x="{left + size / 2}" y="18" text-anchor="middle">predicted</text>',
        f'<text x="0" y="{top - 12}">true</text>',
    ]
    for row, label in enumerate(labels):
        parts.append(f'<text x="{left + (row + 0.5) * side}" y="{top - 12}" text-anchor="middle">{text(label)}</text>')
        parts.append(f'<text x="{left - 10}" y="{top + (row + 0.5) * side + 5}" text-anchor="end">{text(label)}</text>')
        for column, count in enumerate(matrix[row]):
            share = count / max(1, sum(matrix[row]))
            x, y = left + column * side, top + row * side
            ink = "#fff" if share > 0.5 else "#1f2430"
            parts.append(f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="#1d5fa8" fill-opacity="{share:.3f}" stroke="#c9cedb"/>')
            parts.append(f'<text x="{x + side / 2}" y="{y + side / 2 + 5}" text-anchor="middle" fill="{ink}">{count}</text>')
    return "\n".join([*parts, "</svg>"])


def evaluation_part(directory):
    if directory is None:
        return '<h2>Evaluation</h2><p class="fail">There is none: evaluate did not succeed.</p>'
    evaluation = json.loads((directory / "evaluation.json").read_text(encoding="utf-8"))
    confusion = json.loads((directory / "confusion.json").read_text(encoding="utf-8"))
    metrics, folds = evaluation["metrics"], evaluation["folds"]
    return "\n".join([
        "<h2>Evaluation</h2>",
        table(f"On {evaluation['rows']} rows held out", ["metric", "value"], [(name, metrics[name]) for name in ("accuracy", "precision", "recall")]),
        "<h2>Species</h2>",
        table(
            "On the rows held out",
            ["species", "precision", "recall", "F1", "rows"],
            [(one["name"], one["precision"], one["recall"], one["f1"], one["rows"]) for one in evaluation["species"]],
        ),
        "<h2>Confusion matrix</h2>",
        confusion_svg(confusion["labels"], confusion["matrix"]),
        "<h2>Cross-validation</h2>",
        table(
            f"Within the training rows: mean {metrics['cvAccuracyMean']:.3f}, standard deviation {metrics['cvAccuracySd']:.3f}",
            ["fold", "accuracy"],
            list(enumerate(folds)),
        ),
    ])


def checks_part(path):
    if path is None:
        return '<h2>Data checks</h2><p class="fail">There are none: clean did not succeed. The log of clean, if it ran, names what failed.</p>'
    checks = json.loads(path.read_text(encoding="utf-8"))
    warnings = sum(check["status"] == "fail" for check in checks)
    return "\n".join([
        "<h2>Data checks</h2>",
        table(
            f"{len(checks)} checks, {warnings} warnings",
            ["check", "column", "result", "expected", "actual"],
            [
                (check["name"], check.get("column", ""), "pass" if check["status"] == "pass" else check["severity"], check["expected"], check["actual"])
                for check in checks
            ],
        ),
    ])


def model_part(directory):
    if directory is None:
        return '<h2>Model</h2><p class="fail">There is none: train did not succeed.</p>'
    model = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    rows = [("algorithm", model["algorithm"]), ("learned from", f"{model['rows']} rows"), ("scikit-learn", model["scikitLearn"])]
    return "<h2>Model</h2>\n" + table("What train made", ["fact", "value"], rows)


def main():
    name, phase = os.environ["TRAINYARD_RUN"], os.environ["RUN_PHASE"]
    parts = [
        f"<h1>{text(name)}</h1>",
        f'<p class="quiet">a run of the pipeline {text(os.environ["TRAINYARD_PIPELINE"])}</p>',
        f'<p>Outcome: <strong>{text(phase)}</strong></p>',
        table("How each stage ended", ["stage", "phase"], [argument.split("=", 1) for argument in sys.argv[1:]]),
        evaluation_part(input_path("evaluation")),
        model_part(input_path("model")),
        checks_part(input_path("checks")),
        "<h2>Parameters</h2>",
        table("What the run was given", ["parameter", "value"], sorted(params().items())),
    ]
    page = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(name)}</title><style>{STYLE}</style></head><body>\n'
    page += "\n".join(parts) + "\n</body></html>\n"
    (output_directory("html") / "report.html").write_text(page, encoding="utf-8")
    print(f"report of {name} ({phase}): {len(page.encode())} bytes")


if __name__ == "__main__":
    main()
