"""Write the tables of docs/benchmarks.rst from the CSV files that the runs left.

python tests/benchmarks/tables.py
"""

import ast
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = ".. begin accuracy", ".. end accuracy"
HEADER = ["Data", "Method", "Seeds", "Accuracy", "Range", "NMI", "ARI", "Start", "Time"]


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


def line(dataset, n, method, parameters, runs):
    """A row of the table; beta tells recipes of one data set apart."""
    beta = ast.literal_eval(parameters).get("beta")
    method = f"{method}, beta={beta}" if beta else method
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


def main():
    runs = grouped(DOCS / "benchmarks" / "accuracy.csv")
    lines = [HEADER, *(line(*key, group) for key, group in runs.items())]
    page = DOCS / "benchmarks.rst"
    text = page.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{table(lines)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
