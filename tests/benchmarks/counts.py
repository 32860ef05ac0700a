"""Generated counts: recovery of groups by each likelihood, a CSV row per run.

    python tests/benchmarks/counts.py --seeds 0 1 2

Every method gets the true number of groups. Runs that the CSV already holds are
skipped. A tenth of the samples is held out. "poisson" is left out, since it trains as
"multinomial" does.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from accuracy import append, finished
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer

from skvade import VaDEClusterer, __version__

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "counts.csv"
COLUMNS = ["dataset", "n", "method", "parameters", "seed", "ari", "start_ari"]
COLUMNS += ["rate_error", "held_out", "seconds", "version"]
N_SAMPLES = 300
N_DRAWS = 32  # of the bound on held-out samples
# A quarter of the automatic budgets.
SHORT = {"pretrain_max_iter": 5, "max_iter": 30}


# --- The data -----------------------------------------------------------------------


def genes(rng):
    """Generate overdispersed counts of 100 genes of 5 kinds, of 30-fold depth."""
    y = rng.integers(5, size=N_SAMPLES)
    profiles = np.tile(rng.lognormal(sigma=1.5, size=100), (5, 1))
    for profile in profiles:
        profile[rng.choice(100, 15, replace=False)] *= rng.lognormal(0.9, 0.4, size=15)
    shares = profiles / profiles.sum(1, keepdims=True)
    depth = np.exp(rng.uniform(np.log(50), np.log(1500), N_SAMPLES))
    dispersion = rng.gamma(2, 0.2, size=100)
    noise = rng.gamma(1 / dispersion, dispersion, size=(N_SAMPLES, 100))
    return rng.poisson(depth[:, None] * shares[y] * noise), y, shares


def documents(rng):
    """Generate the words of 5 topics in documents of 10 to 40 words."""
    y = rng.integers(5, size=N_SAMPLES)
    common = 1 / np.arange(1, 201)  # the law of Zipf
    shares = common * rng.lognormal(sigma=1.0, size=(5, 200))
    shares /= shares.sum(1, keepdims=True)
    return rng.multinomial(rng.integers(10, 41, N_SAMPLES), shares[y]), y, shares


DATASETS = {"genes": genes, "documents": documents}


# --- The methods --------------------------------------------------------------------


def log1p_of_shares(X):
    """Make the usual unit: log1p of counts per sample of the average total."""
    return make_pipeline(
        Normalizer("l1"), FunctionTransformer(lambda shares: np.log1p(X * shares))
    )


def mixture_on_components(k, seed):
    return make_pipeline(
        PCA(10, random_state=seed), GaussianMixture(k, n_init=5, random_state=seed)
    )


LIKELIHOODS = ["gaussian", "multinomial", "negative_binomial"]
METHODS = ["PCA + GaussianMixture", *LIKELIHOODS]


def rate_error(expected, shares):
    """Average the total variation distance of expected from true shares."""
    expected = np.maximum(expected, 0)
    totals = np.maximum(expected.sum(1, keepdims=True), 1e-12)
    return 0.5 * np.abs(expected / totals - shares).sum(1).mean()


def run(dataset, name, seed):
    counts, y, shares = DATASETS[dataset](np.random.default_rng(seed))
    counts, k = counts.astype(float), len(shares)
    held_out = np.arange(N_SAMPLES) % 10 == 0
    mean_total = counts[~held_out].sum(1).mean()
    log1p = log1p_of_shares(mean_total)
    is_gaussian = name not in LIKELIHOODS[1:]
    X = log1p.fit_transform(counts) if is_gaussian else counts
    row = dict.fromkeys(COLUMNS, "")
    began = time.perf_counter()
    if name == METHODS[0]:
        model = mixture_on_components(k, seed).fit(X[~held_out])
        labels = model.predict(X[~held_out])
        pooled = [counts[~held_out][labels == c].sum(0) for c in range(k)]
        expected = np.array(pooled)[labels]
    else:
        model = VaDEClusterer(k, likelihood=name, random_state=seed, **SHORT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X[~held_out])
        labels, expected = model.labels_, model.reconstruct(X[~held_out])
        expected = np.expm1(expected) if is_gaussian else expected
        start_ari = adjusted_rand_score(y[~held_out], model.init_labels_)
        row["start_ari"] = f"{start_ari:.4f}"
        if not is_gaussian:
            bounds = model.score_samples(X[held_out], n_draws=N_DRAWS)
            row["held_out"] = f"{bounds.mean():.3f}"
    error = rate_error(expected, shares[y[~held_out]])
    return row | {
        "dataset": dataset,
        "n": N_SAMPLES,
        "method": name,
        "parameters": repr({} if name == METHODS[0] else SHORT),
        "seed": seed,
        "ari": f"{adjusted_rand_score(y[~held_out], labels):.4f}",
        "rate_error": f"{error:.4f}",
        "seconds": f"{time.perf_counter() - began:.1f}",
        "version": __version__,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--datasets", nargs="+", default=[*DATASETS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(10)])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    for seed in options.seeds:
        for dataset in options.datasets:
            for name in options.methods:
                key = (dataset, name, str(seed))
                if key not in finished(options.results, "dataset", "method", "seed"):
                    row = run(dataset, name, seed)
                    append(options.results, COLUMNS, row)
                    print(row, flush=True)


if __name__ == "__main__":
    main()
