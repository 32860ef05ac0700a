import math
import os
from functools import partial

import numpy as np
import pytest
import torch
from custom_modules import PlainDecoder, make_encoder
from missing_data import remove_entries
from sklearn.datasets import make_blobs
from threadpoolctl import threadpool_limits
from torch import nn

from skvade import VaDEClusterer
from skvade._data import device
from skvade._model.elbo import Posterior
from skvade._model.module import VaDE
from skvade._model.prior import PRIORS

# The processes of pytest-xdist share the cores: threads of theirs would be in the way.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    threadpool_limits(1)  # of OpenMP and BLAS, which scikit-learn uses


def read_only(array):
    array.setflags(write=False)
    return array


@pytest.fixture(autouse=True)
def fast_bfloat16(monkeypatch):
    """Compute in bfloat16 where asked to, on any machine."""
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda device: True)


@pytest.fixture(scope="session")
def blobs():
    """150 samples of 5 features in 3 separated groups, and their groups; read-only."""
    X, y = make_blobs(150, 5, centers=3, random_state=0)
    return read_only(X), read_only(y)


@pytest.fixture(scope="session")
def X(blobs):
    return blobs[0]


@pytest.fixture(scope="session")
def X_missing(X):
    """The same samples, three of ten entries missing at random."""
    return read_only(remove_entries(X))


@pytest.fixture(scope="session")
def X_unit(X):
    """The same samples in [0, 1], as the Bernoulli likelihood wants them."""
    return read_only((X - X.min(0)) / np.ptp(X, axis=0))


@pytest.fixture(scope="session")
def X_new():
    """700 samples that no model was fitted to: more than one chunk of an inference."""
    return read_only(make_blobs(700, 5, centers=3, random_state=0)[0])


# How `make_estimator` pretrains, and what it starts the mixture from. An autoencoder
# takes a tenth of the time of the default: it serves the tests that are about something
# else, while the promises of the estimator are tested with both.
STARTS = {
    "autoencoder": {
        "pretraining": "autoencoder",
        "pretrain_max_iter": 10,
        "pretrain_learning_rate_init": 0.3,
        "init": "kmeans",
    },
    "neighbors": {
        "pretraining": "neighbors",
        "pretrain_max_iter": 1,
        "pretrain_learning_rate_init": "auto",
        "init": "communities",
    },
}
TESTED_WITH_EVERY_START = {
    "test_edge_data",
    "test_missing",
    "test_partial_fit",
    "test_persistence",
    "test_recovery",
    "test_sparse",
    "test_weights",
}


def pytest_generate_tests(metafunc):
    marks = metafunc.definition.iter_markers("parametrize")
    if (
        metafunc.module.__name__ in TESTED_WITH_EVERY_START
        and "start" in metafunc.fixturenames
        and "start" not in [mark.args[0] for mark in marks]
    ):
        metafunc.parametrize("start", [*STARTS], indirect=True, scope="session")


@pytest.fixture(scope="session")
def start(request):
    return getattr(request, "param", "autoencoder")


@pytest.fixture(scope="session")
def make_estimator(start):
    """Estimators that go through all stages in a tenth of a second."""

    def make(**changes):
        pretraining = changes.get("pretraining", start)
        if pretraining not in STARTS:
            pretraining = "autoencoder"
        settings = STARTS[pretraining]
        if changes.get("embedding") and "embedding_input" not in changes:
            # There is no pretraining then, and `fit` warns of its parameters.
            settings = {"init": "kmeans"}
        if changes.get("pretraining") == "vae":
            settings = settings | {"pretrain_learning_rate_init": "auto"}
        settings = {
            **settings,
            "n_clusters": 3,
            "latent_dim": 2,
            "hidden_layer_sizes": (16,),
            "n_init": 1,
            "warmup_max_iter": 1,
            "max_iter": 3,
            "batch_size": 16,
            "learning_rate": "constant",
            "learning_rate_init": 1e-3,
            "tol": 0,
            "random_state": 0,
        }
        return VaDEClusterer(**settings | changes)

    return make


@pytest.fixture(scope="session")
def fitted(make_estimator, X):
    """A fitted estimator. It is shared: read it, or change a copy."""
    return make_estimator().fit(X)


# --- Mathematics, in float64 --------------------------------------------------------


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def normal(generator):
    """Standard normal float64 tensors, a new one each call."""

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return draw


@pytest.fixture
def make_prior(normal):
    """Mixtures of unequal weights, means and covariances."""

    def make(n_components=4, latent_dim=3, reg_covar=1e-3, covariance_type="diag"):
        prior = PRIORS[covariance_type](n_components, latent_dim, reg_covar).double()
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.copy_(normal(*parameter.shape))
        return prior

    return make


@pytest.fixture
def make_posterior(normal):
    def make(n_samples=5, latent_dim=3):
        shape = (n_samples, latent_dim)
        return Posterior(1.5 * normal(*shape), 0.5 * normal(*shape) - 1)

    return make


@pytest.fixture
def make_module(normal):
    """Modules of random weights, so large that outputs depend on the sample."""

    def make(dtype=torch.float64, **params):
        defaults = {
            "n_features": 6,
            "latent_dim": 3,
            "n_clusters": 4,
            "hidden_layer_sizes": (8, 5),
            "activation": "tanh",
            "likelihood": "gaussian",
            "reg_covar": 1e-6,
        }
        module = VaDE(**{**defaults, **params})
        with torch.no_grad():
            for part in (module.prior, module.likelihood):
                for parameter in part.parameters():
                    parameter.copy_(normal(*parameter.shape))
            for layer in module.modules():
                if isinstance(layer, nn.Linear):
                    deviation = layer.in_features**-0.5
                    layer.weight.copy_(1.5 * deviation * normal(*layer.weight.shape))
                    layer.bias.copy_(0.5 * normal(*layer.bias.shape))
        return module.to(dtype)

    return make


@pytest.fixture
def assert_is_mean():
    """Assert that values are the means of draws along the first axis.

    The error of a mean of S draws is their standard deviation over sqrt(S); six of
    these leave chance out. The check is as sharp as its draws are many.
    """

    def check(values, draws):
        standard_error = draws.std(0) / math.sqrt(len(draws))
        assert ((draws.mean(0) - values).abs() <= 6 * standard_error).all()

    return check


@pytest.fixture(scope="session")
def make_custom_estimator(make_estimator):
    """Estimators of the same settings with custom networks."""
    # Two custom networks leave nothing to shape, so the sizes are the default ones.
    sizes = VaDEClusterer().hidden_layer_sizes
    return partial(
        make_estimator,
        hidden_layer_sizes=sizes,
        encoder=make_encoder,
        decoder=PlainDecoder,
    )


@pytest.fixture(scope="session")
def fitted_custom(make_custom_estimator, X):
    """Shared: read it, or change a copy."""
    return make_custom_estimator().fit(X)
