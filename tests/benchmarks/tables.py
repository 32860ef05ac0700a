"""Write the tables of the documentation from the CSV files that the runs left.

python tests/benchmarks/tables.py
"""

import ast
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parents[2] / "docs"
ACCURACY = ["Data", "Method", "Seeds", "Accuracy", "Range", "NMI", "ARI", "Start"]
ACCURACY += ["Time"]
SPEED = ["Measure", "Setting", "Ours", "Reference", "Ratio", "Threads"]


def grouped(path):
    """Runs by data set, method and parameters, in the order of the file."""
    groups = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            names = ("dataset", "n", "method", "parameters")
            groups[tuple(row[name] for name in names)].append(row)
    return groups


def column(runs, name):
    return np.array([float(run[name]) for run in runs if run[name]])


def spread(values):
    mean = f"{values.mean():.3f}"
    return f"{mean} ± {values.std():.3f}" if len(values) > 1 else mean


def recipe(parameters):
    """What tells the recipes of one data set apart."""
    given = ast.literal_eval(parameters)
    if "pretrain_max_iter" not in given:
        return ""
    epochs = f", {given['pretrain_max_iter']} + {given['max_iter']} epochs"
    rate = given.get("mixture_learning_rate_init")
    beta = f", beta {given['beta']}" if "beta" in given else ""
    return epochs + beta + (f", mixture at {rate:g}" if rate else "")


def line(dataset, n, method, parameters, runs):
    """A row of the table."""
    method += recipe(parameters)
    accuracy, start = column(runs, "accuracy"), column(runs, "init_accuracy")
    return [
        f"{dataset}, {n} rows",
        method,
        str(len(runs)),
        spread(accuracy),
        f"{accuracy.min():.3f} – {accuracy.max():.3f}",
        f"{column(runs, 'nmi').mean():.3f}",
        f"{column(runs, 'ari').mean():.3f}",
        f"{start.mean():.3f}" if len(start) else "",
        f"{column(runs, 'seconds').mean():.1f} s",
    ]


def table(lines):
    """A simple reStructuredText table."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    # An empty first cell would continue the row above; none of ours is empty.
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in lines
    ]
    return "\n".join([rule, text[0].rstrip(), rule, *map(str.rstrip, text[1:]), rule])


def accuracy_table():
    runs = grouped(DOCS / "benchmarks" / "accuracy.csv")
    return table([ACCURACY, *(line(*key, group) for key, group in runs.items())])


def speed_table():
    """The latest row of each measurement."""
    with (DOCS / "benchmarks" / "speed.csv").open() as file:
        rows = {(row["measure"], row["setting"]): row for row in csv.DictReader(file)}
    lines = [
        [
            row["measure"],
            row["setting"],
            f"{row['ours']} {row['unit']}",
            f"{row['reference']} {row['unit']}",
            row["ratio"],
            row["threads"],
        ]
        for row in rows.values()
    ]
    return table([SPEED, *lines])


def fill(page, name, text):
    """Replace what stands between the two comments of that name."""
    path = DOCS / page
    begin, end = f".. begin {name}", f".. end {name}"
    before, rest = path.read_text().split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def main():
    fill("benchmarks.rst", "accuracy", accuracy_table())
    fill("performance.rst", "speed", speed_table())


if __name__ == "__main__":
    main()
