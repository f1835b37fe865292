"""Fits the classifier that the parameter `algorithm` names, and ships it with the transformer as one model: whoever loads
model.joblib gives it measurements in centimetres and gets species."""

import joblib
import sklearn
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from stage import input_path, output_directory, param, write_json, write_metric
from table import MEASUREMENTS, SPECIES, numbers, read_table, species


def classifier(algorithm, seed):
    return {
        "forest": RandomForestClassifier(n_estimators=100, random_state=seed),
        "logistic": LogisticRegression(max_iter=1000, random_state=seed),
        "svm": SVC(random_state=seed),
    }[algorithm]


def main():
    algorithm, seed = param("algorithm"), param("seed", int)
    rows = read_table(input_path("table"))
    values = numbers(rows, [column for column in rows[0] if column != "species"])
    fitted = classifier(algorithm, seed).fit(values, species(rows))
    model = Pipeline([("transformer", joblib.load(input_path("transformer"))), ("classifier", fitted)])

    directory = output_directory("model")
    joblib.dump(model, directory / "model.joblib")
    write_json(directory / "model.json", {
        "algorithm": algorithm,
        "settings": fitted.get_params(),
        "inputs": MEASUREMENTS,
        "classes": SPECIES,
        "rows": len(rows),
        "scikitLearn": sklearn.__version__,  # load it with the same version
    })
    write_metric("trainAccuracy", fitted.score(values, species(rows)))
    print(f"fitted {algorithm} on {len(rows)} rows")


if __name__ == "__main__":
    main()
