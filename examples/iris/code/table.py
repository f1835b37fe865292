"""The table that travels between the stages: a CSV file, one flower a row, an empty field where a value is missing."""

import csv

import numpy as np

MEASUREMENTS = ["sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm"]
COLUMNS = ["sample_id", *MEASUREMENTS, "species"]
SPECIES = ["setosa", "versicolor", "virginica"]


def read_table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path, rows, columns=COLUMNS):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def numbers(rows, columns=MEASUREMENTS):
    """The columns as an array with a row per flower, NaN where a value is missing."""
    values = [[_number(row, column) for column in columns] for row in rows]
    return np.array(values, dtype=float).reshape(len(rows), len(columns))


def species(rows):
    return np.array([row["species"] for row in rows])


def _number(row, column):
    try:
        return float(row[column] or "nan")
    except ValueError:
        raise ValueError(f"sample {row.get('sample_id', '?')}: {column} is {row[column]!r}, not a number") from None
