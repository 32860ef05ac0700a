"""Checkpoints: what a file holds of a fit, and how the fit goes on from it.

A file is an archive of arrays and plain values. Data, parameters and versions are
compared before a fit goes on; X itself is not in the file.
"""

import os
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from skvade._archive import read_archive, write_archive
from skvade._data.neighbors import NeighborGraph
from skvade._data.scaling import (
    Scaling,
    WeightStatistics,
    fingerprint,
    normalize_weights,
)
from skvade._prediction import PredictionMixin
from skvade._state import rebuild_training
from skvade._training.state import EmbeddingTarget, Progress, TrainingState
from skvade._validation import saved_params
from skvade._version import __version__

__all__ = ["SavedFit", "read_checkpoint", "resume_training", "write_checkpoint"]

FORMAT = 1  # to be increased when files change such that older ones do not load


class SavedFit(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    params : dict of str to object
        Parameters of the estimator, see `saved_params`.
    data : dict of str to object
        Fingerprint of X and of the weights.
    device : str
        Type of the device, whose random numbers no other gives.
    state : dict of str to object
        What changes in a training state during a fit.
    """

    params: dict[str, Any]
    data: dict[str, Any]
    device: str
    state: dict[str, Any]

    @property
    def stage(self) -> str:
        """Name of the stage that goes on."""
        return self.state["stage"]


def write_checkpoint(
    path: str | os.PathLike, estimator: PredictionMixin, state: TrainingState
) -> None:
    """Write the state of a fit, between two epochs.

    Raises
    ------
    OSError
        If the file can not be written. An earlier one is then still there.
    """
    saved = SavedFit(
        saved_params(estimator),
        state.dataset.fingerprint,
        state.dataset.device_config.device.type,
        _state_to_tree(state),
    )
    versions = {"format": FORMAT, "skvade": __version__}
    write_archive(path, versions | saved._asdict())


def read_checkpoint(path: str | os.PathLike) -> SavedFit:
    """Read what `write_checkpoint` has written.

    Raises
    ------
    OSError
        If the file can not be read.
    ValueError
        If it is no such file, or one of another version.
    """
    tree = read_archive(path)
    version = tree.pop("skvade", None)
    if tree.pop("format", None) != FORMAT or version != __version__:
        raise ValueError(
            f"{os.fspath(path)} was written by skvade {version} and can not be resumed "
            f"by skvade {__version__}, whose fits may differ. Install skvade {version}."
        )
    return SavedFit(**tree)


def resume_training(
    estimator: PredictionMixin,
    X: NDArray | csr_array,
    sample_weight: NDArray,
    saved: SavedFit,
) -> TrainingState:
    """Build the state of a fit as it was when its file was written.

    Parameters
    ----------
    estimator : VaDEClusterer
        With the parameters of the fit.
    X : {ndarray, csr_array} of shape (n_samples, n_features)
        The samples of the fit.
    sample_weight : ndarray of shape (n_samples,)
        Their weights.
    saved : SavedFit
        What the file holds.

    Returns
    -------
    state : TrainingState
        To be trained from the stage `saved.stage` on.

    Raises
    ------
    ValueError
        If data or device are others, or a custom network has other parameters.
    """
    mean_weight = WeightStatistics().update(sample_weight).mean
    _check_same_data(
        fingerprint(X, normalize_weights(sample_weight, mean_weight)), saved.data
    )
    tree = saved.state
    state = rebuild_training(
        estimator,
        X,
        sample_weight,
        Scaling(*tree["scaling"]),
        tree["validation"],
        tree["n_components"],
    )
    _check_same_device(state.dataset.device_config.device.type, saved.device)
    _load_tree(state, tree)
    return state


def _check_same_data(given: dict[str, Any], saved: dict[str, Any]) -> None:
    for name, value in saved.items():
        if given[name] != value:
            raise ValueError(
                f"The file is of a fit to other data: its {name} is {value}, but here "
                f"it is {given[name]}. Give the samples and weights of that fit, in "
                "the same order and dtype."
            )


def _check_same_device(given: str, saved: str) -> None:
    if given != saved:
        raise ValueError(
            f"The file is of a fit on the device {saved!r}, whose random numbers "
            f"{given!r} can not continue. Set device to one of that type."
        )


# --- The state of a fit as nested dicts ---------------------------------------------


def _state_to_tree(state: TrainingState) -> dict[str, Any]:
    """Collect what changes in a training state, and what would take long to repeat."""
    progress, random = state.progress, state.random
    validation = None
    if state.validation is not None:
        validation = state.validation.indices
    return {
        "stage": progress.stage,
        "epoch": progress.epoch,
        "objects": {name: o.state_dict() for name, o in progress.objects.items()},
        "module": state.module.state_dict(),
        "n_components": len(state.module.prior.logits),
        "n_clusters": state.config.n_clusters,
        "numpy": random.numpy.get_state(legacy=False),
        "shuffle": random.shuffle.get_state(),
        "noise": random.noise.get_state(),
        "dropout": random.dropout.get_state(),
        "history": vars(state.history),
        "scaling": state.dataset.scaling,
        "validation": validation,
        "neighbors": state.neighbors,
        "embedding_target": state.embedding_target,
        "warm_started": state.warm_started,
    }


def _load_tree(state: TrainingState, tree: dict[str, Any]) -> None:
    """Set what `_state_to_tree` has collected."""
    state.progress = Progress(saved_epoch=tree["epoch"], saved_objects=tree["objects"])
    module = {name: torch.from_numpy(array) for name, array in tree["module"].items()}
    try:
        state.module.load_state_dict(module)
    except RuntimeError as error:
        raise ValueError(
            f"The file is of a fit with other networks. {error} Give the encoder and "
            "the decoder of that fit."
        ) from error
    state.config.n_clusters = tree["n_clusters"]  # "auto" is a number after a while
    state.random.numpy.set_state(tree["numpy"])
    for name in ("shuffle", "noise", "dropout"):
        getattr(state.random, name).set_state(torch.from_numpy(tree[name]))
    history = dict(tree["history"])
    state.history.pretraining.update(history.pop("pretraining"))
    state.history.training.update(history.pop("training"))
    vars(state.history).update(history)
    if tree["neighbors"] is not None:
        state.neighbors = NeighborGraph(*tree["neighbors"])
    if tree["embedding_target"] is not None:
        state.embedding_target = EmbeddingTarget(*tree["embedding_target"])
    state.warm_started = tree["warm_started"]
