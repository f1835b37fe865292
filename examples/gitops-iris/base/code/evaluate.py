"""Measures the model on the flowers that it has not seen. The gate and the registry go by these metrics."""

import json

from flowers import measurements, read_table
from stage import input_path, write_metric
from train import predict


def share(part, whole):
    return len(part) / len(whole) if whole else 0.0


def main():
    model = json.loads((input_path("model") / "neighbours.json").read_text(encoding="utf-8"))
    pairs = [(row["species"], predict(model, measurements(row))) for row in read_table(input_path("test"))]
    species = sorted({truth for truth, _ in pairs})
    right = [pair for pair in pairs if pair[0] == pair[1]]
    precision, recall = [], []
    for name in species:
        hits = [pair for pair in right if pair[0] == name]
        precision.append(share(hits, [pair for pair in pairs if pair[1] == name]))
        recall.append(share(hits, [pair for pair in pairs if pair[0] == name]))
    metrics = {
        "accuracy": share(right, pairs),
        "precision": sum(precision) / len(species),
        "recall": sum(recall) / len(species),
    }
    for name, value in metrics.items():
        write_metric(name, value)
        print(f"{name:9} {value:.3f}")


if __name__ == "__main__":
    main()
