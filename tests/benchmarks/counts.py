"""Counts, generated and real: the likelihoods and other methods, a CSV row per run.

    python tests/benchmarks/counts.py genes documents --seeds 0 1 2
    python tests/benchmarks/counts.py sc_pbmc4k r8 --data FOLDER --seeds 0 1 2

Every method gets the true number of groups. Runs that the CSV already holds are
skipped, so an interrupted study resumes. Labels judge a result and select nothing.

A tenth of the generated samples is held out, a random fifth of the real ones. Real data
are counts of 2,000 features: of genes those whose log1p, of counts per 10,000, varies
most, and of words the most frequent ones. "components" are the first 50 principal
components of this log1p, or 100 of latent semantic analysis for words. "all components"
are those of all features of the file.

"scVI" needs scvi-tools, in an environment of its own:
`pip install -c tests/constraints.txt scvi-tools`.
"""

import argparse
import time
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from accuracy import append, as_text, finished, fitted
from labeled import counts as read_counts
from methods import METHODS as CLUSTERERS
from scipy.sparse import csr_array, csr_matrix
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, normalize

from skvade import VaDEClusterer, __version__
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "counts.csv"
COLUMNS = ["dataset", "n", "method", "parameters", "seed", "accuracy", "ari", "nmi"]
COLUMNS += ["start_ari", "rate_error", "held_out", "seconds", "version"]
N_DRAWS = 32  # of the bound on held-out samples

# --- Generated data -----------------------------------------------------------------

N_SAMPLES = 300
# 500 of 1,000 steps of pretraining, and 30 of some 200 epochs of joint training.
SHORT = {"pretrain_max_iter": 5, "max_iter": 30}


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


GENERATED = {"genes": genes, "documents": documents}


def log1p_of_shares(X):
    """Make the usual unit: log1p of counts per sample of the average total."""
    return make_pipeline(
        Normalizer("l1"), FunctionTransformer(lambda shares: np.log1p(X * shares))
    )


def mixture_on_components(k, seed):
    return make_pipeline(
        PCA(10, random_state=seed), GaussianMixture(k, n_init=5, random_state=seed)
    )


# "poisson" is left out, since it trains as "multinomial" does.
LIKELIHOODS = ["gaussian", "multinomial", "negative_binomial"]
METHODS_ON_GENERATED = ["PCA + GaussianMixture", *LIKELIHOODS]


def rate_error(expected, shares):
    """Average the total variation distance of expected from true shares."""
    expected = np.maximum(expected, 0)
    totals = np.maximum(expected.sum(1, keepdims=True), 1e-12)
    return 0.5 * np.abs(expected / totals - shares).sum(1).mean()


def run_on_generated(dataset, name, seed):
    """Fit once; give the row of the CSV."""
    counts, y, shares = GENERATED[dataset](np.random.default_rng(seed))
    counts, k = counts.astype(float), len(shares)
    held_out = np.arange(N_SAMPLES) % 10 == 0
    mean_total = counts[~held_out].sum(1).mean()
    log1p = log1p_of_shares(mean_total)
    is_gaussian = name not in LIKELIHOODS[1:]
    X = log1p.fit_transform(counts) if is_gaussian else counts
    row = dict.fromkeys(COLUMNS, "")
    began = time.perf_counter()
    if name == METHODS_ON_GENERATED[0]:
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
        "parameters": repr({} if name == METHODS_ON_GENERATED[0] else SHORT),
        "seed": seed,
        "ari": f"{adjusted_rand_score(y[~held_out], labels):.4f}",
        "rate_error": f"{error:.4f}",
        "seconds": f"{time.perf_counter() - began:.1f}",
        "version": __version__,
    }


# --- Real data ----------------------------------------------------------------------

MAX_FEATURES = 2_000


class Counts(NamedTuple):
    """Sparse counts of real samples: of the features chosen, and of all; their classes.

    `to_components` is a transformer of counts.
    """

    X: csr_array
    X_all: csr_array
    y: np.ndarray
    to_components: BaseEstimator


def log1p_per_10_000(X):
    return np.log1p(1e4 * normalize(X, "l1"))


def most_variable(X):
    """Find the features whose log1p varies most, in their order."""
    log1p = log1p_per_10_000(X)
    variance = (log1p**2).mean(0) - np.square(log1p.mean(0))
    return np.sort(np.argsort(-variance, kind="stable")[:MAX_FEATURES])


def cells(name, folder):
    X, arrays = read_counts(folder, name)
    to_components = make_pipeline(
        FunctionTransformer(lambda X: log1p_per_10_000(X).toarray()),
        PCA(50, random_state=0),
    )
    return Counts(X[:, most_variable(X)], X, arrays["y"], to_components)


def news(classes, folder):
    """Load the word counts of news: their words are sorted by frequency."""
    X, arrays = read_counts(folder, "reuters21578_r52")
    y = arrays["y"]
    if classes == "r8":
        X, y = X[arrays["r8"]], y[arrays["r8"]]
    to_components = make_pipeline(
        TfidfTransformer(sublinear_tf=True), TruncatedSVD(100, random_state=0)
    )
    return Counts(X[:, :MAX_FEATURES], X, y, to_components)


REAL = {
    "sc_pbmc4k": partial(cells, "sc_pbmc4k"),
    "sc_worm_neuron": partial(cells, "sc_worm_neuron"),
    "r8": partial(news, "r8"),
    "r52": partial(news, "r52"),
}


class ScVI(ClusterMixin, BaseEstimator):
    """A Gaussian mixture in the latent space of scvi-tools, all at its defaults."""

    def __init__(self, n_clusters, random_state):
        self.n_clusters = n_clusters
        self.random_state = random_state

    def fit(self, X, y=None):
        try:
            import scvi
            from anndata import AnnData
        except ImportError as error:
            raise ImportError(
                "The method 'scVI + GaussianMixture' needs scvi-tools: "
                "pip install -c tests/constraints.txt scvi-tools"
            ) from error
        scvi.settings.seed = self.random_state
        samples = AnnData(csr_matrix(X))
        scvi.model.SCVI.setup_anndata(samples)
        self.model_ = scvi.model.SCVI(samples)
        self.model_.train(enable_progress_bar=False)
        Z = self.model_.get_latent_representation()
        mixture = GaussianMixture(self.n_clusters, random_state=self.random_state)
        self.labels_ = mixture.fit_predict(Z)
        return self

    def score_samples(self, X, n_draws):
        """Compute a bound on the log-probability of each sample, given its total."""
        from anndata import AnnData

        bounds = self.model_.get_marginal_ll(
            AnnData(csr_matrix(X)),
            n_mc_samples=n_draws,
            n_mc_samples_per_pass=n_draws,
            return_mean=False,
        )
        return np.asarray(bounds)


def _after_components(clusterer):
    def make(dataset, data, seed):
        k = len(np.unique(data.y))
        estimator, shown = CLUSTERERS[clusterer](dataset, k, seed, None)
        return make_pipeline(data.to_components, estimator), shown

    return make


def _of_counts(likelihood):
    def make(dataset, data, seed):
        k = len(np.unique(data.y))
        model = VaDEClusterer(k, likelihood=likelihood, random_state=seed)
        return model, {"likelihood": likelihood}

    return make


def _scvi(dataset, data, seed):
    return ScVI(len(np.unique(data.y)), random_state=seed), {}


METHODS_ON_REAL = {
    "components + k-means": _after_components("k-means"),
    "components + GaussianMixture": _after_components("GaussianMixture"),
    "components + skvade": _after_components("skvade"),
    "all components + skvade": _after_components("skvade"),
    "scVI + GaussianMixture": _scvi,
    "multinomial": _of_counts("multinomial"),
    "negative_binomial": _of_counts("negative_binomial"),
    "poisson": _of_counts("poisson"),
}


def methods_of(dataset, wanted):
    """List the methods for a data set, of those wanted; None for all but scVI."""
    methods = METHODS_ON_GENERATED if dataset in GENERATED else METHODS_ON_REAL
    if wanted:
        return [name for name in methods if name in wanted]
    names = [name for name in methods if not name.startswith("scVI")]
    if dataset == "sc_pbmc4k":  # its file holds the most variable genes alone
        names.remove("all components + skvade")
    return names


def run_on_real(dataset, data, name, seed):
    """Fit to four fifths of the samples; give the row of the CSV."""
    train, test = train_test_split(
        np.arange(len(data.y)), test_size=0.2, random_state=seed
    )
    X, y = data.X_all if name.startswith("all") else data.X, data.y[train]
    estimator, shown = METHODS_ON_REAL[name](dataset, data, seed)
    labels, seconds = fitted(estimator, X[train], f"{name} on {dataset}, seed {seed}")
    row = dict.fromkeys(COLUMNS, "") | {
        "dataset": dataset,
        "n": len(data.y),
        "method": name,
        "parameters": as_text(shown),
        "seed": seed,
        "accuracy": f"{clustering_accuracy(y, labels):.4f}",
        "ari": f"{adjusted_rand_score(y, labels):.4f}",
        "nmi": f"{normalized_mutual_info_score(y, labels):.4f}",
        "seconds": f"{seconds:.1f}",
        "version": __version__,
    }
    model = estimator[-1] if name.endswith("+ skvade") else estimator
    if isinstance(model, VaDEClusterer):
        row["start_ari"] = f"{adjusted_rand_score(y, model.init_labels_):.4f}"
    if isinstance(estimator, (VaDEClusterer, ScVI)):
        bounds = estimator.score_samples(X[test], n_draws=N_DRAWS)
        row["held_out"] = f"{bounds.mean():.3f}"
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    datasets, methods = [*GENERATED, *REAL], [*METHODS_ON_GENERATED, *METHODS_ON_REAL]
    parser.add_argument("datasets", nargs="+", choices=datasets)
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(10)])
    parser.add_argument("--methods", nargs="+", choices=methods)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    for dataset in options.datasets:
        data = REAL[dataset](options.data) if dataset in REAL else None
        for seed in options.seeds:
            for name in methods_of(dataset, options.methods):
                key = (dataset, name, str(seed))
                if key in finished(options.results, "dataset", "method", "seed"):
                    continue
                if data is None:
                    row = run_on_generated(dataset, name, seed)
                else:
                    row = run_on_real(dataset, data, name, seed)
                append(options.results, COLUMNS, row)
                print(row, flush=True)


if __name__ == "__main__":
    main()
