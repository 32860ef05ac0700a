"""Write the tables of the documentation from the CSV files that the runs left.

python tests/benchmarks/tables.py
"""

import ast
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from methods import METHODS
from scipy.stats import spearmanr

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FILES = DOCS / "benchmarks"
README_DATASETS = [
    *("dermatology", "digits", "sc_pbmc4k", "optdigits", "har", "pendigits", "mnist"),
]
README_METHODS = ["k-means", "GaussianMixture", "UMAP + GaussianMixture", "skvade"]
# The README gives seconds of these methods, by a short name, with this many threads.
README_THREADS = "2"
README_TIMED = {"UMAP, s": "UMAP + GaussianMixture", "skvade, s": "skvade"}
ACCURACY = ["Data (samples)", "Method", "Seeds", "Accuracy", "NMI"]
RECIPES = ["Data (samples)", "Recipe", "Seeds", "Accuracy", "NMI", "Start"]
STAGES = ["Data (samples)", "Seeds", "Start", "End"]
MISSING = [
    "Data (samples)",
    "Missing",
    "Method",
    "Seeds",
    "ARI",
    "Error of imputed entries",
]
COUNTS = ["Data (samples)", "Method", "Seeds", "ARI", "Start"]
COUNTS += ["Error of rates", "Held out"]
REAL_COUNTS = ["Data (samples)", "Method", "Seeds", "Accuracy", "ARI", "NMI", "Start"]
REAL_COUNTS += ["Held out"]
MIXED = ["Data (samples)", "Method", "Seeds", "ARI", "Accuracy", "Start", "Held out"]
MEMORY = ["Data (samples)", "X is", "Memory"]
UNBALANCED = [
    "Data (samples)",
    "n_clusters",
    "Method",
    "Seeds",
    "ARI",
    "F1 of the rarest",
]
UNBALANCED += ["In use", "Warned"]
COVARIANCES = ["Data (samples)", "covariance_type", "Seeds", "Accuracy", "Start"]
COVARIANCES += ["ELBO", "Held-out ELBO"]
NETWORKS = ["Networks", "Epochs", "Seeds", "Accuracy", "Start", "NMI", "ELBO", "Time"]
LARGE_FITS = ["Data (samples)", "Processes", "Seeds", "Accuracy", "ELBO", "Memory"]
SPEED = ["Measure", "Setting", "Ours", "Reference", "Ratio", "Threads"]


# --- Reading and writing ------------------------------------------------------------


def grouped(path, *keys):
    """Group the rows of a CSV, if it exists, by columns, in their order."""
    groups = defaultdict(list)
    if not path.exists():
        return groups
    with path.open() as file:
        for row in csv.DictReader(file):
            groups[tuple(row[key] for key in keys)].append(row)
    return groups


def sorted_groups(path):
    """Group runs by data set and method: small data first, methods in their order."""
    methods = [*METHODS]

    def sort_key(group):
        (dataset, n, method), _ = group
        order = methods.index(method) if method in methods else -1
        return int(n), dataset, order

    groups = grouped(path, "dataset", "n", "method")
    return dict(sorted(groups.items(), key=sort_key))


def column(runs, name):
    return np.array([float(run[name]) for run in runs if run[name]])


def mean_seconds(runs, threads):
    """Average the seconds of the runs that had this number of threads."""
    seconds = column([run for run in runs if run["threads"] == threads], "seconds")
    return seconds.mean() if len(seconds) else np.nan


def brief_seconds(seconds):
    if np.isnan(seconds):
        return "–"
    if seconds < 0.995:
        return f"{seconds:.2f}"
    return f"{seconds:.1f}" if seconds < 9.95 else f"{seconds:,.0f}"


def duration(seconds):
    """Write a time as a user reads it; minutes, where there are several."""
    if np.isnan(seconds):
        return "–"
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.1f} min"


def spread(values):
    mean = f"{values.mean():.3f}"
    return f"{mean} ± {values.std():.3f}" if len(values) > 1 else mean


def is_best(runs, rivals, name):
    """Tell whether the mean is within a standard deviation of the best one."""
    best = max((column(rival, name) for rival in rivals), key=np.mean)
    return column(runs, name).mean() >= best.mean() - best.std()


def spread_in_bold(runs, rivals, name):
    text = spread(column(runs, name))
    return f"**{text}**" if is_best(runs, rivals, name) else text


def data_title(dataset, n):
    return f"{dataset} ({int(n):,})"


def table(lines):
    """Write a simple reStructuredText table, of names and then values."""
    if len(lines) == 1:
        return "Not measured yet."
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    # An empty first cell would continue the row above; none of ours is empty.
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        for cells in lines
    ]
    return "\n".join([rule, text[0].rstrip(), rule, *map(str.rstrip, text[1:]), rule])


def fill(path, name, text):
    """Replace what is between the two comments of that name."""
    begin, end = f".. begin {name}", f".. end {name}"
    before, rest = path.read_text().split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


# --- The methods compared -----------------------------------------------------------


def accuracy_table():
    """Write a line for each data set and method, the best in bold."""
    groups = sorted_groups(FILES / "accuracy.csv")
    lines = []
    for (dataset, n, method), runs in groups.items():
        rivals = [rival for (name, *_), rival in groups.items() if name == dataset]
        lines.append(
            [
                data_title(dataset, n),
                method,
                str(len(runs)),
                spread_in_bold(runs, rivals, "accuracy"),
                spread_in_bold(runs, rivals, "nmi"),
            ]
        )
    return table([ACCURACY, *lines])


def readme_table():
    """Write a line for each data set: accuracy of each method, and seconds of two."""
    groups = grouped(FILES / "accuracy.csv", "dataset", "method")
    timed = grouped(FILES / "timing.csv", "dataset", "method")
    lines = []
    for dataset in README_DATASETS:
        rivals = [groups[dataset, method] for method in README_METHODS]
        cells = [spread_in_bold(runs, rivals, "accuracy") for runs in rivals]
        cells += (
            brief_seconds(mean_seconds(timed[dataset, method], README_THREADS))
            for method in README_TIMED.values()
        )
        lines.append([data_title(dataset, rivals[0][0]["n"]), *cells])
    return table([["Data (samples)", *README_METHODS, *README_TIMED], *lines])


def stages_table():
    """Compare the accuracy of the initial mixture with that of the fitted one."""
    lines = [
        [
            data_title(dataset, n),
            str(len(runs)),
            spread(column(runs, "init_accuracy")),
            spread(column(runs, "accuracy")),
        ]
        for (dataset, n, method), runs in sorted_groups(FILES / "accuracy.csv").items()
        if method == "skvade"
    ]
    return table([STAGES, *lines])


def timing_table():
    """Compare the seconds of methods that ran in turns, a line for each data set."""
    groups = grouped(FILES / "timing.csv", "threads", "dataset", "n", "method")
    keys = dict.fromkeys(key[:3] for key in groups)
    lines = []
    for threads, dataset, n in sorted(keys, key=lambda key: (key[0], int(key[2]))):
        seconds = {
            method: mean_seconds(groups[threads, dataset, n, method], threads)
            for method in README_METHODS
        }
        ratio = seconds["skvade"] / seconds["UMAP + GaussianMixture"]
        cells = [*map(brief_seconds, seconds.values()), f"{ratio:.2f}"]
        lines.append([data_title(dataset, n), threads, *cells])
    return table([["Data (samples)", "Threads", *README_METHODS, "Ratio"], *lines])


def fit_time_table():
    """Write the time of a fit, a line for each number of samples and features."""
    groups = grouped(FILES / "fit_time.csv", "n", "n_features")
    threads = sorted({run["threads"] for runs in groups.values() for run in runs})
    lines = []
    for (n, n_features), runs in sorted(
        groups.items(), key=lambda group: tuple(map(int, group[0]))
    ):
        cells = (duration(mean_seconds(runs, count)) for count in threads)
        lines.append([f"{int(n):,}", f"{int(n_features):,}", *cells])
    head = [f"{count} thread{'' if count == '1' else 's'}" for count in threads]
    return table([["Samples", "Features", *head], *lines])


# --- Experiments --------------------------------------------------------------------


def recipes_table():
    groups = sorted_groups(FILES / "recipes.csv")
    lines = [
        [
            data_title(dataset, n),
            recipe,
            str(len(runs)),
            spread(column(runs, "accuracy")),
            f"{column(runs, 'nmi').mean():.3f}",
            f"{column(runs, 'init_accuracy').mean():.3f}",
        ]
        for (dataset, n, recipe), runs in groups.items()
    ]
    return table([RECIPES, *lines])


def ablation_table():
    """Write a row per change of one parameter, a column per data set."""
    runs = grouped(FILES / "ablation.csv", "dataset", "method")
    datasets = list(dict.fromkeys(dataset for dataset, _ in runs))
    cells = defaultdict(dict)
    for (dataset, change), group in runs.items():
        cells[change][dataset] = spread(column(group, "accuracy"))
    lines = [
        [change, *(found.get(name, "–") for name in datasets)]
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
    lines = [
        ["Data (samples)", "Truth", "ELBO", "Weighted bound", "Silhouette", "Stability"]
    ]
    hits = dict.fromkeys(criteria, 0)
    n_choices = 0
    groups = grouped(FILES / "choosing.csv", "dataset", "true_k")
    for (dataset, truth), runs in groups.items():
        chosen = {criterion: choices(runs, criterion) for criterion in criteria}
        for criterion in criteria:
            hits[criterion] += chosen[criterion].count(int(truth))
        n_choices += len(chosen["elbo"])
        cells = (", ".join(map(str, chosen[criterion])) for criterion in criteria)
        lines.append([data_title(dataset, runs[0]["n"]), truth, *cells])
    found = (f"{hits[criterion]} of {n_choices}" for criterion in criteria)
    return table([*lines, ["found", "–", *found]])


def n_clusters_table():
    """Compare the estimate of the number of clusters with the number of classes."""
    lines = [["Data (samples)", "Classes", "Estimate, for each seed"]]
    groups = grouped(FILES / "n_clusters.csv", "dataset", "true_k")
    for (dataset, truth), runs in groups.items():
        estimates = ", ".join(row["n_clusters"] for row in runs)
        lines.append([data_title(dataset, runs[0]["n"]), truth, estimates])
    return table(lines)


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


def unbalanced_table():
    groups = grouped(FILES / "unbalanced.csv", "dataset", "parameters", "method")
    lines = [
        [
            data_title(dataset, runs[0]["n"]),
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


def even_groups_table():
    """Compare the start without and with the step that makes groups even."""
    head = ["Data", "Seeds", "Accuracy without", "with", "NMI without", "with"]
    lines = [[*head, "Evenness without", "with"]]
    for (dataset,), runs in grouped(FILES / "even_groups.csv", "dataset").items():
        seeds = {run["seed"] for run in runs if run["even"] == "1"}
        runs = [run for run in runs if run["seed"] in seeds]
        halves = [[run for run in runs if run["even"] == even] for even in "01"]
        cells = [
            f"{column(half, name).mean():.3f}"
            for name in ("accuracy", "nmi", "evenness")
            for half in halves
        ]
        title = data_title(dataset, runs[0]["n"])
        lines.append([title, str(len(halves[1])), *cells])
    return table(lines)


def covariances_table():
    """Compare the kinds of covariances, small data first."""
    groups = grouped(FILES / "covariances.csv", "dataset", "n", "covariance_type")
    by_size = sorted(groups.items(), key=lambda group: int(group[0][1]))
    lines = [
        [
            data_title(dataset, n),
            covariance_type,
            str(len(runs)),
            spread(column(runs, "accuracy")),
            f"{column(runs, 'init_accuracy').mean():.3f}",
            f"{column(runs, 'lower_bound').mean():.1f}",
            f"{column(runs, 'held_out_bound').mean():.1f}",
        ]
        for (dataset, n, covariance_type), runs in by_size
    ]
    return table([COVARIANCES, *lines])


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
    groups = grouped(FILES / "data_missing.csv", "dataset", "n", "method", "parameters")
    lines = []
    for (dataset, n, method, parameters), runs in groups.items():
        fraction = ast.literal_eval(parameters)["fraction"]
        ari, error = spread(column(runs, "ari")), column(runs, "error")
        counted = [str(len(runs)), ari, f"{error.mean():.3f}" if len(error) else ""]
        removed = f"{fraction:.0%}" if fraction else "as it came"
        lines.append([data_title(dataset, n), removed, method, *counted])
    return table([MISSING, *sorted(lines)])


def counts_table():
    """Compare the likelihoods on generated counts."""
    groups = grouped(FILES / "counts.csv", "dataset", "n", "method")
    lines = [
        [
            data_title(dataset, n),
            method,
            str(len(runs)),
            spread(column(runs, "ari")),
            spread(column(runs, "start_ari")) if runs[0]["start_ari"] else "–",
            spread(column(runs, "rate_error")),
            f"{column(runs, 'held_out').mean():.1f}" if runs[0]["held_out"] else "–",
        ]
        for (dataset, n, method), runs in groups.items()
        if runs[0]["rate_error"]
    ]
    return table([COUNTS, *sorted(lines, key=lambda line: line[0])])


def real_counts_table():
    """Compare the likelihoods on real counts with methods on components of them."""
    groups = grouped(FILES / "counts.csv", "dataset", "n", "method")
    lines = []
    for (dataset, n, method), runs in groups.items():
        if not runs[0]["accuracy"]:
            continue
        rivals = [rival for (name, *_), rival in groups.items() if name == dataset]
        held_out, start = column(runs, "held_out"), column(runs, "start_ari")
        lines.append(
            [
                data_title(dataset, n),
                method,
                str(len(runs)),
                spread_in_bold(runs, rivals, "accuracy"),
                spread_in_bold(runs, rivals, "ari"),
                spread_in_bold(runs, rivals, "nmi"),
                f"{start.mean():.3f}" if len(start) else "–",
                f"{held_out.mean():.1f}" if len(held_out) else "–",
            ]
        )
    return table([REAL_COUNTS, *sorted(lines)])


def mixed_table():
    """Compare methods for mixed tables, the best in bold."""
    groups = grouped(FILES / "mixed.csv", "dataset", "n", "method")
    lines = []
    for (dataset, n, method), runs in groups.items():
        rivals = [rival for (name, *_), rival in groups.items() if name == dataset]
        has_start, has_score = runs[0]["start_ari"], runs[0]["held_out"]
        lines.append(
            [
                data_title(dataset, n),
                method,
                str(len(runs)),
                spread_in_bold(runs, rivals, "ari"),
                spread_in_bold(runs, rivals, "accuracy"),
                f"{column(runs, 'start_ari').mean():.3f}" if has_start else "–",
                f"{column(runs, 'held_out').mean():.2f}" if has_score else "–",
            ]
        )
    return table([MIXED, *lines])


def memory_table():
    groups = grouped(FILES / "data_memory.csv", "dataset", "n", "method")
    lines = [
        [
            data_title(dataset, n),
            method,
            f"{column(runs, 'peak_mb').mean():.0f} MB",
        ]
        for (dataset, n, method), runs in groups.items()
    ]
    return table([MEMORY, *lines])


def large_fits_table():
    """List fits of many samples; accuracy and bound are means over the seeds."""
    groups = grouped(FILES / "large_fits.csv", "dataset", "n", "processes")
    lines = [
        [
            data_title(dataset, n),
            processes,
            str(len(runs)),
            spread(column(runs, "accuracy")),
            f"{column(runs, 'lower_bound').mean():.2f}",
            f"{column(runs, 'peak_mb').max():.0f} MB",
        ]
        for (dataset, n, processes), runs in groups.items()
    ]
    return table([LARGE_FITS, *sorted(lines, key=lambda line: line[:2])])


# --- Speed --------------------------------------------------------------------------


def speed_table():
    """List the latest row of each measurement, grouped by measure."""
    runs = grouped(FILES / "speed.csv", "measure", "setting", "threads")
    order = list(dict.fromkeys(measure for measure, *_ in runs))
    latest = sorted(runs.items(), key=lambda group: order.index(group[0][0]))
    rows = [group[-1] for _, group in latest]
    lines = [
        [
            row["measure"],
            row["setting"].replace(" 1 seeds", " 1 seed"),
            f"{row['ours']} {row['unit']}",
            f"{row['reference']} {row['unit']}",
            row["ratio"],
            row["threads"],
        ]
        for row in rows
    ]
    return table([SPEED, *lines])


def main():
    fill(ROOT / "README.rst", "results", readme_table())
    pages = {
        "benchmarks.rst": {"accuracy": accuracy_table},
        "performance.rst": {
            "fit-time": fit_time_table,
            "timing": timing_table,
            "large-fits": large_fits_table,
            "memory": memory_table,
            "speed": speed_table,
        },
        "experiments.rst": {
            "stages": stages_table,
            "ablation": ablation_table,
            "recipes": recipes_table,
            "unbalanced": unbalanced_table,
            "even_groups": even_groups_table,
            "missing": missing_table,
            "counts": counts_table,
            "real-counts": real_counts_table,
            "mixed": mixed_table,
            "choosing": choosing_table,
            "criteria": criteria_table,
            "covariances": covariances_table,
            "networks": networks_table,
        },
        "reproducing.rst": {"faults": faults_table},
        "user_guide/n_clusters.rst": {"n_clusters": n_clusters_table},
    }
    for page, tables in pages.items():
        for name, make_table in tables.items():
            fill(DOCS / page, name, make_table())


if __name__ == "__main__":
    main()
