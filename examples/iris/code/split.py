"""Holds some rows back, with the same share of each species. This comes before the features are learned: a scaler, a PCA or a
selection that has seen the held-out rows would make the evaluation better than the truth."""

from sklearn.model_selection import train_test_split

from stage import input_path, output_path, param, write_result
from table import read_table, species, write_table


def main():
    rows = read_table(input_path("table"))
    train, test = train_test_split(rows, test_size=param("testShare", float), random_state=param("seed", int), stratify=species(rows))
    for name, part in (("train", train), ("test", test)):
        write_table(output_path(name), part)
        write_result(f"{name}Rows", len(part))
    print(f"{len(train)} rows to learn from, {len(test)} held out")


if __name__ == "__main__":
    main()
