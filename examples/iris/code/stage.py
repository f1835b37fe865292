"""What a stage and Trainyard say to each other, in one page. There is no SDK: paths and values come from the environment, and
what a stage has to say it writes to files. The same programs therefore run on a laptop, see tests/local.py."""

import json
import os
import sys
from pathlib import Path

# Exit code of a stage whose data will be as wrong the next time. The pipeline's retry rules name it, so it is not repeated.
DATA_ERROR = 65


def input_path(name):
    """Path of an input, a file or a directory; None for an optional input that is not there."""
    path = os.environ.get(f"TRAINYARD_IN_{_variable(name)}")
    return Path(path) if path else None


def output_path(name):
    """Path where an output is to be written, as a file or a directory."""
    return Path(os.environ[f"TRAINYARD_OUT_{_variable(name)}"])


def output_directory(name):
    """An output as a directory, made."""
    path = output_path(name)
    path.mkdir(parents=True, exist_ok=True)
    return path


def param(name, kind=str):
    """A parameter of the pipeline, such as param("testShare", float)."""
    return kind(os.environ[f"TRAINYARD_PARAM_{_variable(name)}"])


def params():
    """All parameters of the run."""
    return json.loads((_root() / "params.json").read_text(encoding="utf-8"))


def write_result(name, value):
    """A small value for status, `when` and the stages after this one."""
    text = value if isinstance(value, str) else json.dumps(value)
    (_root() / "results" / name).write_text(text, encoding="utf-8")


def write_metric(name, value, **labels):
    """A metric, such as write_metric("recall", 0.97, slice="setosa") or write_metric("cvAccuracy", 0.96, fold=2)."""
    line = json.dumps({"name": name, "value": float(value), **labels})
    with (_root() / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def write_checks(checks):
    """The check report. Returns the names of the checks whose failure is an error."""
    failed = [check["name"] for check in checks if check["status"] == "fail" and check["severity"] == "error"]
    write_json(_root() / "checks.json", {"success": not failed, "checks": checks})
    return failed


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def fail(message, code=DATA_ERROR):
    """Ends the stage. The message is the last line of its log, which `kubectl describe plr` shows."""
    sys.stdout.flush()  # or what was printed before would come after it
    print(message, file=sys.stderr)
    sys.exit(code)


def _root():
    return Path(os.environ["TRAINYARD_ROOT"])


def _variable(name):
    return name.upper().replace("-", "_")
