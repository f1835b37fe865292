"""Each TensorFlow worker has a part of the points, and all of them fit one line: the loss that they print is the same."""

import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy
import tensorflow

strategy = tensorflow.distribute.MultiWorkerMirroredStrategy()
config = json.loads(os.environ["TF_CONFIG"])
size, index = len(config["cluster"]["worker"]), config["task"]["index"]
points = numpy.linspace(-1, 1, 64, dtype=numpy.float32)[index::size]
with strategy.scope():
    weight = tensorflow.Variable(0.0, aggregation=tensorflow.VariableAggregation.MEAN)


@tensorflow.function
def step(points):
    def of_replica(points):
        with tensorflow.GradientTape() as tape:
            loss = tensorflow.reduce_mean((weight * points - 3 * points) ** 2)
        weight.assign_sub(0.5 * tape.gradient(loss, weight))
        return loss

    return strategy.reduce("MEAN", strategy.run(of_replica, args=(points,)), axis=None)


for number in range(1, 21):
    print(f"step {number}: loss {float(step(points)):.6f}", flush=True)
print(f"{strategy.num_replicas_in_sync} workers: weight {weight.numpy():.3f}", flush=True)
