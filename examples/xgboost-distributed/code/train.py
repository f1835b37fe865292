"""Boosted trees on the breast cancer data, trained by several processes that each have a part of the rows.

Every process builds the same trees: they sum up their histograms, so the log loss that they print is the same, too. Rank 0 runs the
tracker by which they find each other, and writes the model.
"""

import json
import os
import socket
import sys
import threading
import time

import xgboost
from sklearn.datasets import load_breast_cancer
from xgboost import collective
from xgboost.tracker import RabitTracker

ROOT = os.environ["TRAINYARD_ROOT"]
RANK = int(os.environ["TRAINYARD_RANK"])
WORLD_SIZE = int(os.environ["TRAINYARD_WORLD_SIZE"])
ROUNDS = int(os.environ.get("TRAINYARD_PARAM_ROUNDS", "20"))
# So that there is something to watch: the data is small.
PAUSE = float(os.environ.get("TRAINYARD_PARAM_PAUSE", "0"))


class Tell(xgboost.callback.TrainingCallback):
    """Prints each round on every rank, which also shows that it is not stuck; rank 0 writes metrics and progress."""

    def after_iteration(self, model, epoch, evals_log):
        loss = evals_log["train"]["logloss"][-1]
        print(f"round {epoch + 1} of {ROUNDS}: log loss {loss:.10f}", flush=True)
        if RANK == 0:
            with open(f"{ROOT}/metrics.jsonl", "a", encoding="utf-8") as metrics:
                print(json.dumps({"name": "logloss", "value": loss, "step": epoch + 1}), file=metrics)
            with open(f"{ROOT}/progress.json.new", "w", encoding="utf-8") as progress:
                json.dump({"progress": (epoch + 1) / ROUNDS}, progress)
            os.replace(f"{ROOT}/progress.json.new", f"{ROOT}/progress.json")
        time.sleep(PAUSE)
        return False


def track():
    """Starts the tracker where the variables say that it is."""
    address = socket.gethostbyname(os.environ["DMLC_TRACKER_URI"])
    port = int(os.environ["DMLC_TRACKER_PORT"])
    # By task: ranks, and with them the order of sums, are then the same in every attempt, whatever the addresses are.
    tracker = RabitTracker(n_workers=WORLD_SIZE, host_ip=address, port=port, sortby="task")
    tracker.start()
    waiting = threading.Thread(target=tracker.wait_for, daemon=True)
    waiting.start()
    return waiting


def main():
    waiting = track() if RANK == 0 else None
    rendezvous = {
        "dmlc_communicator": "rabit",
        "dmlc_tracker_uri": socket.gethostbyname(os.environ["DMLC_TRACKER_URI"]),
        "dmlc_tracker_port": int(os.environ["DMLC_TRACKER_PORT"]),
        "dmlc_task_id": os.environ["DMLC_TASK_ID"],
    }
    with collective.CommunicatorContext(**rendezvous):
        rows, labels = load_breast_cancer(return_X_y=True)
        own = xgboost.DMatrix(rows[RANK::WORLD_SIZE], labels[RANK::WORLD_SIZE])
        parameters = {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            "max_depth": 4,
            "nthread": 1,
            "seed": 1,
        }
        model = xgboost.train(
            parameters, own, num_boost_round=ROUNDS, evals=[(own, "train")], callbacks=[Tell()], verbose_eval=False
        )
        if RANK == 0 and "TRAINYARD_OUT_MODEL" in os.environ:
            os.makedirs(os.environ["TRAINYARD_OUT_MODEL"])
            model.save_model(os.path.join(os.environ["TRAINYARD_OUT_MODEL"], "model.json"))
    if waiting is not None:
        waiting.join()


if __name__ == "__main__":
    sys.exit(main())
