"""From parameters and rows to a run, and from a finished run to fitted attributes."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import entropy
from sklearn.utils import check_random_state

from skvade._batching import Rows, dump_parameters, place
from skvade._checks import (
    architecture,
    check_same_architecture,
    given_labels,
    n_held_out,
)
from skvade._fitted import FittedVaDE
from skvade._inference import labels_per_row, mean_elbo, survey
from skvade._matrix import Standardization, Tally, in_unit
from skvade._run import Chance, Plan, Record, Run, build
from skvade._version import __version__

__all__ = [
    "adopt",
    "forget",
    "fresh_run",
    "next_run",
    "plan_of",
    "snapshot",
    "unchanged_on_error",
    "warm_run",
]


# Fitted attributes that take a pass over the rows.
OF_THE_ROWS = ("labels_", "lower_bound_", "n_effective_clusters_")


@contextmanager
def unchanged_on_error(estimator: FittedVaDE) -> Iterator[None]:
    """Give an estimator its old state back if the block fails."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        estimator.__dict__ = before
        raise


def plan_of(estimator: FittedVaDE, n_samples: int) -> Plan:
    """How to train, with what "auto" stands for."""
    values = {field.name: getattr(estimator, field.name) for field in fields(Plan)}
    if estimator.batch_size == "auto":
        values["batch_size"] = min(256, max(16, n_samples // 32))
    labels = given_labels(estimator.init)
    if labels is not None:
        values["init"] = labels
    return Plan(**values)


def fresh_run(estimator: FittedVaDE, X: NDArray | csr_array, weight: NDArray) -> Run:
    """A model with fresh weights, at the start of all stages."""
    placement = place(estimator.device, estimator.precision)
    chance = Chance.of(check_random_state(estimator.random_state), placement.device)
    center = estimator.likelihood == "gaussian"
    tally = Tally().add(weight)
    weight = in_unit(weight, tally.mean_weight)
    standard = Standardization.of(X, center, weight)
    rows = Rows.of(X, standard, placement, weight).checked().moved().weighty()
    shape = architecture(estimator, X.shape[1])
    model = build({**shape, "bfloat16": placement.bfloat16}, rows, chance)
    n_out = n_held_out(estimator, len(rows))
    training, held_out = rows.split(n_out, chance.order)
    plan = plan_of(estimator, len(rows))
    return Run(model, training, held_out, plan, chance, tally=tally)


def warm_run(estimator: FittedVaDE, X: NDArray | csr_array, weight: NDArray) -> Run:
    """The fitted model, before the last stage goes on."""
    check_same_architecture(estimator, estimator._architecture, "warm_start=True")
    rng = check_random_state(estimator.random_state)
    return _resumed_run(estimator, X, weight, Tally(), rng)


def next_run(estimator: FittedVaDE, X: NDArray | csr_array, weight: NDArray) -> Run:
    """The fitted model, before it meets the next rows of a stream."""
    check_same_architecture(estimator, estimator._architecture, "partial_fit")
    memory = estimator._memory
    tally = Tally(estimator.n_samples_seen_, memory["mean_weight"])
    run = _resumed_run(estimator, X, weight, tally, RandomState(memory["seed"]))
    run.moments = memory["moments"]
    run.record.pretrain_loss_curve = estimator.pretrain_loss_curve_
    run.record.embedding_loss_curve = estimator.embedding_loss_curve_
    run.record.loss_curve = [*estimator.loss_curve_]
    run.record.lower_bounds = [*estimator.lower_bounds_]
    run.record.reconstruction_terms = [*estimator.reconstruction_terms_]
    return run


def _resumed_run(
    estimator: FittedVaDE,
    X: NDArray | csr_array,
    weight: NDArray,
    tally: Tally,
    rng: RandomState,
) -> Run:
    """The fitted model and other rows; `tally` is of those it goes on from."""
    placement = place(estimator.device, estimator.precision)
    chance = Chance.of(rng, placement.device)
    tally = tally.add(weight)
    weight = in_unit(weight, tally.mean_weight)
    rows = estimator._rows(X, placement, weight).moved()
    model = estimator._model(placement)
    record = Record(init_labels=labels_per_row(model, rows, estimator.responsibilities))
    rows = rows.weighty()
    training, held_out = rows.split(n_held_out(estimator, len(rows)), chance.order)
    plan = plan_of(estimator, len(rows))
    return Run(model, training, held_out, plan, chance, record, tally)


def adopt(estimator: FittedVaDE, run: Run) -> None:
    """Turn what was learned into fitted attributes, all of them NumPy."""
    _adopt_model(estimator, run)
    rows = run.rows.whole()
    found = survey(run.model, rows, estimator.responsibilities)
    estimator.labels_ = found.labels
    estimator.n_effective_clusters_ = float(np.exp(entropy(found.mean)))
    most = np.log(len(found.mean))  # the entropy of K equal ones
    run.record.vagueness = found.mean_entropy / most if most else 0.0
    run.record.far = found.far[rows.weight > 0]
    estimator.lower_bound_ = mean_elbo(run.model, rows, estimator.responsibilities)


def forget(estimator: FittedVaDE) -> None:
    """Drop what a snapshot of the next fit would not replace."""
    for name in (*OF_THE_ROWS, "noise_variance_", "_version"):
        estimator.__dict__.pop(name, None)


def snapshot(estimator: FittedVaDE, run: Run) -> dict[str, Any] | None:
    """Attributes of an estimator that answers as the model does now.

    None as long as there is no mixture. What takes a pass over the rows is not there.
    """
    if run.record.init_labels is None:
        return None
    fitted = copy(estimator)
    _adopt_model(fitted, run)
    return fitted.__dict__


def _adopt_model(estimator: FittedVaDE, run: Run) -> None:
    """The fitted attributes that are no answers about the training rows."""
    model, record, rows = run.model, deepcopy(run.record), run.rows
    # Kept in float64: the model's own copies may have been rounded.
    unit = rows.standardization._asdict()
    exact = {f"likelihood.{name}": np.asarray(value) for name, value in unit.items()}
    estimator._parameters = {**dump_parameters(model), **exact}
    estimator._version = __version__
    estimator._architecture = architecture(estimator, rows.X.shape[1])
    estimator.n_samples_seen_ = run.tally.n_rows
    estimator._memory = {
        "mean_weight": run.tally.mean_weight,
        "moments": run.moments,
        "seed": int(deepcopy(run.chance.numpy).randint(np.iinfo(np.int32).max)),
    }
    estimator.pretrain_loss_curve_ = record.pretrain_loss_curve
    estimator.embedding_loss_curve_ = record.embedding_loss_curve
    estimator.init_labels_ = record.init_labels
    estimator.loss_curve_ = record.loss_curve
    estimator.lower_bounds_ = record.lower_bounds
    estimator.reconstruction_terms_ = record.reconstruction_terms
    estimator.validation_scores_ = record.validation_scores
    estimator.converged_ = record.converged
    estimator.n_iter_ = len(record.lower_bounds)
    mixture = deepcopy(model.prior).cpu().double()
    estimator.weights_ = mixture.log_weights.exp().numpy(force=True)
    estimator.means_ = mixture.means.numpy(force=True)
    estimator.covariances_ = mixture.log_variances.exp().numpy(force=True)
    estimator.cluster_centers_ = estimator.inverse_transform(estimator.means_)
    noise = estimator._likelihood().noise_variance
    if noise is not None:
        estimator.noise_variance_ = noise.item()
