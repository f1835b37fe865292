"""Runs a pipeline on this machine the way Trainyard runs it in Pods: the same environment, files and references, one process
for each attempt. It knows what the examples use: stages of kind container, inputs from stages, optional ones, `finally`."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

JSON_TYPES = {"integer": int, "number": (int, float), "boolean": bool, "list": list, "object": dict}


@dataclass
class Stage:
    """How a stage ended, with what it gave."""

    phase: str
    code: int = 0
    log: str = ""
    outputs: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    metrics: list = field(default_factory=list)
    checks: dict | None = None

    def metric(self, name, **labels):
        """The last value of the metric that has exactly these labels."""
        values = [m["value"] for m in self.metrics if m == {"name": name, "value": m["value"], **labels}]
        assert values, f"no metric {name} {labels} in {self.metrics}"
        return values[-1]


class Run:
    """One run in the directory `work`. `bucket` has the files of s3:// inputs, `env` replaces variables of the pipeline by
    name, as another cluster would have other addresses."""

    def __init__(self, pipeline, work, *, code, python, params=None, bucket=None, env=None):
        self.spec = pipeline["spec"]
        self.name, self.pipeline = f"{pipeline['metadata']['name']}-1", pipeline["metadata"]["name"]
        self.work, self.code, self.python = Path(work), Path(code), python
        self.bucket, self.env = bucket or {}, env or {}
        self.params = {param["name"]: param["default"] for param in self.spec["params"]} | (params or {})
        self.stages, self.phase = {}, "Running"

    def start(self):
        for stage in self.spec["stages"]:
            needed = [stage_of(i) for i in stage.get("inputs", []) if "from" in i and not i.get("optional")]
            needed += re.findall(r"\$\(stages\.([^.]+)\.", json.dumps(stage))
            ready = all(self.stages[name].phase == "Succeeded" for name in needed)
            self.stages[stage["name"]] = self._attempt(stage) if ready else Stage("Skipped")
        failed = any(stage.phase == "Failed" for stage in self.stages.values())
        self.phase = "Failed" if failed else "Succeeded"
        for stage in self.spec.get("finally", []):
            self.stages[stage["name"]] = self._attempt(stage)
        return self

    def _attempt(self, stage):
        root = self.work / stage["name"]
        for directory in ("in", "out", "results", "home", "tmp"):
            (root / directory).mkdir(parents=True)
        shutil.copytree(self.code, root / "code", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "params.json").write_text(json.dumps(self.params), encoding="utf-8")
        container = stage["container"]
        command = [self._replace(part) for part in container["command"] + container.get("args", [])]
        done = subprocess.run(
            [self.python if command[0] == "python3" else command[0], *command[1:]],
            cwd=root / "code",
            env=self._environment(stage, root),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return self._gather(stage, root, done)

    def _environment(self, stage, root):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root / "home"),
            "TMPDIR": str(root / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TRAINYARD_ROOT": str(root),
            "TRAINYARD_RUN": self.name,
            "TRAINYARD_PIPELINE": self.pipeline,
            "TRAINYARD_STAGE": stage["name"],
            "TRAINYARD_ATTEMPT": "1",
        }
        for name, value in self.params.items():
            env[f"TRAINYARD_PARAM_{variable(name)}"] = value if isinstance(value, str) else json.dumps(value)
        for given in stage.get("inputs", []):
            source = self._source(given)
            if source is None:
                continue
            target = root / "in" / given["name"]
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
            env[f"TRAINYARD_IN_{variable(given['name'])}"] = str(target)
        for output in stage.get("outputs", []):
            env[f"TRAINYARD_OUT_{variable(output['name'])}"] = str(root / "out" / output["name"])
        for entry in stage["container"].get("env", []):
            name = entry["name"]
            env[name] = self.env[name] if name in self.env else self._replace(entry["value"])
        return env

    def _source(self, given):
        if "uri" in given:
            return self.bucket[given["uri"]]
        path = self.stages[stage_of(given)].outputs.get(given["from"].split(".", 1)[1])
        assert path or given.get("optional"), f"{given['from']} is not an output"
        return path

    def _replace(self, text):
        def value(match):
            kind, *rest = match[1].split(".")
            if kind == "params":
                found = self.params[rest[0]]
            elif kind == "run":
                found = {"name": self.name, "phase": self.phase}[rest[0]]
            else:
                stage = self.stages[rest[0]]
                found = stage.phase if rest[1] == "phase" else stage.results[rest[2]]
            return found if isinstance(found, str) else json.dumps(found)

        return re.sub(r"\$\(([^)]+)\)", value, text)

    def _gather(self, stage, root, done):
        metrics, checks = root / "metrics.jsonl", root / "checks.json"
        ended = Stage(
            "Succeeded" if done.returncode == 0 else "Failed",
            done.returncode,
            done.stdout,
            metrics=[json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else [],
            checks=json.loads(checks.read_text()) if checks.exists() else None,
        )
        if ended.phase == "Failed":
            return ended
        where = f"stage {stage['name']}"
        for folder, key, keep in (("out", "outputs", ended.outputs), ("results", "results", ended.results)):
            declared = {one["name"]: one.get("type", "string") for one in stage.get(key, [])}
            written = {path.name: path for path in (root / folder).iterdir()}
            assert declared.keys() == written.keys(), f"{where} declares the {key} {sorted(declared)} and writes {sorted(written)}"
            for name, path in written.items():
                keep[name] = path if key == "outputs" else typed(path.read_text(), declared[name])
        plain = {m["name"] for m in ended.metrics if not m.keys() & {"fold", "slice", "step"}}
        assert set(stage.get("metrics", [])) == plain, f"{where} declares other metrics than it writes: {sorted(plain)}"
        return ended


def stage_of(given):
    return given["from"].split(".", 1)[0]


def variable(name):
    return name.upper().replace("-", "_").replace(".", "_")


def typed(text, kind):
    if kind == "string":
        return text
    value = json.loads(text)
    assert isinstance(value, JSON_TYPES[kind]), f"{text} is not of type {kind}"
    return value
