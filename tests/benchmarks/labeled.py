"""Labeled data for the benchmarks, scaled as a user would scale them.

`load(name, folder)` reads FOLDER/<name>.npz: dense sets hold `X` and `y`, sparse ones
the arrays of a CSR matrix and `y`. Digits come with scikit-learn.
"""

from pathlib import Path

import numpy as np
from scipy.sparse import csr_array
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, minmax_scale
from sklearn.utils import resample

__all__ = ["DATASETS", "counts", "incomplete", "load"]


def _arrays(folder, name):
    with np.load(Path(folder) / f"{name}.npz") as arrays:
        return dict(arrays)


def counts(folder, name):
    """Load sparse counts, and all arrays of the file."""
    arrays = _arrays(folder, name)
    parts = arrays["data"].astype(np.float32), arrays["indices"], arrays["indptr"]
    return csr_array(parts, shape=tuple(arrays["shape"])), arrays


def _digits(folder):
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def _bytes(name):
    """Load images of 8 bits as intensities."""

    def read(folder):
        arrays = _arrays(folder, name)
        return arrays["X"] / np.float32(255), arrays["y"]

    return read


def _subsample(read_all, n_samples):
    """Load a random subset, the same every time."""

    def read(folder):
        return resample(
            *read_all(folder), replace=False, n_samples=n_samples, random_state=0
        )

    return read


def _to_unit(name):
    """Load features of one kind, scaled to [0, 1] together."""

    def read(folder):
        arrays = _arrays(folder, name)
        X = arrays["X"].astype(np.float64)
        return (X - X.min()) / np.ptp(X), arrays["y"]

    return read


def incomplete(folder, name):
    """Load features in different units, NaN where an entry is missing."""
    arrays = _arrays(folder, name)
    return StandardScaler().fit_transform(arrays["X"].astype(np.float64)), arrays["y"]


def _standardized(name):
    """Load features in different units, missing values replaced by the mean."""

    def read(folder):
        arrays = _arrays(folder, name)
        scale = make_pipeline(SimpleImputer(), StandardScaler())
        return scale.fit_transform(arrays["X"].astype(np.float64)), arrays["y"]

    return read


def _shuttle(folder):
    """Load sensor readings, a few extreme ones clipped at percentiles 0.1 and 99.9."""
    arrays = _arrays(folder, "shuttle")
    X = arrays["X"].astype(np.float64)
    low, high = np.percentile(X, [0.1, 99.9], axis=0)
    return minmax_scale(X.clip(low, high)), arrays["y"]


def _reuters(only_r8):
    """Load word counts as the first 100 components of latent semantic analysis."""

    def read(folder):
        X, arrays = counts(folder, "reuters21578_r52")
        documents = arrays["r8"] if only_r8 else slice(None)
        X = TfidfTransformer(sublinear_tf=True).fit_transform(X[documents])
        X = TruncatedSVD(100, random_state=0).fit_transform(X)
        return X, arrays["y"][documents]

    return read


def _cells(name):
    """Load the first 50 principal components of log(1 + counts per 10,000)."""

    def read(folder):
        X, arrays = counts(folder, name)
        X = X.toarray()
        X *= 1e4 / np.maximum(X.sum(axis=1, keepdims=True), 1)
        X = PCA(50, random_state=0).fit_transform(np.log1p(X))
        return X, arrays["y"]

    return read


DATASETS = {
    "digits": _digits,
    "dermatology": _standardized("dermatology"),
    "optdigits": _to_unit("optdigits"),
    "pendigits": _to_unit("pendigits"),
    "sc_pbmc4k": _cells("sc_pbmc4k"),
    "sc_worm_neuron": _cells("sc_worm_neuron"),
    "r8": _reuters(only_r8=True),
    "r52": _reuters(only_r8=False),
    "har": _to_unit("har"),
    "shuttle": _shuttle,
    "fashion_mnist": _bytes("fashion_mnist"),
    "fashion_10k": _subsample(_bytes("fashion_mnist"), 10_000),
    "mnist_10k": _subsample(_bytes("mnist"), 10_000),
    "mnist": _bytes("mnist"),
}


def load(name, folder):
    """Load samples and their classes."""
    X, y = DATASETS[name](folder)
    return np.ascontiguousarray(X, dtype=np.float32), y
