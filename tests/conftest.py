import math
import os
from functools import partial

import numpy as np
import pytest
import torch
from incomplete import with_holes
from own_networks import PlainDecoder, encoder
from sklearn.datasets import make_blobs
from torch import nn

from skvade import VaDEClusterer, _batching
from skvade._mixture import MixturePrior
from skvade._networks import VaDE
from skvade._objective import Posterior

# The processes of pytest-xdist share the cores: threads of theirs would be in the way.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def read_only(array):
    array.setflags(write=False)
    return array


@pytest.fixture(autouse=True)
def fast_bfloat16(monkeypatch):
    """Compute in bfloat16 where asked to, on any machine."""
    monkeypatch.setattr(_batching, "has_fast_bfloat16", lambda device: True)


@pytest.fixture(scope="session")
def blobs():
    """150 rows in 5 dimensions, 3 separated groups; rows and groups, read-only."""
    X, y = make_blobs(150, 5, centers=3, random_state=0)
    return read_only(X), read_only(y)


@pytest.fixture(scope="session")
def X(blobs):
    return blobs[0]


@pytest.fixture(scope="session")
def holed(X):
    """The same rows, three of ten entries missing at random."""
    return read_only(with_holes(X))


@pytest.fixture(scope="session")
def X_unit(X):
    """The same rows in [0, 1], as the Bernoulli likelihood wants them."""
    return read_only((X - X.min(0)) / np.ptp(X, axis=0))


@pytest.fixture(scope="session")
def X_new():
    """700 rows that no model has seen: more than one chunk of an inference."""
    return read_only(make_blobs(700, 5, centers=3, random_state=0)[0])


@pytest.fixture(scope="session")
def tiny():
    """An estimator that goes through all stages in a tenth of a second."""

    def make(**changes):
        by_adam = changes.get("pretraining") == "vae"
        settings = {
            "n_clusters": 3,
            "latent_dim": 2,
            "hidden_layer_sizes": (16,),
            "pretrain_max_iter": 10,
            "pretrain_learning_rate_init": "auto" if by_adam else 0.3,
            "n_init": 1,
            "catch_up_max_iter": 1,
            "max_iter": 3,
            "learning_rate_init": 1e-3,
            "tol": 0,
            "random_state": 0,
        }
        return VaDEClusterer(**settings | changes)

    return make


@pytest.fixture(scope="session")
def fitted(tiny, X):
    """A fitted estimator. It is shared: read it, or change a copy."""
    return tiny().fit(X)


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
    """Mixtures of unequal weights, means and variances."""

    def make(n_components=4, latent_dim=3, reg_covar=1e-3):
        prior = MixturePrior(n_components, latent_dim, reg_covar).double()
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.copy_(normal(*parameter.shape))
        return prior

    return make


@pytest.fixture
def make_posterior(normal):
    def make(n_rows=5, latent_dim=3):
        shape = (n_rows, latent_dim)
        return Posterior(1.5 * normal(*shape), 0.5 * normal(*shape) - 1)

    return make


@pytest.fixture
def make_model(normal):
    """Models of random weights, large enough that a row's answers depend on the row."""

    def make(dtype=torch.float64, **architecture):
        defaults = {
            "n_features": 6,
            "latent_dim": 3,
            "n_clusters": 4,
            "hidden_layer_sizes": (8, 5),
            "activation": "tanh",
            "likelihood": "gaussian",
            "reg_covar": 1e-6,
        }
        model = VaDE(**{**defaults, **architecture})
        with torch.no_grad():
            for part in (model.prior, model.likelihood):
                for parameter in part.parameters():
                    parameter.copy_(normal(*parameter.shape))
            for layer in model.modules():
                if isinstance(layer, nn.Linear):
                    deviation = layer.in_features**-0.5
                    layer.weight.copy_(1.5 * deviation * normal(*layer.weight.shape))
                    layer.bias.copy_(0.5 * normal(*layer.bias.shape))
        return model.to(dtype)

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
def own(tiny):
    """The same with networks of the user's own."""
    # Two networks leave nothing to shape, so the sizes are the default ones.
    sizes = VaDEClusterer().hidden_layer_sizes
    return partial(
        tiny, hidden_layer_sizes=sizes, encoder=encoder, decoder=PlainDecoder
    )


@pytest.fixture(scope="session")
def fitted_own(own, X):
    """Shared: read it, or change a copy."""
    return own().fit(X)
