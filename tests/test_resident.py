"""Rows that a GPU holds as a whole: the same numbers as rows that come one by one."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from skvade._batching import Placement, Rows, place
from skvade._matrix import Standardization

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device"
)


@pytest.fixture
def move_rows(monkeypatch):
    """Let every placement hold the rows as a GPU with room does."""
    return lambda: monkeypatch.setattr(Placement, "has_room", lambda self, n: True)


def test_moved_rows_are_the_same_rows(X_missing, monkeypatch, move_rows):
    monkeypatch.setattr("skvade._batching.MOVED_AT_ONCE", 7)
    weight = np.random.default_rng(0).random(len(X_missing))
    weight[::3] = 0
    standard = Standardization.of(X_missing, center=True)
    rows = Rows.of(X_missing, standard, place("cpu", "float32"), weight).weighty()
    move_rows()
    moved = rows.moved()
    assert rows.resident is None and moved.resident.x.shape == X_missing.shape
    positions = np.array([5, 0, 5, 11])
    for some, others in [(rows, moved), (rows.whole(), moved.whole())]:
        for part, other in zip(
            some.take(positions), others.take(positions), strict=True
        ):
            assert_array_equal(part, other)


def test_what_is_done_to_a_batch_leaves_moved_rows_as_they_are(X, move_rows):
    move_rows()
    moved = Rows.of(X, Standardization.of(X, True), place("cpu", "float32")).moved()
    before = moved.resident.x.clone()
    moved.take(np.arange(len(X))).x.zero_()
    assert_array_equal(moved.resident.x, before)


KINDS = {
    "dense": lambda X, X_missing: X,
    "float64 by columns": lambda X, X_missing: np.asfortranarray(X, np.float64),
    "sparse": lambda X, X_missing: csr_array(np.where(X > 0, X, 0)),
    "incomplete": lambda X, X_missing: X_missing,
}


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_is_the_same_to_the_last_bit(
    make_estimator, X, X_missing, kind, weighted, move_rows
):
    """Through all stages, with rows held out, rows of no weight, and then rows more."""
    data = KINDS[kind](X, X_missing)
    weight = np.arange(len(X)) % 4 if weighted else None
    models = []
    for _ in range(2):
        model = make_estimator(early_stopping=True).fit(data, sample_weight=weight)
        models.append(model.set_params(early_stopping=False).partial_fit(data))
        move_rows()
    one, other = models
    assert_array_equal(one.labels_, other.labels_)
    assert one.loss_curve_ == other.loss_curve_
    assert_array_equal(one.means_, other.means_)


def test_rows_stay_with_the_host_where_there_is_no_room(monkeypatch):
    gpu = Placement(torch.device("cuda", 0), torch.float32)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (800, 10_000))
    assert gpu.has_room(100)
    assert not gpu.has_room(101)
    assert not place("cpu", "float32").has_room(1)


# --- On a GPU, where there is one ---------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore")
def test_fit_on_a_gpu(make_estimator, X, X_missing, kind, precision):
    data = KINDS[kind](X, X_missing)
    model = make_estimator(device="cuda", precision=precision).fit(data)
    again = make_estimator(device="cuda", precision=precision).fit(data)
    assert_array_equal(model.labels_, again.labels_)
    assert_array_equal(model.predict(data), model.labels_)
    assert_array_equal(model.predict_proba(data)[:7], model.predict_proba(data[:7]))
    there = model.predict_proba(data)
    here = model.set_params(device="cpu").predict_proba(data)
    assert_allclose(there, here, atol=1e-2 if precision == "bfloat16" else 1e-4)


@needs_cuda
def test_rows_are_held_by_a_gpu_with_room(X):
    rows = Rows.of(X, Standardization.of(X, True), place("cuda", "float32"))
    moved = rows.moved()
    assert moved.resident.x.is_cuda
    for part, other in zip(
        rows.take(np.arange(9)), moved.take(np.arange(9)), strict=True
    ):
        if part is not None:
            assert_array_equal(part.cpu(), other.cpu())
