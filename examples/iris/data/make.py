#!/usr/bin/env python3
"""Writes what the three sources of the example hold, from the 150 flowers of scikit-learn's copy of Fisher's iris data.

    data/iris.csv          sepals, for the bucket
    sources/petals.sql     petals, for the database
    sources/species.json   species, for the HTTP API

The CSV gets the defects that files written by hand have, the same ones every time. No other value is changed.
"""

import json
from pathlib import Path

from sklearn.datasets import load_iris

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent / "sources"

# By sample id, which counts from 1 in the order of the data.
ONE_MISSING = {23: "sepal_width_cm", 67: "sepal_length_cm", 112: "sepal_width_cm"}  # to be filled in
BOTH_MISSING = 135  # half of the flower is unknown: to be dropped
POINT_LOST = 58  # 4.9 was typed as 49: to be dropped
TWICE = 88  # the same line again at the end: to be dropped once


def sepals(measurements):
    rows = []
    for sample, (length, width, _, _) in enumerate(measurements, start=1):
        row = {"sample_id": sample, "sepal_length_cm": f"{length:.1f}", "sepal_width_cm": f"{width:.1f}"}
        if sample in ONE_MISSING:
            row[ONE_MISSING[sample]] = ""
        if sample == BOTH_MISSING:
            row["sepal_length_cm"] = row["sepal_width_cm"] = ""
        if sample == POINT_LOST:
            row["sepal_length_cm"] = row["sepal_length_cm"].replace(".", "")
        rows.append(row)
    return rows + [rows[TWICE - 1]]


def petals(measurements):
    values = [f"({sample}, {length:.1f}, {width:.1f})" for sample, (_, _, length, width) in enumerate(measurements, start=1)]
    return (
        "CREATE TABLE petals (\n"
        "  sample_id integer PRIMARY KEY,\n"
        "  petal_length_cm numeric(3, 1) NOT NULL,\n"
        "  petal_width_cm numeric(3, 1) NOT NULL\n"
        ");\n\n"
        "INSERT INTO petals VALUES\n" + ",\n".join(values) + ";\n"
    )


def species(iris):
    names = [str(iris.target_names[target]) for target in iris.target]
    lines = [json.dumps({"sample_id": sample, "species": name}) for sample, name in enumerate(names, start=1)]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def files():
    """Every file that this program writes, with its text."""
    iris = load_iris()
    rows = sepals(iris.data)
    table = [",".join(rows[0])] + [",".join(str(value) for value in row.values()) for row in rows]
    return {
        HERE / "iris.csv": "\n".join(table) + "\n",
        SOURCES / "petals.sql": petals(iris.data),
        SOURCES / "species.json": species(iris),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(HERE.parent)}: {len(text)} bytes")
