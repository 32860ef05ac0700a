"""Accuracy of recipes that were found beside the former defaults, a CSV row per run.

    python tests/benchmarks/recipes.py digits pendigits --data FOLDER --seeds 0 1 2
    python tests/benchmarks/recipes.py mnist --data FOLDER --recipes UMAP

*images* and *clothes* are for images in the tens of thousands. With *t-SNE* and *UMAP*
the encoder imitates an embedding. Runs that the CSV already holds are skipped.
"""

from accuracy import RESULTS, make_parser, study
from methods import FORMER, IMAGE_NETWORK, UMAP_COMPONENTS
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline

from skvade import VaDEClusterer

# Parameters of VaDEClusterer that differ from the former defaults.
IMAGES = {
    **IMAGE_NETWORK,
    "pretrain_max_iter": 120,
    "learning_rate_init": 2e-4,
    "mixture_learning_rate_init": 1e-5,
    "beta": 0.1,
    "max_iter": 20,
    "tol": 0,
}
# A variational autoencoder separates clothes better, and a mixture with full
# covariances finds them there. The latent terms keep their weight of pretraining.
CLOTHES = {
    **IMAGES,
    "pretraining": "vae",
    "pretrain_max_iter": 30,
    "pretrain_learning_rate_init": 1e-3,
    "init": GaussianMixture(10, n_init=5),
    "beta": 1.0,
    "max_iter": 10,
}
# Beside an embedding, whose groups are far apart and stay so.
EMBEDDING = {
    "embedding_input": "autoencoder",
    "embedding_max_samples": 70_000,
    "embedding_max_iter": 10,
    "beta": 1.0,
    "max_iter": 10,
}
UMAP_OF_IMAGES = {
    "mnist": {**IMAGES, **EMBEDDING, "pretrain_max_iter": 60},
    "fashion_mnist": {**CLOTHES, **EMBEDDING},
}
# scikit-learn's t-SNE takes minutes for 20,000 samples, and gives two columns.
TSNE_OF_IMAGES = {
    "mnist": {
        **UMAP_OF_IMAGES["mnist"],
        "learning_rate_init": 1e-4,
        "embedding_max_samples": 20_000,
        "embedding_max_iter": 30,
        "latent_dim": 10,
    }
}


def _build(k, seed, parameters):
    shown = {**FORMER, **parameters}
    return VaDEClusterer(k, random_state=seed, **shown), shown


def _images(dataset, k, seed, options):
    return _build(k, seed, IMAGES)


def _clothes(dataset, k, seed, options):
    return _build(k, seed, {**CLOTHES, "init": clone(CLOTHES["init"])})


def _tsne(dataset, k, seed, options):
    more = TSNE_OF_IMAGES.get(dataset, {"latent_dim": 2})
    return _build(k, seed, {"embedding": TSNE(), **more})


def _umap(dataset, k, seed, options):
    from umap import UMAP

    umap = UMAP(n_components=10, min_dist=0.0, n_jobs=1)
    if dataset in UMAP_COMPONENTS:
        umap = make_pipeline(PCA(UMAP_COMPONENTS[dataset]), umap)
    return _build(k, seed, {"embedding": umap, **UMAP_OF_IMAGES.get(dataset, {})})


RECIPES = {"images": _images, "clothes": _clothes, "t-SNE": _tsne, "UMAP": _umap}


def main():
    parser = make_parser(__doc__.partition("\n")[0], RESULTS.with_name("recipes.csv"))
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), required=True)
    options = parser.parse_args()
    study({name: RECIPES[name] for name in options.recipes}, options)


if __name__ == "__main__":
    main()
