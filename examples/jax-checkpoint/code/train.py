"""Softmax regression on the digits data by two or more JAX processes, which can be killed at any time.

Each process has a part of the rows; the gradient is the mean over all of them. Rank 0 writes the state below the checkpoint directory,
under a name that ends with .tmp and then by its own, so that it is whole whenever it is looked at. Every process begins with what
was restored.
"""

import json
import os
import sys
import time

import jax
import numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits

ROOT = os.environ["TRAINYARD_ROOT"]
CHECKPOINT = os.environ["TRAINYARD_CHECKPOINT"]
RANK = int(os.environ["TRAINYARD_RANK"])
STEPS = int(os.environ.get("TRAINYARD_PARAM_STEPS", "60"))
EVERY = int(os.environ.get("TRAINYARD_PARAM_EVERY", "5"))
# So that there is something to watch: the data is small.
PAUSE = float(os.environ.get("TRAINYARD_PARAM_PAUSE", "0"))
RATE = 0.5


def restore():
    """The weights, and the losses of all steps so far; of none at the very first start."""
    try:
        with numpy.load(f"{CHECKPOINT}/state.npz") as state:
            return state["weights"], state["losses"].tolist()
    except FileNotFoundError:
        return numpy.zeros((65, 10), numpy.float32), []


def replace(path, write):
    """Writes a file so that others see the old one or the new one."""
    with open(f"{path}.tmp", "wb") as file:
        write(file)
    os.replace(f"{path}.tmp", path)


def keep(weights, losses):
    replace(f"{CHECKPOINT}/state.npz", lambda file: numpy.savez(file, weights=weights, losses=losses))


def tell(losses):
    """The whole curve, also what an earlier execution has done, and how far it is."""
    lines = [json.dumps({"name": "loss", "value": loss, "step": step + 1}) for step, loss in enumerate(losses)]
    replace(f"{ROOT}/metrics.jsonl", lambda file: file.write(("\n".join(lines) + "\n").encode()))
    progress = json.dumps({"progress": len(losses) / STEPS, "eta": f"{(STEPS - len(losses)) * PAUSE:.0f} s"})
    replace(f"{ROOT}/progress.json", lambda file: file.write(progress.encode()))


def main():
    jax.distributed.initialize(
        coordinator_address=os.environ["JAX_COORDINATOR_ADDRESS"],
        num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
        process_id=int(os.environ["JAX_PROCESS_ID"]),
    )
    mesh = Mesh(jax.devices(), ("rows",))
    by_row = NamedSharding(mesh, PartitionSpec("rows"))
    everywhere = NamedSharding(mesh, PartitionSpec())

    data = load_digits()
    rows = numpy.hstack([data.data / 16, numpy.ones((len(data.data), 1))]).astype(numpy.float32)
    whole = len(rows) // jax.process_count() * jax.process_count()
    own = slice(RANK * whole // jax.process_count(), (RANK + 1) * whole // jax.process_count())
    rows = jax.make_array_from_process_local_data(by_row, rows[own])
    labels = jax.make_array_from_process_local_data(by_row, data.target[own].astype(numpy.int32))

    def loss_of(weights, rows, labels):
        scores = jax.nn.log_softmax(rows @ weights)
        return -jax.numpy.take_along_axis(scores, labels[:, None], axis=1).mean()

    @jax.jit
    def step(weights, rows, labels):
        loss, gradient = jax.value_and_grad(loss_of)(weights, rows, labels)
        return weights - RATE * gradient, loss

    start, losses = restore()
    print(f"begins at step {len(losses)} of {STEPS}", flush=True)
    weights = jax.make_array_from_process_local_data(everywhere, start, start.shape)
    while len(losses) < STEPS:
        weights, loss = step(weights, rows, labels)
        losses.append(float(loss))
        print(f"step {len(losses)} of {STEPS}: loss {losses[-1]:.10f}", flush=True)
        if RANK == 0:
            tell(losses)
            if len(losses) % EVERY == 0:
                keep(numpy.asarray(weights), losses)
        time.sleep(PAUSE)

    if RANK == 0 and "TRAINYARD_OUT_MODEL" in os.environ:
        os.makedirs(os.environ["TRAINYARD_OUT_MODEL"])
        numpy.save(os.path.join(os.environ["TRAINYARD_OUT_MODEL"], "weights.npy"), numpy.asarray(weights))
    jax.distributed.shutdown()


if __name__ == "__main__":
    sys.exit(main())
