#!/usr/bin/env python3
"""The example, stage by stage, wired as pipeline.yaml says, on the real sources. Needs tests/requirements.txt, PostgreSQL's
programs and kubectl (no cluster): python3 tests/test_stages.py"""

import csv
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request
from pathlib import Path

import yaml

IRIS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(IRIS / "tests"), str(IRIS / "data")]
sys.dont_write_bytecode = True

import local
import make
import sources

PIPELINE = yaml.safe_load((IRIS / "pipeline.yaml").read_text())
STAGES = [stage["name"] for stage in PIPELINE["spec"]["stages"]]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def report(run):
    return (run.stages["report"].outputs["html"] / "report.html").read_text()


def kustomize(directory):
    try:
        built = subprocess.run(["kubectl", "kustomize", str(directory)], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise AssertionError("the tests need kubectl, for its kustomize: install it") from None
    return {(one["kind"], re.sub("-[a-z0-9]{10}$", "", one["metadata"]["name"])): one for one in yaml.safe_load_all(built)}


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.temporary.cleanup)
        cls.work = Path(cls.temporary.name)
        (cls.work / "database").mkdir()
        cls.work.chmod(0o755)  # for the database's user
        cls.database, cls.api = sources.postgres(cls.work / "database"), sources.species()
        cls.addClassCleanup(cls.database.stop)
        cls.addClassCleanup(cls.api.stop)

    def run_pipeline(self, params=None, sepals=IRIS / "data/iris.csv", **env):
        work = tempfile.mkdtemp(dir=self.work)
        here = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.database.port),
            "PGPASSWORD": sources.PASSWORD,
            "LABELS_URL": f"http://127.0.0.1:{self.api.port}",
        }
        run = local.Run(
            PIPELINE,
            work,
            code=IRIS / "code",
            python=sys.executable,
            params=params,
            bucket={"s3://iris/raw/iris.csv": sepals},
            env=here | env,
        )
        return run.start()

    def assert_phases(self, run, **others):
        phases = {name: stage.phase for name, stage in run.stages.items()}
        wanted = dict.fromkeys([*STAGES, "report"], "Succeeded") | others
        logs = "\n".join(f"--- {name}\n{stage.log}" for name, stage in run.stages.items())
        self.assertEqual(phases, wanted, logs)


class TheWholePipeline(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.run_of = {name: cls.run_pipeline(cls(), {"algorithm": name}) for name in ("forest", "logistic", "svm")}

    def test_every_algorithm_of_the_enum_reaches_the_accuracy(self):
        enum = next(param["enum"] for param in PIPELINE["spec"]["params"] if param["name"] == "algorithm")
        self.assertEqual(sorted(self.run_of), sorted(enum))
        for name, run in self.run_of.items():
            with self.subTest(algorithm=name):
                self.assert_phases(run)
                evaluate = run.stages["evaluate"]
                self.assertGreaterEqual(evaluate.metric("accuracy"), 0.9)
                self.assertGreaterEqual(evaluate.metric("cvAccuracyMean"), 0.9)
                self.assertEqual(evaluate.results["accuracy"], evaluate.metric("accuracy"))

    def test_no_flower_is_lost_on_the_way_but_those_that_cleaning_names(self):
        run = self.run_of["forest"]
        collected, cleaned = (rows(run.stages[name].outputs["table"]) for name in ("collect", "clean"))
        self.assertEqual((len(collected), len(cleaned)), (151, 148))
        truth = make.load_iris()
        for sample, values, target in zip(range(1, 151), truth.data, truth.target):
            row = next(row for row in collected if row["sample_id"] == str(sample))
            wanted = dict(zip(list(row)[1:5], (f"{value:.1f}" for value in values)))
            if sample in make.ONE_MISSING:
                wanted[make.ONE_MISSING[sample]] = ""
            if sample == make.BOTH_MISSING:
                wanted |= {"sepal_length_cm": "", "sepal_width_cm": ""}
            if sample == make.POINT_LOST:
                wanted["sepal_length_cm"] = "49"
            self.assertEqual(row, {"sample_id": str(sample), **wanted, "species": truth.target_names[target]})
        gone = {row["sample_id"] for row in collected} - {row["sample_id"] for row in cleaned}
        self.assertEqual(gone, {str(make.BOTH_MISSING), str(make.POINT_LOST)})
        self.assertEqual([row["sample_id"] for row in cleaned].count(str(make.TWICE)), 1)

        split = run.stages["split"]
        parts = [rows(split.outputs[name]) for name in ("train", "test")]
        self.assertEqual([len(part) for part in parts], [split.results["trainRows"], split.results["testRows"]])
        self.assertEqual([len(part) for part in parts], [111, 37])
        self.assertCountEqual([tuple(row.items()) for part in parts for row in part], [tuple(row.items()) for row in cleaned])

    def test_the_checks_name_what_was_repaired(self):
        checks = self.run_of["forest"].stages["clean"].checks
        self.assertTrue(checks["success"])
        warned = {check["name"]: check["actual"] for check in checks["checks"] if check["status"] == "fail"}
        self.assertEqual(
            warned,
            {
                "no-repeated-rows": f"1 (sample {make.TWICE})",
                "at-most-1-gap-a-row": f"1 (sample {make.BOTH_MISSING})",
                "no-outliers": f"1 (sample {make.POINT_LOST})",
            },
        )
        missing = {check["column"]: check["actual"] for check in checks["checks"] if check["name"].startswith("missing-")}
        self.assertEqual(missing["sepal_width_cm"], "2.0%")
        self.assertEqual(missing["petal_width_cm"], "0.0%")

    def test_metrics_are_by_fold_and_by_species(self):
        evaluate = self.run_of["forest"].stages["evaluate"]
        folds = [evaluate.metric("cvAccuracy", fold=fold) for fold in range(5)]
        self.assertAlmostEqual(evaluate.metric("cvAccuracyMean"), sum(folds) / 5)
        for name in ("precision", "recall"):
            by_species = [evaluate.metric(name, slice=one) for one in ("setosa", "versicolor", "virginica")]
            self.assertAlmostEqual(evaluate.metric(name), sum(by_species) / 3)
        matrix = json.loads((evaluate.outputs["evaluation"] / "confusion.json").read_text())["matrix"]
        self.assertEqual(sum(map(sum, matrix)), 37)
        self.assertAlmostEqual(evaluate.metric("accuracy"), sum(matrix[i][i] for i in range(3)) / 37)

    def test_the_same_seed_gives_the_same_bytes(self):
        first, second = self.run_of["forest"], self.run_pipeline({"algorithm": "forest"})

        def digests(run):
            return {
                f"{name}/{output}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
                for name, stage in run.stages.items()
                for output, place in stage.outputs.items()
                for path in (sorted(place.iterdir()) if place.is_dir() else [place])
            }

        self.assertEqual(len(digests(first)), 12)
        self.assertEqual(digests(first), digests(second))
        self.assertEqual([s.metrics for s in first.stages.values()], [s.metrics for s in second.stages.values()])

    def test_the_model_works_without_the_code_and_takes_a_gap(self):
        model = self.run_of["logistic"].stages["train"].outputs["model"] / "model.joblib"
        program = "import joblib, sys; print(*joblib.load(sys.argv[1]).predict([[5.1, 3.5, 1.4, 0.2], [6.3, float('nan'), 6.0, 2.5]]))"
        said = subprocess.run([sys.executable, "-c", program, model], check=True, capture_output=True, text=True, cwd="/").stdout
        self.assertEqual(said.split(), ["setosa", "virginica"])

    def test_the_report_is_whole_and_needs_nothing_else(self):
        page = report(self.run_of["svm"])
        for part in ("Succeeded", "Confusion matrix", "Cross-validation", "no-outliers", "virginica", "svm"):
            self.assertIn(part, page)
        self.assertNotRegex(page, "https?://|src=|<link|<script|url\\(")
        self.assertEqual(page.count("<rect"), 9)
        self.assertNotIn("There is none", page)


class WhatGoesWrong(Case):
    def test_data_over_the_limits_fails_once_and_the_report_says_so(self):
        run = self.run_pipeline({"maxMissing": 0.001})
        skipped = dict.fromkeys(["split", "features", "train", "evaluate", "accept"], "Skipped")
        self.assert_phases(run, clean="Failed", **skipped)
        clean = run.stages["clean"]
        self.assertEqual(clean.code, 65)
        self.assertIn("clean: 2 checks failed: missing-sepal_length_cm, missing-sepal_width_cm.", clean.log.splitlines()[-1])
        self.assertFalse(clean.checks["success"])
        rules = PIPELINE["spec"]["defaults"]["retry"]["rules"]
        self.assertIn({"exitCodes": [65], "action": "Fail"}, rules)
        for part in ("Failed", "clean did not succeed", "evaluate did not succeed", "<td>accept</td><td>Skipped</td>"):
            self.assertIn(part, report(run))

    def test_a_poor_model_fails_the_run_and_keeps_its_numbers(self):
        run = self.run_pipeline({"components": 1, "bestColumns": 1})
        self.assert_phases(run, accept="Failed")
        self.assertRegex(run.stages["accept"].log, "accuracy 0.8[0-9]+ on the held-out rows is below minAccuracy 0.9")
        self.assertIn("Confusion matrix", report(run))
        self.assertIn("Failed", report(run))

    def test_a_source_that_is_down_is_named(self):
        nowhere = str(sources.free_port())
        for env, name in (({"PGPORT": nowhere}, f"127.0.0.1:{nowhere}"), ({"LABELS_URL": f"http://127.0.0.1:{nowhere}"}, f"http://127.0.0.1:{nowhere}")):
            with self.subTest(env=env):
                collect = self.run_pipeline(**env).stages["collect"]
                self.assertEqual((collect.phase, collect.code), ("Failed", 1))
                self.assertRegex(collect.log.splitlines()[-1], f"^collect: no data from .*{name} after 5 tries: .*kubectl apply")

    def test_a_wrong_password_is_said_at_once_and_not_shown(self):
        collect = self.run_pipeline(PGPASSWORD="wrong-secret").stages["collect"]
        self.assertRegex(collect.log, "table petals .* after 1 tries: .*password authentication failed")
        self.assertNotIn("wrong-secret", collect.log)

    def test_a_file_of_another_kind_is_refused_with_its_columns(self):
        for text in ("", "a,b\n1,2\n", "sample_id,sepal_length_cm,sepal_width_cm\n"):
            path = Path(tempfile.mkdtemp(dir=self.work)) / "sepals.csv"
            path.write_text(text)
            collect = self.run_pipeline(sepals=path).stages["collect"]
            self.assertEqual(collect.code, 65, collect.log)
            self.assertIn("Upload a CSV with the columns sample_id, sepal_length_cm, sepal_width_cm", collect.log)

    def test_a_value_that_is_no_number_is_named(self):
        path = Path(tempfile.mkdtemp(dir=self.work)) / "sepals.csv"
        path.write_text((IRIS / "data/iris.csv").read_text().replace("\n1,5.1,", "\n1,five,"))
        self.assertIn("sample 1: sepal_length_cm is 'five', not a number", self.run_pipeline(sepals=path).stages["clean"].log)

    def test_flowers_that_the_file_lacks_are_kept_and_then_named(self):
        path = Path(tempfile.mkdtemp(dir=self.work)) / "sepals.csv"
        lines = (IRIS / "data/iris.csv").read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith("5,")))
        run = self.run_pipeline(sepals=path)
        self.assertEqual(run.stages["collect"].results["rows"], 151)
        self.assertIn("2 (sample 5, 135)", run.stages["clean"].log)

    def test_names_in_the_data_do_not_become_markup(self):
        run = self.run_pipeline({"algorithm": "<script>alert(1)</script>"})
        self.assertEqual(run.stages["train"].phase, "Failed")
        self.assertNotIn("<script", report(run))


class TheSources(Case):
    def get(self, path):
        return json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.api.port}{path}", timeout=10))

    def test_pages_end_and_wrong_ones_are_explained(self):
        pages = [self.get(f"/species?page={page}") for page in (1, 2, 3)]
        self.assertEqual([len(page["items"]) for page in pages], [50, 50, 50])
        self.assertEqual([page["next"] for page in pages], ["/species?page=2", "/species?page=3", None])
        for path, status in (("/species?page=4", 400), ("/species?page=x", 400), ("/flowers", 404)):
            with self.assertRaises(urllib.error.HTTPError) as caught:
                self.get(path)
            self.assertEqual(caught.exception.code, status)
            caught.exception.close()

    def test_both_end_on_the_signal_that_ends_a_pod(self):
        self.assertEqual(sources.species().stop(), 0)
        directory = Path(tempfile.mkdtemp(dir=self.work))
        self.assertEqual(sources.postgres(directory).stop(), 0)

    def test_their_pods_are_restricted(self):
        for (kind, name), one in kustomize(IRIS / "sources").items():
            if kind != "Deployment":
                continue
            pod = one["spec"]["template"]["spec"]
            self.assertTrue(pod["securityContext"]["runAsNonRoot"], name)
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            for container in pod["containers"]:
                self.assertFalse(container["securityContext"]["allowPrivilegeEscalation"])
                self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"]})


class TheFiles(unittest.TestCase):
    def test_the_data_are_what_make_py_makes(self):
        for path, text in make.files().items():
            self.assertEqual(path.read_text(), text, f"{path} is stale: run python3 data/make.py")

    def test_kustomize_writes_the_name_of_the_code_into_the_pipeline(self):
        built = kustomize(IRIS)
        code = built["ConfigMap", "iris-code"]
        self.assertRegex(code["metadata"]["name"], "^iris-code-[a-z0-9]{10}$")
        self.assertEqual(built["Pipeline", "iris"]["spec"]["code"]["configMapName"], code["metadata"]["name"])
        self.assertEqual(sorted(code["data"]), sorted(path.name for path in (IRIS / "code").glob("*.py")))

    def test_what_the_pipeline_names_is_what_the_sources_are(self):
        built = kustomize(IRIS / "sources")
        env = {entry["name"]: entry for entry in PIPELINE["spec"]["stages"][0]["container"]["env"]}
        self.assertIn(("Service", env["PGHOST"]["value"]), built)
        self.assertIn(("Service", env["LABELS_URL"]["value"].split("/")[2].split(":")[0]), built)
        key = env["PGPASSWORD"]["valueFrom"]["secretKeyRef"]
        self.assertIn(key["key"], built["Secret", key["name"]]["stringData"])

    def test_each_stage_uses_only_stages_before_it(self):
        seen = set()
        for stage in [*PIPELINE["spec"]["stages"], *PIPELINE["spec"]["finally"]]:
            for given in stage.get("inputs", []):
                self.assertTrue("uri" in given or local.stage_of(given) in seen, (stage["name"], given))
            seen.add(stage["name"])

    def test_hello_prints_any_name_byte_for_byte(self):
        hello = yaml.safe_load((IRIS.parent / "hello/pipeline.yaml").read_text())
        script = hello["spec"]["stages"][0]["container"]["script"]
        for who in ("world", "$(id) `id` %s \\n 'ü' \"$HOME\" {{x}}"):
            with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
                file.write(script)
                file.flush()
                said = subprocess.run(["sh", file.name], env={"TRAINYARD_PARAM_WHO": who}, check=True, capture_output=True, text=True)
            self.assertEqual(said.stdout, f"Hello, {who}!\n")


if __name__ == "__main__":
    unittest.main()
