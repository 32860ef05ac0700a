"""Does any criterion without labels rank runs by their accuracy?

    python tests/benchmarks/criteria.py digits dermatology wine blobs --data FOLDER

Fits each data set once per seed with the default parameters and writes the criteria of
each run beside its accuracy, a CSV row per run. Data sets that the CSV already holds
are skipped. Labels judge and select nothing.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from accuracy import append, finished
from choosing import DATASETS
from scipy.special import entr
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, silhouette_score

from skvade import VaDEClusterer, __version__
from skvade._inference import make_elbo_terms, map_batches
from skvade.metrics import clustering_accuracy

RESULTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "criteria.csv"
# With the sign that should make each rise with the accuracy.
CRITERIA = ["elbo", "latent", "sureness", "stability", "silhouette"]
COLUMNS = ["dataset", "n", "seed", *CRITERIA, "init_accuracy", "accuracy", "version"]


def measures(model, X):
    """Compute ELBO, its latent terms, minus the mean entropy, silhouette."""
    module, dataset = model._module_and_dataset(X)
    elbo_terms = make_elbo_terms(module, model.responsibilities)
    terms = map_batches(module, dataset, elbo_terms).mean(0)
    entropy = entr(model.predict_proba(X)).sum(1).mean()
    silhouette = silhouette_score(model.transform(X), model.labels_)
    return {
        "elbo": f"{terms.sum():.4f}",
        "latent": f"{terms[1:].sum():.4f}",
        "sureness": f"{-entropy:.5f}",
        "silhouette": f"{silhouette:.4f}",
    }


def study(dataset, options):
    """Fit a data set; stability is the mean ARI with the other runs."""
    X, y = DATASETS[dataset](options.data)
    n_clusters = len(np.unique(y))
    models = []
    for seed in range(options.runs):
        models.append(VaDEClusterer(n_clusters, random_state=seed).fit(X))
        print(dataset, seed, flush=True)
    for seed, model in enumerate(models):
        others = [other.labels_ for other in models if other is not model]
        agreement = [adjusted_rand_score(model.labels_, labels) for labels in others]
        yield {
            "dataset": dataset,
            "n": len(X),
            "seed": seed,
            **measures(model, X),
            "stability": f"{np.mean(agreement):.4f}",
            "init_accuracy": f"{clustering_accuracy(y, model.init_labels_):.4f}",
            "accuracy": f"{clustering_accuracy(y, model.labels_):.4f}",
            "version": __version__,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", choices=list(DATASETS))
    parser.add_argument("--data", help="folder of the .npz files")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    for dataset in options.datasets:
        if (dataset,) not in finished(options.results, "dataset"):
            for row in study(dataset, options):
                append(options.results, COLUMNS, row)


if __name__ == "__main__":
    main()
