"""Judges the table and drops the rows that no later stage could use, with a check for each thing that can be wrong.

A warning is repaired here. An error is not: then the stage fails, and the message names the checks."""

import numpy as np

from stage import fail, input_path, output_path, param, write_checks, write_json, write_result
from table import MEASUREMENTS, SPECIES, numbers, read_table, species, write_table

MOST_GAPS = 1  # a flower with more missing measurements is dropped: filling them in would make it up
LEAST_ROWS = 20  # of each species, else five folds say little


def check(name, passed, severity, expected, actual, **column):
    status = "pass" if passed else "fail"
    return {"name": name, "status": status, "severity": severity, "expected": str(expected), "actual": str(actual), **column}


def named(rows):
    """How many rows, and the first few of them by name."""
    samples = ", ".join(row["sample_id"] for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    return f"{len(rows)} (sample {samples})" if rows else "0"


def without_repeats(rows):
    """Rows that are not equal to an earlier one, and those that are. Two flowers of equal size are no repeat: their ids differ."""
    seen, unique, repeats = set(), [], []
    for row in rows:
        key = tuple(row.values())
        (repeats if key in seen else unique).append(row)
        seen.add(key)
    return unique, repeats


def distance(rows):
    """How far each value lies from its column's median, in robust standard deviations. One wild value moves neither median nor
    scale, as it would move a mean."""
    values = numbers(rows)
    away = np.abs(values - np.nanmedian(values, axis=0))
    scale = 1.4826 * np.nanmedian(away, axis=0)
    scale[scale == 0] = np.inf  # most values are equal: nothing can be said
    return np.nan_to_num(away / scale)  # a missing value is no outlier


def pick(rows, chosen):
    """The rows that are chosen, and the others."""
    return [row for row, yes in zip(rows, chosen) if yes], [row for row, yes in zip(rows, chosen) if not yes]


def main():
    collected = read_table(input_path("table"))
    rows, repeats = without_repeats(collected)
    unnamed, rows = pick(rows, [row["species"] == "" for row in rows])
    sparse, rows = pick(rows, np.isnan(numbers(rows)).sum(axis=1) > MOST_GAPS)
    outliers, rows = pick(rows, (distance(rows) > param("outlierDistance", float)).any(axis=1))

    samples = [row["sample_id"] for row in rows]
    disputed = [row for row in rows if samples.count(row["sample_id"]) > 1]
    unknown = [row for row in rows if row["species"] not in SPECIES]
    fewest = min((species(rows) == name).sum() for name in SPECIES)
    checks = [
        check("no-repeated-rows", not repeats, "warn", 0, named(repeats)),
        check("no-row-without-species", not unnamed, "warn", 0, named(unnamed), column="species"),
        check(f"at-most-{MOST_GAPS}-gap-a-row", not sparse, "warn", 0, named(sparse)),
        check("no-outliers", not outliers, "warn", 0, named(outliers)),
        check("one-row-a-sample", not disputed, "error", 0, named(disputed), column="sample_id"),
        check("known-species", not unknown, "error", 0, named(unknown), column="species"),
        check("rows-of-each-species", fewest >= LEAST_ROWS, "error", f">= {LEAST_ROWS}", fewest, column="species"),
    ]
    most_missing = param("maxMissing", float)
    for column, missing in zip(MEASUREMENTS, np.isnan(numbers(collected)).mean(axis=0)):
        checks.append(check(f"missing-{column}", missing <= most_missing, "error", f"<= {most_missing:.1%}", f"{missing:.1%}", column=column))

    failed = write_checks(checks)
    write_json(output_path("checks"), checks)
    write_table(output_path("table"), rows)
    write_result("rows", len(rows))
    write_result("dropped", len(collected) - len(rows))
    for entry in checks:
        print(f"{entry['status']:4} {entry['severity']:5} {entry['name']} {entry.get('column', '')} expected {entry['expected']}, is {entry['actual']}")
    if failed:
        fail(f"clean: {len(failed)} checks failed: {', '.join(failed)}. Mend the data, or the limits in the pipeline's params.")
    print(f"{len(collected)} rows in, {len(rows)} out; dropped {named(repeats + unnamed + sparse + outliers)}")


if __name__ == "__main__":
    main()
