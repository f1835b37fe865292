"""What a stage and Trainyard say to each other: environment variables and files."""

import json
import os
import sys
from pathlib import Path

DATA_ERROR = 65  # data that is wrong stays wrong: the pipeline's retry rules do not repeat this exit code


def input_path(name):
    return Path(os.environ[f"TRAINYARD_IN_{name.upper()}"])


def output_path(name):
    return Path(os.environ[f"TRAINYARD_OUT_{name.upper()}"])


def param(name, kind):
    return kind(os.environ[f"TRAINYARD_PARAM_{name.upper()}"])


def write_result(name, value):
    (_root() / "results" / name).write_text(json.dumps(value), encoding="utf-8")


def write_metric(name, value):
    with (_root() / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"name": name, "value": value}) + "\n")


def fail(message):
    """Ends the stage; `kubectl describe plr` shows the message."""
    print(message, file=sys.stderr)
    sys.exit(DATA_ERROR)


def _root():
    return Path(os.environ["TRAINYARD_ROOT"])
