"""Custom networks where pickles find them, and helpers for fits with them."""

import torch
from numpy.testing import assert_array_equal
from torch import nn

from skvade._data.scaling import uniform_weights
from skvade._model.networks import MLP, Linear
from skvade._state import init_training


def make_encoder(n_features_in, latent_dim, width=16):
    """Build one hidden layer, with layers that draw or keep batch statistics."""
    return nn.Sequential(
        nn.Linear(n_features_in, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(0.1),
    )


class PlainDecoder(nn.Module):
    def __init__(self, latent_dim, n_features_in):
        super().__init__()
        self.hidden = nn.Linear(latent_dim, 16)
        self.output = nn.Linear(16, n_features_in)

    def forward(self, z):
        return self.output(torch.tanh(self.hidden(z)))


def make_default_encoder(n_features_in, latent_dim):
    return MLP([n_features_in, 16], "relu", bfloat16=False)


def make_default_decoder(latent_dim, n_features_in):
    hidden = MLP([latent_dim, 16], "relu", bfloat16=False)
    return nn.Sequential(hidden, Linear(16, n_features_in))


def assert_same_networks(one, other):
    for part in ("encoder", "decoder"):
        arrays, expected = one._network_state[part], other._network_state[part]
        assert arrays.keys() == expected.keys()
        for name, values in arrays.items():
            assert_array_equal(values, expected[name], err_msg=f"{part}.{name}")


def make_state(estimator, X):
    """Start a training run without weights."""
    return init_training(estimator, X, uniform_weights(len(X)))
