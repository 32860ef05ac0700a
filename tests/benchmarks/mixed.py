"""Mixed tables: recovery of groups by the likelihoods of a table, a CSV row per run.

    python tests/benchmarks/mixed.py --seeds 0 1 2
    python tests/benchmarks/mixed.py --datasets dermatology --data FOLDER

Generated tables of four groups that only the numbers, only the categories, or only both
tell apart; of four groups of customers by four numbers, with a plan that goes with the
group and a region that hardly does; and dermatology, whose findings have grades from 0
to 3. Every method gets the true number of groups and standardized numbers. A tenth of
the generated samples is held out. Runs that the CSV already holds are skipped, so an
interrupted study resumes. Labels judge a result and select nothing. Beside skvade it
needs
`pip install -c tests/constraints.txt kmodes stepmix`.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import append, finished
from sklearn.impute import SimpleImputer
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import OneHotEncoder, scale

from skvade import VaDEClusterer, __version__
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "mixed.csv"
COLUMNS = ["dataset", "n", "method", "seed", "ari", "accuracy", "start_ari"]
COLUMNS += ["held_out", "seconds", "version"]
N_SAMPLES = 1000
N_CLUSTERS = 4
N_DRAWS = 32  # of the bound on held-out samples
N_INIT = 5


# --- The data -----------------------------------------------------------------------


def numbers_of(group, n_groups, rng):
    """Generate five overlapping numbers by group."""
    means = rng.normal(scale=1.5, size=(n_groups, 5))
    return means[group] + rng.normal(size=(len(group), 5))


def drawn_categories(group, shares, rng):
    """Draw a category for each sample, by the shares in its group."""
    cumulative = shares[group].cumsum(1)[:, :-1]
    drawn = (rng.random((len(group), 1)) > cumulative).sum(1)
    return np.array(list("abcde"))[drawn]


def categories_of(group, n_groups, rng):
    """Generate eight columns of two to five categories by group."""
    columns = []
    for n_categories in (2, 2, 3, 3, 4, 4, 5, 5):
        shares = rng.dirichlet(np.full(n_categories, 0.5), size=n_groups)
        columns.append(drawn_categories(group, shares, rng))
    return np.column_stack(columns)


def generated(numbers_tell, categories_tell, seed):
    """Generate a table; numbers and categories each tell apart four groups, or two."""
    rng = np.random.default_rng(seed)
    y = rng.integers(N_CLUSTERS, size=N_SAMPLES)
    numbers = numbers_of(numbers_tell(y), 4, rng)
    categories = categories_of(categories_tell(y), 4, rng)
    return scale(numbers), categories, y


def customers(seed, folder):
    """Generate customers by age, logarithm of income, rate of returns and tenure."""
    rng = np.random.default_rng(seed)
    y = rng.choice(N_CLUSTERS, N_SAMPLES, p=[0.35, 0.3, 0.2, 0.15])
    means = [[28, 10.1, 0.1, 6], [45, 11.0, 0.4, 30], [62, 10.5, 0.2, 80]]
    means = np.array([*means, [40, 11.6, 0.7, 40]])
    numbers = rng.normal(means[y], [6, 0.2, 0.1, 8])
    plans = [[0.8, 0.15, 0.05], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.05, 0.15, 0.8]]
    regions = [[0.4, 0.3, 0.2, 0.1], [0.25] * 4, [0.1, 0.2, 0.3, 0.4]]
    regions.append([0.7, 0.1, 0.1, 0.1])
    columns = [
        drawn_categories(y, np.array(shares), rng) for shares in (plans, regions)
    ]
    return scale(numbers), np.column_stack(columns), y


def nothing(y):
    return np.zeros_like(y)


def everything(y):
    return y


DATASETS = {
    "numbers": lambda seed, folder: generated(everything, nothing, seed),
    "categories": lambda seed, folder: generated(nothing, everything, seed),
    "both": lambda seed, folder: generated(lambda y: y % 2, lambda y: y // 2, seed),
    "customers": customers,
}


def dermatology(seed, folder):
    """Load the graded findings, and the age with the mean where it is missing."""
    with np.load(Path(folder) / "dermatology.npz") as arrays:
        X, y = arrays["X"].astype(float), arrays["y"]
    is_grade = np.array([len(np.unique(column)) <= 4 for column in X.T])
    age = scale(SimpleImputer().fit_transform(X[:, ~is_grade]))
    return age, X[:, is_grade].astype(int).astype(str), y


DATASETS["dermatology"] = dermatology


# --- The methods --------------------------------------------------------------------


def as_one_matrix(numbers, categories, held_out):
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    encoder.fit(categories[~held_out])
    return np.column_stack([numbers, encoder.transform(categories)])


def skvade_mixed(numbers, categories, k, seed, held_out):
    table = pd.DataFrame(numbers).join(pd.DataFrame(categories), rsuffix="_")
    table.columns = table.columns.astype(str)
    n_numbers = numbers.shape[1]
    parts = [
        ("gaussian", slice(n_numbers)),
        ("categorical", slice(n_numbers, None)),
    ]
    model = VaDEClusterer(k, likelihood=parts, random_state=seed)
    model.fit(table[~held_out])
    return model.labels_, model, table[held_out]


def skvade_gaussian(numbers, categories, k, seed, held_out):
    X = as_one_matrix(numbers, categories, held_out)
    model = VaDEClusterer(k, random_state=seed).fit(X[~held_out])
    return model.labels_, model, None


def gaussian_mixture(numbers, categories, k, seed, held_out):
    X = as_one_matrix(numbers, categories, held_out)[~held_out]
    model = GaussianMixture(
        k, covariance_type="diag", reg_covar=1e-2, n_init=N_INIT, random_state=seed
    )
    return model.fit_predict(X), None, None


def k_prototypes(numbers, categories, k, seed, held_out):
    from kmodes.kprototypes import KPrototypes

    X = np.column_stack([numbers.astype(object), categories])[~held_out]
    columns = list(range(numbers.shape[1], X.shape[1]))
    model = KPrototypes(k, n_init=N_INIT, random_state=seed)
    return model.fit_predict(X, categorical=columns), None, None


def stepmix(numbers, categories, k, seed, held_out):
    from stepmix import StepMix

    codes = np.column_stack(
        [np.unique(column, return_inverse=True)[1] for column in categories.T]
    )
    names = [f"x{i}" for i in range(numbers.shape[1])]
    table = pd.DataFrame(numbers, columns=names)
    measurement = {"numbers": {"model": "gaussian_diag", "n_columns": len(names)}}
    for column, values in enumerate(codes.T):
        table[f"c{column}"] = values
    measurement["categories"] = {"model": "categorical", "n_columns": codes.shape[1]}
    model = StepMix(
        k, measurement=measurement, n_init=N_INIT, random_state=seed, progress_bar=0
    )
    model.fit(table[~held_out])
    return model.predict(table[~held_out]), model, table[held_out]


METHODS = {
    "skvade mixed": skvade_mixed,
    "skvade gaussian": skvade_gaussian,
    "GaussianMixture": gaussian_mixture,
    "k-prototypes": k_prototypes,
    "stepmix": stepmix,
}


def run(dataset, name, seed, folder):
    numbers, categories, y = DATASETS[dataset](seed, folder)
    held_out = np.arange(len(y)) % 10 == 0
    if dataset == "dermatology":
        held_out[:] = False
    y_train = y[~held_out]
    row = dict.fromkeys(COLUMNS, "")
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels, model, unseen = METHODS[name](
            numbers, categories, len(np.unique(y)), seed, held_out
        )
    row["seconds"] = f"{time.perf_counter() - began:.1f}"
    if hasattr(model, "init_labels_"):
        row["start_ari"] = f"{adjusted_rand_score(y_train, model.init_labels_):.4f}"
    if unseen is not None and len(unseen):
        if isinstance(model, VaDEClusterer):
            score = model.score_samples(unseen, n_draws=N_DRAWS).mean()
        else:
            score = model.score(unseen)
        row["held_out"] = f"{score:.3f}"
    return row | {
        "dataset": dataset,
        "n": len(y),
        "method": name,
        "seed": seed,
        "ari": f"{adjusted_rand_score(y_train, labels):.4f}",
        "accuracy": f"{clustering_accuracy(y_train, labels):.4f}",
        "version": __version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=[*DATASETS])
    parser.add_argument("--data", help="folder of dermatology.npz")
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(10)])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    for seed in options.seeds:
        for dataset in options.datasets:
            for name in options.methods:
                key = (dataset, name, str(seed))
                if key not in finished(options.results, "dataset", "method", "seed"):
                    row = run(dataset, name, seed, options.data)
                    append(options.results, COLUMNS, row)
                    print(row, flush=True)


if __name__ == "__main__":
    main()
