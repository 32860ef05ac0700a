"""Write the tables of the documentation from the CSV files that the runs left.

python tests/benchmarks/tables.py
"""

import argparse
import ast
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from methods import FORMER, METHODS, build
from scipy.stats import spearmanr

from skvade import VaDEClusterer

DOCS = Path(__file__).parents[2] / "docs"
FILES = DOCS / "benchmarks"
# Parameters that change no result.
OMITTED = {"verbose"}
RUN = ("dataset", "n", "method")
ACCURACY = ["Data", "Method", "Seeds", "Accuracy", "Range", "NMI", "ARI", "Start"]
ACCURACY += ["On embedding", "Time"]
DEFAULTS = ["Data", "Seeds", "Accuracy", "Range", "NMI", "Start", "CPU time"]
MISSING = ["Data", "Missing", "Method", "Seeds", "ARI", "Error of filled entries"]
MEMORY = ["Data", "X is", "Memory beyond that of sparse X", "Time", "ARI"]
UNBALANCED = ["Data", "n_clusters", "Method", "Seeds", "ARI", "F1 of the rarest"]
UNBALANCED += ["In use", "Warned"]
NETWORKS = ["Networks", "Epochs", "Seeds", "Accuracy", "Start", "NMI", "ELBO", "Time"]
RESTARTS = ["Data", "Embedding", "Start", "One restart", "Best of ten"]
RESTARTS += ["Rank correlation"]
SPEED = ["Measure", "Setting", "Ours", "Reference", "Ratio", "Threads"]


def grouped(path, *keys):
    """Group the rows of a CSV by columns, or functions of a row, in their order."""
    groups = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            values = (key(row) if callable(key) else row[key] for key in keys)
            groups[tuple(values)].append(row)
    return groups


def special(row):
    """List what differs from the recipe of the data set, or from the former defaults.

    What a row does not name was a former default when it was run.
    """
    if "skvade" not in row["method"]:
        return ""
    defaults = {**VaDEClusterer().get_params(), **FORMER}
    unchanged = argparse.Namespace(change={})
    _, recipe = build(row["method"], row["dataset"], 1, 0, unchanged)
    usual = {**defaults, **recipe}
    actual = {**defaults, **ast.literal_eval(row["parameters"])}
    return ", ".join(
        f"{name}={_brief(value)}"
        for name, value in actual.items()
        if name not in OMITTED and value != usual[name]
    )


def _brief(value):
    """Write a value as in code; of an estimator, text in the CSV, the name alone."""
    is_estimator = isinstance(value, str) and "(" in value
    return value.partition("(")[0] if is_estimator else repr(value)


def column(runs, name):
    return np.array([float(run[name]) for run in runs if run[name]])


def spread(values):
    mean = f"{values.mean():.3f}"
    return f"{mean} ± {values.std():.3f}" if len(values) > 1 else mean


def line(dataset, n, method, change, runs):
    """Write a row of the table."""
    accuracy, start = column(runs, "accuracy"), column(runs, "init_accuracy")
    on_embedding = column(runs, "embedding_accuracy")
    return [
        f"{dataset}, {n} rows",
        f"{method}, {change}" if change else method,
        str(len(runs)),
        spread(accuracy),
        f"{accuracy.min():.3f} – {accuracy.max():.3f}",
        f"{column(runs, 'nmi').mean():.3f}",
        f"{column(runs, 'ari').mean():.3f}",
        f"{start.mean():.3f}" if len(start) else "",
        spread(on_embedding) if len(on_embedding) else "",
        f"{column(runs, 'seconds').mean():.1f} s",
    ]


def table(lines):
    """Write a simple reStructuredText table."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    # An empty first cell would continue the row above; none of ours is empty.
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in lines
    ]
    return "\n".join([rule, text[0].rstrip(), rule, *map(str.rstrip, text[1:]), rule])


def accuracy_table():
    """List small data first, the methods as the benchmark lists them."""
    runs = grouped(FILES / "accuracy.csv", *RUN, special)
    methods = [*METHODS]

    def sort_key(group):
        (dataset, n, method, _), _ = group
        return int(n), dataset, methods.index(method)

    groups = sorted(runs.items(), key=sort_key)
    return table([ACCURACY, *(line(*key, group) for key, group in groups)])


def defaults_table():
    """Write a row per data set for the default parameters, small data first."""
    groups = grouped(FILES / "defaults.csv", "dataset", "n")
    lines = []
    for (dataset, n), runs in sorted(
        groups.items(), key=lambda group: int(group[0][1])
    ):
        accuracy = column(runs, "accuracy")
        lines.append(
            [
                f"{dataset}, {n} rows",
                str(len(runs)),
                spread(accuracy),
                f"{accuracy.min():.3f} – {accuracy.max():.3f}",
                spread(column(runs, "nmi")),
                f"{column(runs, 'init_accuracy').mean():.3f}",
                f"{column(runs, 'cpu_seconds').mean():.1f} s",
            ]
        )
    return table([DEFAULTS, *lines])


def ablation_table():
    """Write a row per change of one parameter, a column per data set."""
    runs = grouped(FILES / "ablation.csv", *RUN, special)
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


def choices(runs, criterion):
    """Give the number of clusters that a criterion prefers, for each seed."""
    by_seed = defaultdict(list)
    for row in runs:
        by_seed[row["seed"]].append((float(row[criterion]), int(row["n_clusters"])))
    return [max(rows)[1] for rows in by_seed.values()]


def choosing_table():
    """List what each criterion chooses, a number per seed."""
    criteria = ["elbo", "weighted_bound", "silhouette", "stability"]
    lines = [["Data", "Truth", "ELBO", "Weighted bound", "Silhouette", "Stability"]]
    hits = dict.fromkeys(criteria, 0)
    n_choices = 0
    groups = grouped(FILES / "choosing.csv", "dataset", "true_k")
    for (dataset, truth), runs in groups.items():
        chosen = {criterion: choices(runs, criterion) for criterion in criteria}
        for criterion in criteria:
            hits[criterion] += chosen[criterion].count(int(truth))
        n_choices += len(chosen["elbo"])
        cells = (", ".join(map(str, chosen[criterion])) for criterion in criteria)
        lines.append([f"{dataset}, {runs[0]['n']} rows", truth, *cells])
    found = (f"{hits[criterion]} of {n_choices}" for criterion in criteria)
    return table([*lines, ["found", "–", *found]])


def criteria_table():
    """Correlate the ranks of each criterion with those of the accuracy."""
    criteria = ["elbo", "latent", "sureness", "stability", "silhouette"]
    head = ["Data", "Runs", "Accuracy", "ELBO", "Latent terms", "Sureness"]
    lines = [[*head, "Stability", "Silhouette"]]
    for (dataset,), runs in grouped(FILES / "criteria.csv", "dataset").items():
        accuracy = column(runs, "accuracy")
        ranks = (spearmanr(column(runs, c), accuracy).statistic for c in criteria)
        cells = (f"{rank:+.2f}" for rank in ranks)
        lines.append([dataset, str(len(runs)), spread(accuracy), *cells])
    return table(lines)


def best_of(runs, n_restarts):
    """Give the accuracy of the best of every `n_restarts` by the criterion."""
    parts = (runs[i : i + n_restarts] for i in range(0, len(runs), n_restarts))
    chosen = (max(part, key=lambda run: float(run["criterion"])) for part in parts)
    return [float(run["accuracy"]) for run in chosen]


def restarts_table():
    """Compare the criterion that chooses among restarts with their accuracy."""
    lines = []
    groups = grouped(FILES / "restarts.csv", "dataset", "n", "embedding", "init")
    for (dataset, n, embedding, init), runs in groups.items():
        by_seed = defaultdict(list)
        for run in runs:
            by_seed[run["seed"]].append(run)
        ranks = (
            spearmanr(column(group, "criterion"), column(group, "accuracy")).statistic
            for group in by_seed.values()
        )
        best = np.concatenate([best_of(group, 10) for group in by_seed.values()])
        lines.append(
            [
                f"{dataset}, {n} rows",
                embedding,
                init,
                spread(column(runs, "accuracy")),
                spread(best),
                ", ".join(f"{rank:+.2f}" for rank in ranks),
            ]
        )
    return table([RESTARTS, *lines])


def unbalanced_table():
    groups = grouped(FILES / "unbalanced.csv", "dataset", "parameters", "method")
    lines = [
        [
            f"{dataset}, {runs[0]['n']} rows",
            str(ast.literal_eval(parameters)["n_clusters"]),
            method,
            str(len(runs)),
            spread(column(runs, "ari")),
            spread(column(runs, "rarest_f1")),
            f"{column(runs, 'clusters_in_use').mean():.1f}",
            str(np.count_nonzero(column(runs, "warned"))),
        ]
        for (dataset, parameters, method), runs in groups.items()
    ]
    return table([UNBALANCED, *lines])


def networks_table():
    """Compare custom networks with the default ones."""
    groups = grouped(
        FILES / "own_networks.csv", "networks", "pretrain_epochs", "epochs"
    )
    lines = [
        [
            networks,
            f"{pretraining} + {training}",
            str(len(runs)),
            spread(column(runs, "accuracy")),
            f"{column(runs, 'init_accuracy').mean():.3f}",
            f"{column(runs, 'nmi').mean():.3f}",
            f"{column(runs, 'elbo').mean():.1f}",
            f"{column(runs, 'seconds').mean():.0f} s",
        ]
        for (networks, pretraining, training), runs in groups.items()
    ]
    return table([NETWORKS, *lines])


def faults_table():
    with (FILES / "faults.csv").open() as file:
        rows = [[*row.values()] for row in csv.DictReader(file)]
    return table([["Fault", "What was measured", "Right", "Faulty"], *rows])


def missing_table():
    """Average ARI and the error of imputed entries, by the fraction missing."""
    groups = grouped(FILES / "data_missing.csv", *RUN, "parameters")
    lines = []
    for (dataset, n, method, parameters), runs in groups.items():
        fraction = ast.literal_eval(parameters)["fraction"]
        ari, error = spread(column(runs, "ari")), column(runs, "error")
        counted = [str(len(runs)), ari, f"{error.mean():.3f}" if len(error) else ""]
        removed = f"{fraction:.0%}" if fraction else "as it came"
        lines.append([f"{dataset}, {n} rows", removed, method, *counted])
    return table([MISSING, *sorted(lines)])


def memory_table():
    groups = grouped(FILES / "data_memory.csv", *RUN, "parameters")
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


def file_table():
    """List the private memory of a fit of a file, at ten times and at its peak."""
    with (FILES / "data_file.csv").open() as file:
        rows = list(csv.DictReader(file))
    memory = column(rows, "private_mb")
    shown = [(row, "") for row in rows[:: -(-len(rows) // 10)]]
    shown.append((rows[int(memory.argmax())], ", the highest"))
    cells = [
        [f"{row['second']} s{why}", f"{row['private_mb']} MB"] for row, why in shown
    ]
    return table([["After", "Private memory"], *cells])


def speed_table():
    """List the latest row of each measurement, grouped by measure."""
    runs = grouped(FILES / "speed.csv", "measure", "setting", "threads")
    order = list(dict.fromkeys(measure for measure, *_ in runs))
    latest = sorted(runs.items(), key=lambda group: order.index(group[0][0]))
    rows = [group[-1] for _, group in latest]
    lines = [
        [
            row["measure"],
            row["setting"],
            f"{row['ours']} {row['unit']}",
            f"{row['reference']} {row['unit']}",
            row["ratio"],
            row["threads"],
        ]
        for row in rows
    ]
    return table([SPEED, *lines])


def fill(page, name, text):
    """Replace what is between the two comments of that name."""
    path = DOCS / page
    begin, end = f".. begin {name}", f".. end {name}"
    before, rest = path.read_text().split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def main():
    fill("benchmarks.rst", "defaults", defaults_table())
    fill("benchmarks.rst", "accuracy", accuracy_table())
    fill("benchmarks.rst", "ablation", ablation_table())
    fill("reproducing.rst", "faults", faults_table())
    fill("benchmarks.rst", "missing", missing_table())
    fill("benchmarks.rst", "memory", memory_table())
    fill("benchmarks.rst", "file", file_table())
    fill("benchmarks.rst", "unbalanced", unbalanced_table())
    fill("benchmarks.rst", "networks", networks_table())
    fill("benchmarks.rst", "choosing", choosing_table())
    fill("benchmarks.rst", "criteria", criteria_table())
    fill("benchmarks.rst", "restarts", restarts_table())
    fill("performance.rst", "speed", speed_table())


if __name__ == "__main__":
    main()
