"""Learns the features from the training rows: gaps filled with the median, scaled, then the first principal components beside
the measurements that tell the species apart best. The fitted transformer is an output: it becomes a part of the model, so that
a prediction goes through exactly what the training data went through."""

import joblib
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.impute import SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import StandardScaler

from stage import input_path, output_path, param, write_metric, write_result
from table import MEASUREMENTS, numbers, read_table, species, write_table


def transformer(components, best):
    return Pipeline([
        ("fill", SimpleImputer(strategy="median")),
        ("scale", StandardScaler()),
        ("features", FeatureUnion([
            ("pca", PCA(n_components=components, svd_solver="full")),
            ("best", SelectKBest(f_classif, k=best)),
        ])),
    ])


def main():
    rows = read_table(input_path("train"))
    fitted = transformer(param("components", int), param("bestColumns", int))
    values = fitted.fit_transform(numbers(rows), species(rows))

    pca, best = (part for _, part in fitted["features"].transformer_list)
    selected = [MEASUREMENTS[index] for index in best.get_support(indices=True)]
    columns = [f"component_{index}" for index in range(1, pca.n_components_ + 1)] + [f"scaled_{name}" for name in selected]

    joblib.dump(fitted, output_path("transformer"))
    write_table(
        output_path("table"),
        [{**dict(zip(columns, map(float, line))), "species": row["species"]} for line, row in zip(values, rows)],
        [*columns, "species"],
    )
    write_result("selected", selected)
    write_metric("explainedVariance", pca.explained_variance_ratio_.sum())
    print(f"{pca.n_components_} components keep {pca.explained_variance_ratio_.sum():.1%} of the variance; selected {', '.join(selected)}")


if __name__ == "__main__":
    main()
