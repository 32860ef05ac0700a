"""Between the estimator and a training run: how one starts, and what it leaves behind.

The fitted state is NumPy alone. What the mixture and the likelihood have learned are
the public attributes (`weights_`, `means_`, `covariances_`, `noise_variance_`);
`_network_state` holds the networks, `_scaling` how X was standardized. Every module for
a prediction is built from these, by `PredictionMixin._make_module`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import entropy
from sklearn.utils import check_random_state

from skvade._data.dataset import Dataset
from skvade._data.device import DeviceConfig, resolve_device
from skvade._data.process_group import SINGLE_PROCESS, ProcessGroup
from skvade._data.scaling import (
    DataSummary,
    Scaling,
    WeightStatistics,
    normalize_weights,
)
from skvade._data_validation import (
    check_data,
    check_values,
    feature_names,
    warn_feature_scales,
    warn_no_counts,
    warn_placeholders,
    warn_sample_numbers,
)
from skvade._inference import (
    AssignmentSummary,
    mean_elbo,
    predict_labels,
    summarize_assignments,
)
from skvade._model.arrays import state_dict_to_numpy
from skvade._model.module import VaDE
from skvade._model.networks import reset_parameters
from skvade._prediction import PredictionMixin
from skvade._training.joint import default_beta, n_joint_epochs
from skvade._training.neighbor_embedding import n_neighbor_epochs
from skvade._training.state import (
    MAX_SEED,
    History,
    RandomStreams,
    TrainingConfig,
    TrainingState,
    has_trained_decoder,
)
from skvade._validation import (
    check_same_module_params,
    check_shares,
    labels_from_init,
    module_params,
    n_validation_samples,
)
from skvade._version import __version__

__all__ = [
    "init_training",
    "make_config",
    "rebuild_training",
    "reset_fitted_attributes",
    "restore_on_error",
    "resume_fit",
    "resume_partial_fit",
    "set_fitted_attributes",
    "snapshot",
]

PRETRAIN_MAX_ITER = 10  # epochs of an autoencoder, where `pretrain_max_iter` is "auto"


@contextmanager
def restore_on_error(estimator: PredictionMixin) -> Iterator[None]:
    """Give an estimator its former state back if the block fails."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        estimator.__dict__ = before
        raise


# --- The start of a training run ----------------------------------------------------


def make_config(
    estimator: PredictionMixin, n_samples: int, n_features: int
) -> TrainingConfig:
    """Collect the parameters of the estimator, with what "auto" stands for."""
    # By scikit-learn's convention: a subclass may have more parameters, or fewer.
    params = {k: v for k, v in vars(estimator).items() if k.strip("_") == k}
    config = TrainingConfig(**params)
    if config.batch_size == "auto":
        config.batch_size = min(256, max(128, n_samples // 16))
    if config.pretrain_max_iter == "auto":
        config.pretrain_max_iter = PRETRAIN_MAX_ITER
        if config.pretraining == "neighbors":
            config.pretrain_max_iter = n_neighbor_epochs(n_samples)
    n_warmup, n_joint = n_joint_epochs(n_samples, config.batch_size)
    if config.warmup_max_iter == "auto":
        config.warmup_max_iter = n_warmup
    if config.max_iter == "auto":
        config.max_iter = n_joint
    if config.beta == "auto":
        table = estimator._table
        config.beta = default_beta(n_features if table is None else len(table.names))
    if config.init_weight == "auto":
        config.init_weight = float(config.pretraining == "neighbors")
    labels = labels_from_init(config.init)
    if labels is not None:
        config.init = labels
    return config


def init_training(
    estimator: PredictionMixin,
    X: NDArray | csr_array,
    sample_weight: NDArray,
    group: ProcessGroup = SINGLE_PROCESS,
) -> TrainingState:
    """Start from fresh weights, those of the first process."""
    device_config = resolve_device(estimator.device, estimator.precision)
    random_state = check_random_state(estimator.random_state)
    random = RandomStreams.from_random_state(random_state, device_config.device, group)
    statistics = WeightStatistics().update(sample_weight, group)
    sample_weight = normalize_weights(sample_weight, statistics.mean)
    names = feature_names(estimator)
    summary = DataSummary.from_array(X, sample_weight, group, names=names)
    likelihood, table = estimator.likelihood, estimator._table
    empty = check_values(likelihood, X, table, names)
    module = _build_module(estimator, X.shape[1], device_config, random)
    scaling = module.likelihood.make_scaling(X, sample_weight, summary, group)
    dtypes = device_config.dtype, X.dtype
    check_data(likelihood, summary, scaling, *dtypes, table=table)
    warn_no_counts(empty[sample_weight[empty] > 0], scaling, X.shape[0])
    if not group.rank:  # the first process warns for all
        warn_feature_scales(likelihood, X, summary)
        warn_sample_numbers(X, summary)
        warn_placeholders(X, summary)
    dataset = Dataset.from_array(
        X, scaling, device_config, sample_weight, summary.has_missing
    )
    dataset = dataset.cache_on_device().drop_zero_weight()
    reset_parameters(module, random.shared)
    module.to(device_config.device, device_config.dtype)
    module.likelihood.set_scaling(scaling)
    group.broadcast_(module.state_dict().values())
    return _training_state(
        estimator, module, dataset, random, History(), statistics, group
    )


def resume_fit(
    estimator: PredictionMixin,
    X: NDArray | csr_array,
    sample_weight: NDArray,
    group: ProcessGroup = SINGLE_PROCESS,
) -> TrainingState:
    """Go on from the fitted model, for a warm start."""
    check_same_module_params(estimator, estimator._module_params, "warm_start=True")
    random_state = check_random_state(estimator.random_state)
    statistics = WeightStatistics()
    state = _resume(estimator, X, sample_weight, statistics, random_state, group)
    state.warm_started = True
    return state


def resume_partial_fit(
    estimator: PredictionMixin,
    X: NDArray | csr_array,
    sample_weight: NDArray,
    group: ProcessGroup = SINGLE_PROCESS,
) -> TrainingState:
    """Go on from the fitted model with the next samples of a stream."""
    check_same_module_params(estimator, estimator._module_params, "partial_fit")
    saved = estimator._training_state
    statistics = WeightStatistics(estimator.n_samples_seen_, saved["mean_weight"])
    random_state = RandomState(saved["seed"])
    state = _resume(estimator, X, sample_weight, statistics, random_state, group)
    state.optimizer_state = saved["optimizer_state"]
    state.history.pretraining.update(deepcopy(saved["pretraining"]))
    state.history.training.update(deepcopy(saved["training"]))
    return state


def _resume(
    estimator: PredictionMixin,
    X: NDArray | csr_array,
    sample_weight: NDArray,
    statistics: WeightStatistics,
    random_state: RandomState,
    group: ProcessGroup,
) -> TrainingState:
    """Go on from the fitted model; `statistics` are of the samples it has seen."""
    device_config = resolve_device(estimator.device, estimator.precision)
    random = RandomStreams.from_random_state(random_state, device_config.device, group)
    statistics = statistics.update(sample_weight, group)
    sample_weight = normalize_weights(sample_weight, statistics.mean)
    scaling = Scaling(**estimator._scaling)
    dataset = _scaled_dataset(
        estimator, X, sample_weight, scaling, device_config, group
    )
    module = estimator._make_module(device_config)
    init_labels = predict_labels(module, dataset, estimator.responsibilities)
    history = History(init_labels=init_labels)
    dataset = dataset.drop_zero_weight()
    return _training_state(
        estimator, module, dataset, random, history, statistics, group
    )


def rebuild_training(
    estimator: PredictionMixin,
    X: NDArray | csr_array,
    sample_weight: NDArray,
    scaling: Scaling,
    validation: NDArray | None,
    group: ProcessGroup,
) -> TrainingState:
    """Build the state of a fit whose module, streams and history will be loaded.

    Parameters
    ----------
    estimator : VaDEClusterer
        With the parameters of the fit.
    X : {ndarray, csr_array} of shape (n_samples, n_features)
        The samples of the fit.
    sample_weight : ndarray of shape (n_samples,)
        Their weights.
    scaling : Scaling
        How the fit has standardized them.
    validation : ndarray or None
        The samples that the fit holds out.
    group : ProcessGroup
        The processes that fit the model together.

    Returns
    -------
    state : TrainingState
        Its module is not initialized.
    """
    device_config = resolve_device(estimator.device, estimator.precision)
    device = device_config.device
    random = RandomStreams.from_random_state(RandomState(0), device, group)
    statistics = WeightStatistics().update(sample_weight, group)
    sample_weight = normalize_weights(sample_weight, statistics.mean)
    dataset = _scaled_dataset(
        estimator, X, sample_weight, scaling, device_config, group
    )
    dataset = dataset.drop_zero_weight()
    module = _build_module(estimator, dataset.n_features, device_config, random)
    module.to(device_config.device, device_config.dtype)
    n_samples = group.sum(len(dataset))
    config = make_config(estimator, n_samples, dataset.n_features)
    state = TrainingState(
        module,
        dataset,
        None,
        config,
        random,
        weight_statistics=statistics,
        group=group,
    )
    if validation is not None:
        state.dataset, state.validation = dataset.split_off(validation)
    return state


def _build_module(
    estimator: PredictionMixin,
    n_features: int,
    device_config: DeviceConfig,
    random: RandomStreams,
) -> VaDE:
    """Build a module; while K is open, it has a single component."""
    params = module_params(estimator, n_features)
    if params["n_clusters"] == "auto":
        params["n_clusters"] = 1
    return VaDE(**params, bfloat16=device_config.bfloat16, generator=random.shared)


def _scaled_dataset(
    estimator: PredictionMixin,
    X: NDArray | csr_array,
    sample_weight: NDArray,
    scaling: Scaling,
    device_config: DeviceConfig,
    group: ProcessGroup,
) -> Dataset:
    """Make a dataset of all samples of X, standardized as earlier ones."""
    names = feature_names(estimator)
    summary = DataSummary.from_array(X, group=group, names=names)
    likelihood, table = estimator.likelihood, estimator._table
    empty = check_values(likelihood, X, table, names)
    dtypes = device_config.dtype, X.dtype
    check_data(likelihood, summary, scaling, *dtypes, table=table)
    warn_no_counts(empty[sample_weight[empty] > 0], scaling, X.shape[0])
    dataset = Dataset.from_array(
        X, scaling, device_config, sample_weight, summary.has_missing
    )
    return dataset.cache_on_device()


def _training_state(
    estimator: PredictionMixin,
    module: VaDE,
    dataset: Dataset,
    random: RandomStreams,
    history: History,
    statistics: WeightStatistics,
    group: ProcessGroup,
) -> TrainingState:
    config = make_config(estimator, group.sum(len(dataset)), dataset.n_features)
    n_validation = n_validation_samples(estimator, len(dataset))
    training, validation = dataset.split(n_validation, random.shuffle)
    check_shares(group.gather(len(training)), config.batch_size)
    return TrainingState(
        module,
        training,
        validation,
        config,
        random,
        history,
        statistics,
        group=group,
    )


# --- Its end ------------------------------------------------------------------------


def set_fitted_attributes(
    estimator: PredictionMixin, state: TrainingState
) -> AssignmentSummary:
    """Turn a finished training run into fitted attributes, all of them NumPy.

    What they say of the samples as a whole is of those of all processes.
    """
    module, group = state.module, state.group
    # Processors of different kinds may have rounded differently.
    group.broadcast_(module.state_dict().values())
    _set_module_attributes(estimator, state)
    # Predictions read the attributes: so does what is computed here.
    module.load_fitted_attributes(vars(estimator))
    dataset, responsibilities = state.dataset.full(), estimator.responsibilities
    summary = summarize_assignments(module, dataset, responsibilities, group)
    estimator.labels_ = summary.labels
    effective = np.exp(entropy(summary.mean_responsibilities))
    estimator.n_effective_clusters_ = float(effective)
    estimator.lower_bound_ = mean_elbo(module, dataset, responsibilities, group)
    counted = dataset.weights > 0
    return summary._replace(
        is_outlier=summary.is_outlier[counted],
        deviations=np.where(counted, summary.deviations, np.nan),
    )


def reset_fitted_attributes(estimator: PredictionMixin) -> None:
    """Drop the results of an earlier fit, but for what is known of the input."""
    for name in [*vars(estimator)]:
        if name.endswith("_") and not name.endswith("_in_"):
            delattr(estimator, name)
    estimator.__dict__.pop("_version", None)


def snapshot(estimator: PredictionMixin, state: TrainingState) -> dict[str, Any] | None:
    """Give the attributes of an estimator that predicts as the module does now.

    None as long as there is no mixture. What takes a pass over the samples is left out.
    """
    if state.history.init_labels is None:
        return None
    fitted = copy(estimator)
    _set_module_attributes(fitted, state)
    return fitted.__dict__


def _set_module_attributes(estimator: PredictionMixin, state: TrainingState) -> None:
    """Set the attributes that are no results for the training samples."""
    module, history = state.module, deepcopy(state.history)
    pretraining, training = history.pretraining, history.training
    estimator.__dict__.update(module.fitted_attributes())
    estimator._network_state = {
        "encoder": state_dict_to_numpy(module.encoder),
        "decoder": state_dict_to_numpy(module.decoder),
    }
    estimator._scaling = state.dataset.scaling._asdict()
    estimator._version = __version__
    estimator.n_clusters_ = len(module.prior.logits)
    params = module_params(estimator, state.dataset.n_features)
    estimator._module_params = {**params, "n_clusters": estimator.n_clusters_}
    estimator.n_samples_seen_ = state.weight_statistics.n_samples
    seed = deepcopy(state.random.numpy).randint(MAX_SEED)
    estimator._training_state = {
        "mean_weight": state.weight_statistics.mean,
        "optimizer_state": state.optimizer_state,
        "seed": int(seed),
        "pretraining": dict(pretraining),
        "training": dict(training),
    }
    name = "unexplained_variance"
    if not has_trained_decoder(estimator):
        name = "neighbor_loss"
    estimator.pretrain_loss_curve_ = pretraining[name]
    estimator.embedding_loss_curve_ = pretraining["embedding_error"]
    estimator.init_labels_ = history.init_labels
    estimator.loss_curve_ = training["loss"]
    estimator.lower_bounds_ = training["elbo"]
    estimator.reconstruction_terms_ = training["reconstruction"]
    estimator.validation_scores_ = history.validation_scores
    estimator.converged_ = history.converged
    estimator.n_iter_ = len(training["elbo"])
