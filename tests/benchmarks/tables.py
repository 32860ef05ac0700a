"""Write the tables of the documentation from the CSV files that the runs left.

python tests/benchmarks/tables.py
"""

import ast
import csv
from collections import defaultdict
from operator import itemgetter
from pathlib import Path

import numpy as np
from methods import RECIPES

from skvade import VaDEClusterer

DOCS = Path(__file__).parents[2] / "docs"
FILES = DOCS / "benchmarks"
# Parameters that the name of a method tells, or that change no result.
UNSAID = {"embedding", "latent_dim", "verbose"}
ACCURACY = ["Data", "Method", "Seeds", "Accuracy", "Range", "NMI", "ARI", "Start"]
ACCURACY += ["Time"]
MISSING = ["Data", "Missing", "Method", "Seeds", "ARI", "Error of filled entries"]
MEMORY = ["Data", "X is", "Memory beyond that of sparse X", "Time", "ARI"]
SPEED = ["Measure", "Setting", "Ours", "Reference", "Ratio", "Threads"]


def grouped(path, label):
    """Runs by data set, method and a label of the row, in the order of the file."""
    groups = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            names = [row[name] for name in ("dataset", "n", "method")]
            groups[*names, label(row)].append(row)
    return groups


def special(row):
    """What differs from the recipe of the data set, or from the defaults."""
    if not row["method"].startswith("skvade"):
        return ""
    defaults = VaDEClusterer().get_params()
    usual = {**defaults, **RECIPES.get(row["dataset"], {})}
    actual = {**defaults, **ast.literal_eval(row["parameters"])}
    return ", ".join(
        f"{name}={value!r}"
        for name, value in actual.items()
        if name not in UNSAID and value != usual[name]
    )


def column(runs, name):
    return np.array([float(run[name]) for run in runs if run[name]])


def spread(values):
    mean = f"{values.mean():.3f}"
    return f"{mean} ± {values.std():.3f}" if len(values) > 1 else mean


def line(dataset, n, method, change, runs):
    """A row of the table."""
    accuracy, start = column(runs, "accuracy"), column(runs, "init_accuracy")
    return [
        f"{dataset}, {n} rows",
        f"{method}, {change}" if change else method,
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
    runs = grouped(FILES / "accuracy.csv", special)
    return table([ACCURACY, *(line(*key, group) for key, group in runs.items())])


def ablation_table():
    """A row per change of one parameter, a column per data set."""
    runs = grouped(FILES / "ablation.csv", special)
    datasets = list(dict.fromkeys(dataset for dataset, *_ in runs))
    cells = defaultdict(dict)
    for (dataset, _, _, change), group in runs.items():
        accuracy, start = column(group, "accuracy"), column(group, "init_accuracy")
        cells[change][dataset] = f"{spread(accuracy)} from {start.mean():.3f}"
    lines = [
        [change or "the defaults", *(found.get(name, "–") for name in datasets)]
        for change, found in cells.items()
    ]
    return table([["Change", *datasets], *lines])


def faults_table():
    with (FILES / "faults.csv").open() as file:
        rows = [[*row.values()] for row in csv.DictReader(file)]
    return table([["Fault", "What was measured", "Right", "Faulty"], *rows])


def missing_table():
    """Mean ARI over seeds, and the error of the filled entries, by what is missing."""
    groups = grouped(FILES / "data_missing.csv", itemgetter("parameters"))
    lines = []
    for (dataset, n, method, parameters), runs in groups.items():
        fraction = ast.literal_eval(parameters)["fraction"]
        ari, error = spread(column(runs, "ari")), column(runs, "error").mean()
        counted = [str(len(runs)), ari, f"{error:.3f}"]
        lines.append([f"{dataset}, {n} rows", f"{fraction:.0%}", method, *counted])
    return table([MISSING, *sorted(lines)])


def memory_table():
    groups = grouped(FILES / "data_memory.csv", itemgetter("parameters"))
    lines = [
        [
            f"{dataset}, {n} rows",
            method,
            f"{column(runs, 'peak_mb').mean():.0f} MB",
            f"{column(runs, 'seconds').mean():.0f} s",
            f"{column(runs, 'ari').mean():.3f}",
        ]
        for (dataset, n, method, _), runs in groups.items()
    ]
    return table([MEMORY, *lines])


def speed_table():
    """The latest row of each measurement."""
    with (FILES / "speed.csv").open() as file:
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
    fill("benchmarks.rst", "ablation", ablation_table())
    fill("reproducing.rst", "faults", faults_table())
    fill("benchmarks.rst", "missing", missing_table())
    fill("benchmarks.rst", "memory", memory_table())
    fill("performance.rst", "speed", speed_table())


if __name__ == "__main__":
    main()
