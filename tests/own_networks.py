"""Networks as a user would write them, where pickles find them; and of the house."""

import numpy as np
import torch
from numpy.testing import assert_array_equal
from torch import nn

from skvade._fitting import fresh_run
from skvade._networks import MLP, Linear


def encoder(n_features_in, latent_dim, width=16):
    """A body of one hidden layer, with all that draws or keeps count of batches."""
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


def house_encoder(n_features_in, latent_dim):
    return MLP([n_features_in, 16], "relu", bfloat16=False)


def house_decoder(latent_dim, n_features_in):
    hidden = MLP([latent_dim, 16], "relu", bfloat16=False)
    return nn.Sequential(hidden, Linear(16, n_features_in))


def assert_same_model(one, other):
    assert one._parameters.keys() == other._parameters.keys()
    for name, values in one._parameters.items():
        assert_array_equal(values, other._parameters[name], err_msg=name)


def run_of(estimator, X):
    return fresh_run(estimator, X, np.ones(len(X)))
