"""Measures the model twice: on the rows held out, which neither it nor its transformer has seen, and by cross-validation within
the training rows, where each fold fits transformer and classifier anew."""

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
from sklearn.model_selection import StratifiedKFold

from stage import input_path, output_directory, param, write_json, write_metric, write_result
from table import SPECIES, numbers, read_table, species


def cross_validate(model, rows, folds, seed):
    """Accuracy of each fold."""
    values, labels = numbers(rows), species(rows)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(values, labels)
    return [clone(model).fit(values[learn], labels[learn]).score(values[test], labels[test]) for learn, test in parts]


def main():
    model = joblib.load(input_path("model") / "model.joblib")
    held_out = read_table(input_path("test"))
    truth, predicted = species(held_out), model.predict(numbers(held_out))
    precision, recall, f1, count = precision_recall_fscore_support(truth, predicted, labels=SPECIES, zero_division=0)
    folds = cross_validate(model, read_table(input_path("train")), param("folds", int), param("seed", int))

    # Without labels, the value that stands in the run's status; precision and recall are means over the species.
    metrics = {
        "accuracy": accuracy_score(truth, predicted),
        "precision": precision.mean(),
        "recall": recall.mean(),
        "cvAccuracyMean": np.mean(folds),
        "cvAccuracySd": np.std(folds, ddof=1),
    }
    for name, value in metrics.items():
        write_metric(name, value)
        print(f"{name:14} {value:.3f}")
    for fold, value in enumerate(folds):
        write_metric("cvAccuracy", value, fold=fold)
    for index, name in enumerate(SPECIES):
        write_metric("precision", precision[index], slice=name)
        write_metric("recall", recall[index], slice=name)
        print(f"{name:14} precision {precision[index]:.3f} recall {recall[index]:.3f} rows {count[index]}")

    directory = output_directory("evaluation")
    write_json(directory / "evaluation.json", {
        "rows": len(held_out),
        "metrics": {name: float(value) for name, value in metrics.items()},
        "folds": [float(value) for value in folds],
        "species": [
            {"name": name, "precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
            for name, p, r, f, n in zip(SPECIES, precision, recall, f1, count)
        ],
    })
    write_json(directory / "confusion.json", {
        "labels": SPECIES,
        "matrix": confusion_matrix(truth, predicted, labels=SPECIES).tolist(),  # a row per true species
    })
    write_result("accuracy", float(metrics["accuracy"]))


if __name__ == "__main__":
    main()
