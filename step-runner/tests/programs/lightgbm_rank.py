"""One rank of LightGBM on the digits data: what it has learned is the same on every rank."""

import hashlib
import os

import lightgbm
import numpy
from sklearn.datasets import load_digits

rank, size = int(os.environ["TRAINYARD_RANK"]), int(os.environ["TRAINYARD_WORLD_SIZE"])
with open(os.environ["TRAINYARD_MACHINES"], encoding="utf-8") as file:
    machines = [line.split() for line in file]
rows, labels = load_digits(return_X_y=True)
parameters = {
    "objective": "multiclass",
    "num_class": 10,
    "tree_learner": "data",
    "pre_partition": True,
    "num_machines": size,
    "machines": ",".join(":".join(machine) for machine in machines),
    "local_listen_port": int(machines[rank][1]),
    "num_leaves": 7,
    "num_threads": 1,
    "verbose": -1,
    "seed": 1,
}
own = lightgbm.Dataset(rows[rank::size], labels[rank::size])
model = lightgbm.train(parameters, own, num_boost_round=5)
accuracy = numpy.mean(model.predict(rows).argmax(axis=1) == labels)
trees = model.model_to_string().split("parameters:")[0]
print(f"accuracy {accuracy:.4f} of trees {hashlib.sha256(trees.encode()).hexdigest()}", flush=True)
