"""The table of flowers: a CSV file with one of them a row."""

import csv

MEASUREMENTS = ["sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm"]
COLUMNS = ["sample_id", *MEASUREMENTS, "species"]


def read_table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def measurements(row):
    return [float(row[column]) for column in MEASUREMENTS]
