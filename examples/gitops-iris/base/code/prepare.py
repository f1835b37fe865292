"""Reads every CSV file below the prefix, checks it, and holds a part of the flowers back for the evaluation."""

from hashlib import sha256

from flowers import COLUMNS, measurements, read_table, write_table
from stage import fail, input_path, output_path, param, write_result


def collect(folder):
    """All flowers by their id. One that is in two files must be the same in both."""
    flowers = {}
    for path in sorted(folder.rglob("*.csv")):
        name = path.relative_to(folder)
        for row in read_table(path):
            if list(row) != COLUMNS:
                fail(f"prepare: {name} has the columns {list(row)}, and not {COLUMNS}")
            try:
                measurements(row)
            except ValueError as problem:
                fail(f"prepare: {name}, sample {row['sample_id']}: {problem}")
            if flowers.setdefault(row["sample_id"], row) != row:
                fail(f"prepare: {name}: sample {row['sample_id']} is in another file too, with other values")
    return list(flowers.values())


def is_held_out(row, share):
    """Decided by the flower's id alone: when data comes in, those that are there stay on their side."""
    return int(sha256(row["sample_id"].encode()).hexdigest()[:8], 16) < share * 2**32


def main():
    flowers, share = collect(input_path("raw")), param("heldOut", float)
    test = [row for row in flowers if is_held_out(row, share)]
    train = [row for row in flowers if not is_held_out(row, share)]
    if not train or not test:
        fail(f"prepare: {len(flowers)} flowers are too few to hold a part of {share} back")
    write_table(output_path("train"), train)
    write_table(output_path("test"), test)
    write_result("rows", len(flowers))
    print(f"{len(flowers)} flowers: {len(train)} to learn from, {len(test)} held out")


if __name__ == "__main__":
    main()
