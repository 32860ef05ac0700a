"""Training states in float64, before their first stage, for the tests of the stages."""

from copy import deepcopy

import torch
from numpy.random import RandomState

from skvade import VaDEClusterer
from skvade._data.dataset import Dataset
from skvade._data.device import resolve_device
from skvade._data.scaling import DataSummary, uniform_weights
from skvade._model.likelihoods import LIKELIHOODS
from skvade._model.module import VaDE
from skvade._model.networks import reset_parameters
from skvade._training.state import RandomStreams, TrainingConfig, TrainingState
from skvade._validation import module_params

SETTINGS = {
    "n_clusters": 3,
    "latent_dim": 2,
    "hidden_layer_sizes": (16,),
    "pretraining": "autoencoder",
    "pretrain_max_iter": 20,
    "pretrain_learning_rate_init": 0.3,
    "init": "kmeans",
    "n_init": 1,
    "warmup_max_iter": 2,
    "max_iter": 3,
    "batch_size": 16,
    "learning_rate": "constant",
    "learning_rate_init": 1e-3,
    "beta": 1.0,
    "init_weight": 0.0,
    "tol": 0.0,
}


def make_training_state(X, *, n_validation=0, sample_weight=None, **params):
    """Make the state of a fit with some parameters, its module of fresh weights."""
    estimator = VaDEClusterer(**SETTINGS | params)
    device_config = resolve_device("cpu", "float64")
    random = RandomStreams.from_random_state(RandomState(0), device_config.device)
    if sample_weight is None:
        sample_weight = uniform_weights(len(X))
    summary = DataSummary.from_array(X, sample_weight)
    scaling = summary.scaling(LIKELIHOODS[estimator.likelihood].centered)
    dataset = Dataset.from_array(
        X, scaling, device_config, sample_weight, summary.has_missing
    )
    module = VaDE(**module_params(estimator, X.shape[1]))
    reset_parameters(module, random.shared)
    module.to(device_config.dtype)
    module.likelihood.set_scaling(scaling)
    training, validation = dataset.split(n_validation, random.shuffle)
    config = TrainingConfig(**estimator.get_params(deep=False))
    return TrainingState(module, training, validation, config, random)


def run_stages(state, *stages):
    """Take a training state through some stages."""
    for stage in stages:
        stage(state)
    return state


def all_samples(state):
    """Give the samples that the state is trained on as one batch."""
    return state.dataset.get_batch(torch.arange(len(state.dataset)).numpy())


def copy_parameters(module):
    return deepcopy(module.state_dict())


def changed_parameters(before, module):
    """Give the names of the values that differ from earlier ones."""
    now = module.state_dict()
    return {name for name in now if not torch.equal(before[name], now[name])}
