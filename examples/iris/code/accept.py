"""Fails the run when the model is not good enough. A stage of its own, so that the evaluation's outputs are kept either way."""

import os

from stage import fail, param


def main():
    accuracy, least = float(os.environ["ACCURACY"]), param("minAccuracy", float)
    if accuracy < least:
        fail(f"accept: accuracy {accuracy:.3f} on the held-out rows is below minAccuracy {least}: the model is not accepted.")
    print(f"accuracy {accuracy:.3f} >= {least}")


if __name__ == "__main__":
    main()
