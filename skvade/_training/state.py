"""What a training run consists of: configuration, random streams, history, state."""

from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from torch import Generator, Tensor

from skvade._data.dataset import Dataset
from skvade._data.device import make_generator
from skvade._data.neighbors import NeighborGraph
from skvade._data.process_group import SINGLE_PROCESS, ProcessGroup
from skvade._data.scaling import WeightStatistics
from skvade._model.arrays import OptimizerState
from skvade._model.module import VaDE

__all__ = [
    "MAX_SEED",
    "EmbeddingTarget",
    "FitTask",
    "History",
    "Progress",
    "RandomStreams",
    "Stateful",
    "TrainingConfig",
    "TrainingState",
    "has_trained_decoder",
    "seeded_clone",
]


MAX_SEED = np.iinfo(np.int32).max


class TrainingConfig(SimpleNamespace):
    """Parameters of the estimator, by name, with what "auto" stands for."""


def has_trained_decoder(config: TrainingConfig) -> bool:
    """Tell whether the stages before the warm-up train the decoder, too."""
    return config.pretraining != "neighbors" or config.embedding is not None


def seeded_clone(estimator: BaseEstimator, random_state: RandomState) -> BaseEstimator:
    """Clone an estimator; open seeds are drawn from our own generator."""
    estimator = clone(estimator)
    parameters = sorted(estimator.get_params().items())
    seeds = [k for k, v in parameters if k.endswith("random_state") and v is None]
    return estimator.set_params(
        **{name: random_state.randint(MAX_SEED) for name in seeds}
    )


class RandomStreams(NamedTuple):
    """Every source of randomness of a fit, all from one seed.

    Attributes
    ----------
    numpy : RandomState
        For scikit-learn's estimators and subsamples.
    shuffle : Generator
        On the CPU: the order of the samples, and the cells of a neighbor search.
    noise : Generator
        On the device: draws of z, and what a denoising autoencoder masks.
    dropout : Generator
        On the device, if it is CUDA: what layers of custom networks draw.
    shared : Generator
        On the CPU: initial weights and pairs of neighbors, which all processes draw
        alike. It is `shuffle` itself in a single process.
    """

    numpy: RandomState
    shuffle: Generator
    noise: Generator
    dropout: Generator
    shared: Generator

    @classmethod
    def from_random_state(
        cls,
        random_state: RandomState,
        device: torch.device,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> Self:
        """Seed all streams from one generator, that of the first process.

        The others have streams of their own, but for `shared`.
        """
        first = group.broadcast(random_state.randint(MAX_SEED, size=4).tolist())
        own = first
        if group.rank:
            own = np.random.SeedSequence([*first, group.rank]).generate_state(4)
            own = (own % MAX_SEED).tolist()
        shuffle = make_generator(own[1])
        dropout_device = device if device.type == "cuda" else "cpu"
        return cls(
            RandomState(own[0]),
            shuffle,
            make_generator(own[2], device),
            make_generator(own[3], dropout_device),
            shuffle if group.world_size == 1 else make_generator(first[1]),
        )

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draw standard normal noise of the dtype and on the device of a tensor."""
        noise = torch.empty(shape, dtype=like.dtype, device=like.device)
        return noise.normal_(generator=self.noise)


def _curves() -> dict[str, list[float]]:
    return defaultdict(list)


@dataclass
class History:
    """What happened during training.

    Attributes
    ----------
    pretraining, training : dict of str to list of float
        A curve for each term that the loss of the stage gives, one value per epoch.
    validation_scores : list of float
        Mean ELBO of the validation samples, one value per epoch.
    init_labels : ndarray or None
        Initial cluster of each sample.
    unlearned_components : ndarray
        Fractions of variance of the principal components that pretraining missed.
    collapsed_loss : float
        Contrastive loss of an embedding with all samples in one place; infinite if
        there is nothing better, since the samples are all equal.
    embedding_error : float
        Fraction of the variance of the target embedding that was left unexplained.
    validation_improved : bool
        Whether an epoch raised the ELBO of the validation samples.
    converged : bool
        Whether the last stage met `tol`.
    stopped : bool
        Whether a callback ended the last stage.
    """

    pretraining: dict[str, list[float]] = field(default_factory=_curves)
    training: dict[str, list[float]] = field(default_factory=_curves)
    validation_scores: list[float] = field(default_factory=list)
    init_labels: NDArray | None = None
    unlearned_components: NDArray = field(default_factory=lambda: np.zeros(0))
    collapsed_loss: float = np.inf
    embedding_error: float = 0.0
    validation_improved: bool = False
    converged: bool = False
    stopped: bool = False


class FitTask:
    """A task of scikit-learn's callback protocol; this one informs nobody."""

    stopped = False  # whether a callback asked to leave the coming subtasks out

    def subtask(self, name: str, max_subtasks: int = 0) -> Self:
        """Begin a part of this task, of at most so many parts of its own."""
        return self

    def end(self) -> bool:
        """End the task; tell whether those like it that would follow are left out."""
        return False


class Stateful(Protocol):
    """An object whose state can be saved and restored, by the names of torch.

    A state holds dicts of arrays, tensors and plain values.
    """

    def state_dict(self) -> dict[str, Any]:
        """Give the state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""


@dataclass
class Progress:
    """How far a fit has come.

    Attributes
    ----------
    stage : str
        Name of the stage.
    epoch : int
        Number of its epochs that are complete, over all its loops.
    objects : dict of str to Stateful
        What the present loop over epochs trains with, such as its optimizer.
    saved_epoch : int
        Where the stage goes on, if it is the first one of a resumed fit; else 0.
    saved_objects : dict of str to dict
        The states with which the objects go on from there.
    """

    stage: str = ""
    epoch: int = 0
    objects: dict[str, Stateful] = field(default_factory=dict)
    saved_epoch: int = 0
    saved_objects: dict[str, dict[str, Any]] = field(default_factory=dict)

    def begin_stage(self, name: str) -> None:
        """Begin a stage, none of whose epochs is complete."""
        self.stage, self.epoch, self.objects = name, 0, {}

    def begin_loop(self, max_epochs: int, objects: dict[str, Stateful]) -> int:
        """Begin a loop over epochs; give the number of those that are complete."""
        self.objects = objects
        n_complete = self.saved_epoch - self.epoch
        if n_complete <= 0:
            return 0
        if n_complete > max_epochs:  # a later loop of the stage goes on
            self.epoch += max_epochs
            return max_epochs
        for name, stateful in objects.items():
            stateful.load_state_dict(self.saved_objects[name])
        self.epoch, self.saved_epoch = self.saved_epoch, 0
        return n_complete


class EmbeddingTarget(NamedTuple):
    """Coordinates that the encoder learns.

    Attributes
    ----------
    indices : ndarray of shape (n,)
        The samples of X that a transformer was fitted on.
    coordinates : ndarray of shape (n, latent_dim)
        What it gives for them, standardized.
    """

    indices: NDArray[np.integer]
    coordinates: NDArray[np.float64]


@dataclass
class TrainingState:
    """A module on its way through the stages of a fit, and all that goes with it.

    Attributes
    ----------
    module : VaDE
        The model, on its device.
    dataset : Dataset
        The samples to train on.
    validation : Dataset or None
        The samples that `early_stopping` holds out.
    config : TrainingConfig
        How to train.
    random : RandomStreams
        Sources of randomness.
    history : History
        What happened so far.
    weight_statistics : WeightStatistics
        Of all samples seen so far, earlier calls of `partial_fit` included.
    optimizer_state : dict
        Of the last stage, to go on from in the next call of `partial_fit`.
    task : FitTask
        The current task of the callback protocol.
    neighbors : NeighborGraph or None
        Neighbors of the samples, once they are known.
    embedding_target : EmbeddingTarget or None
        What the encoder learns of `embedding`, once it is known.
    progress : Progress
        How far the fit has come.
    warm_started : bool
        Whether the fit continues the training of a fitted model.
    group : ProcessGroup
        The processes that fit the model together, each on its own dataset.
    """

    module: VaDE
    dataset: Dataset
    validation: Dataset | None
    config: TrainingConfig
    random: RandomStreams
    history: History = field(default_factory=History)
    weight_statistics: WeightStatistics = field(default_factory=WeightStatistics)
    optimizer_state: OptimizerState = field(default_factory=dict)
    task: FitTask = field(default_factory=FitTask)
    neighbors: NeighborGraph | None = None
    embedding_target: EmbeddingTarget | None = None
    progress: Progress = field(default_factory=Progress)
    warm_started: bool = False
    group: ProcessGroup = SINGLE_PROCESS

    def count_samples(self) -> int:
        """Count the samples to train on, of all processes."""
        return self.group.sum(len(self.dataset))
