"""A classifier in plain Python: of the flowers that it has seen, the nearest ones vote. Few neighbours follow every odd flower, and
too many see no species any more."""

import json
from collections import Counter

from flowers import MEASUREMENTS, measurements, read_table
from stage import input_path, output_path, param


def predict(model, values):
    """The species of a flower with these measurements. Of species with equally many votes, that of the nearest flower."""
    by_distance = sorted(model["flowers"], key=lambda flower: sum((a - b) ** 2 for a, b in zip(flower["values"], values)))
    votes = Counter(flower["species"] for flower in by_distance[: model["neighbours"]])
    return votes.most_common(1)[0][0]


def main():
    flowers = [{"values": measurements(row), "species": row["species"]} for row in read_table(input_path("train"))]
    model = {"neighbours": param("neighbours", int), "inputs": MEASUREMENTS, "flowers": flowers}
    folder = output_path("model")
    folder.mkdir()
    (folder / "neighbours.json").write_text(json.dumps(model, indent=1) + "\n", encoding="utf-8")
    print(f"{model['neighbours']} of {len(flowers)} flowers vote")


if __name__ == "__main__":
    main()
