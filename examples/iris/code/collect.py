"""Joins what is known of each flower by its sample id: sepals from a CSV file in the bucket, petals from the laboratory's
database, species from the HTTP API of the people who name them. Nothing is dropped: what one source lacks stays empty, and a
line that the file has twice stays twice. Judging the data is the next stage's work."""

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request

import pg8000.native
from pg8000.exceptions import DatabaseError, InterfaceError

from stage import fail, input_path, output_path, write_result
from table import read_table, write_table

SEPALS = ["sample_id", "sepal_length_cm", "sepal_width_cm"]
TIMEOUT = 10  # seconds for one answer
TRIES = 5


def petals():
    """Petals by sample id. The connection comes from the variables that every PostgreSQL client knows."""
    connection = pg8000.native.Connection(
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        database=os.environ["PGDATABASE"],
        user=os.environ["PGUSER"],
        password=os.environ["PGPASSWORD"],
        timeout=TIMEOUT,
    )
    try:
        rows = connection.run("SELECT sample_id, petal_length_cm, petal_width_cm FROM petals ORDER BY sample_id")
    finally:
        connection.close()
    return {str(sample): {"petal_length_cm": str(length), "petal_width_cm": str(width)} for sample, length, width in rows}


def species():
    """Species by sample id, page by page until there is no next one."""
    found, page = {}, "/species"
    while page:
        with urllib.request.urlopen(urllib.parse.urljoin(os.environ["LABELS_URL"], page), timeout=TIMEOUT) as answer:
            body = json.load(answer)
        found.update({str(item["sample_id"]): {"species": item["species"]} for item in body["items"]})
        page = body["next"]
    return found


def patiently(read, source):
    """What `read` returns. A source that just starts, or moves to another node, gets a few seconds."""
    for attempt in range(1, TRIES + 1):
        try:
            return read()
        except urllib.error.HTTPError as error:  # an answer; below 500 it stays what it is
            problem, final = error, error.code < 500
        except DatabaseError as error:  # an answer too; class 57 is a server that starts or stops
            problem, final = error, not str(error.args[0].get("C", "")).startswith("57")
        except (OSError, InterfaceError) as error:
            problem, final = error, False
        if final or attempt == TRIES:
            fail(f"collect: no data from {source} after {attempt} tries: {problem}. Is it deployed (kubectl apply -k sources)?", 1)
        time.sleep(attempt)


def join(first, *others):
    """Every row of the first source, and every flower that only another one knows."""
    known = {row["sample_id"] for row in first}
    samples = sorted(set().union(*others) - known, key=int)
    rows = first + [{"sample_id": sample} for sample in samples]
    for row in rows:
        for other in others:
            row.update(other.get(row["sample_id"], {}))
    return sorted(rows, key=lambda row: int(row["sample_id"]))


def sepals():
    """The lines of the file."""
    rows = read_table(input_path("sepals"))
    for column in SEPALS:
        if not rows or column not in rows[0]:
            fail(f"collect: the input sepals has no column {column}, or no rows. Upload a CSV with the columns {', '.join(SEPALS)}.")
    return [{column: row[column] for column in SEPALS} for row in rows]


def main():
    by_bucket = sepals()
    by_database = patiently(petals, f"table petals of the database {os.environ['PGHOST']}:{os.environ['PGPORT']}")
    by_api = patiently(species, f"the species API {os.environ['LABELS_URL']}")
    rows = join(by_bucket, by_database, by_api)

    write_table(output_path("table"), rows)
    write_result("rows", len(rows))
    print(f"bucket {len(by_bucket)} rows, database {len(by_database)}, API {len(by_api)}: joined to {len(rows)} rows")


if __name__ == "__main__":
    main()
