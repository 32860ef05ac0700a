"""Fits by several processes: distributed=True."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from distributed_fits import (
    CASES_OF_GROUP,
    SHARES,
    fit_case,
    in_one_process,
    learned,
    partial_fit_case,
)
from numpy.testing import assert_allclose, assert_array_equal

from skvade import VaDEClusterer

SCRIPT = Path(__file__).with_name("distributed_fits.py")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def run_processes(world_size, folder):
    """Start the script in several processes; give what each of them found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(world_size), str(SCRIPT), str(folder)]
    root = SCRIPT.parents[1]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    if world_size == 3:
        assert "process 2: 2000 samples" in done.stdout
    paths = [folder / f"{rank}.pkl" for rank in range(world_size)]
    return [pickle.loads(path.read_bytes()) for path in paths]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What groups of two and of three processes found, started once each."""
    return {
        world_size: run_processes(world_size, tmp_path_factory.mktemp("processes"))
        for world_size in SHARES
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert_array_equal(one[name], other[name], err_msg=name)


# --- One process and several --------------------------------------------------------

CASES = [(n, case) for n, cases in CASES_OF_GROUP.items() for case in cases]


@pytest.mark.parametrize(("world_size", "case"), CASES)
def test_several_processes_fit_the_model_of_a_single_one(found, world_size, case):
    """With the same batches and draws, in float64, to ten digits after 50 steps.

    Contrastive pretraining leaves the place of the embedding as a whole open: what
    Adam makes of its gradient there, which is zero, is rounding.
    """
    with in_one_process(world_size):
        expected = fit_case(case)
    processes = [process[case] for process in found[world_size]]
    labels = {
        name: np.concatenate([process[name] for process in processes])
        for name in ("labels", "init")
    }
    tolerance = 1e-7 if case == "neighbors" else 1e-10
    for name, value in expected.items():
        if name in labels:
            assert_array_equal(labels[name], value, err_msg=name)
        else:
            assert_allclose(
                processes[0][name], value, tolerance, tolerance, err_msg=name
            )
    curve = processes[0]["pretrain_loss_curve"]
    assert_allclose(curve, expected["pretrain_loss_curve"], 1e-10)


@pytest.mark.parametrize("world_size", SHARES)
def test_several_processes_learn_from_the_stream_of_a_single_one(found, world_size):
    with in_one_process(world_size):
        expected = partial_fit_case()
    for name, value in expected.items():
        actual = found[world_size][0]["partial_fit"][name]
        assert_allclose(actual, value, 1e-10, 1e-10, err_msg=name)


@pytest.mark.parametrize(("world_size", "case"), CASES)
def test_all_processes_have_the_same_model(found, world_size, case):
    first, *others = (
        {k: v for k, v in process[case].items() if k not in ("labels", "init")}
        for process in found[world_size]
    )
    for other in others:
        assert_same(first, other)


def test_all_processes_have_the_same_model_for_any_seed_and_early_stopping(found):
    first, second = (process["options"] for process in found[2])
    assert_same(first["early stopping"], second["early stopping"])
    assert first["converged"] and second["converged"]
    assert first["n_iter"] == second["n_iter"] == 2


def test_labels_and_scores_are_of_the_own_samples_and_the_bound_of_all(found):
    first, second = (process["options"] for process in found[2])
    assert first["predicts labels"] and second["predicts labels"]
    mean = np.average([first["score"], second["score"]], weights=SHARES[2])
    assert first["lower_bound"] == second["lower_bound"] == pytest.approx(mean)


def test_callbacks_of_the_first_process_decide(found):
    assert [process["options"]["stopped after"] for process in found[2]] == [5, 5]


def test_a_fit_resumes_from_the_file_of_the_first_process(found):
    for process in found[2]:
        assert_same(process["options"]["checkpointed"], process["options"]["resumed"])


def test_all_processes_estimate_the_same_number_of_clusters(found):
    first, second = (process["options"]["checkpointed"] for process in found[2])
    assert_same(first, second)


def test_the_first_process_warns(found):
    n_warnings = [process["options"]["warnings"] for process in found[2]]
    assert n_warnings[0] > 0 and n_warnings[1] == 0


# --- Errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("infinite", "ValueError", "infinity"),
        ("step", "OSError", "the file is gone"),
        ("nan", "ValueError", "Training met a loss of nan"),
    ],
)
def test_an_error_in_one_process_ends_all(found, name, error, message):
    first, second = (process["errors"][name] for process in found[2])
    assert second[0] == error and message in second[1]
    assert first[0] == "RemoteError"
    assert f"Process 1: {error}" in first[1] and message in first[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("n_features", "features of X=5 in process 0 and .* of X=4 in process 1"),
        ("params", "n_draws=1 in process 0 and n_draws=2 in process 1"),
        ("shares", "Process 1 has 2 samples to train on, fewer than the 4 steps"),
        ("embedding", "can not learn embedding=VaDEClusterer"),
        ("loss", "not finite"),
    ],
)
def test_all_processes_reject_what_they_do_not_share(found, name, message):
    for process in found[2]:
        error, text = process["errors"][name]
        assert error == "ValueError"
        with pytest.raises(ValueError, match=message):
            raise ValueError(text)


def test_a_process_that_is_killed_ends_the_others(found):
    error, message = found[2][0]["killed"]
    assert error == "RemoteError" and "one may have been killed" in message


def test_without_a_process_group_there_is_an_error(make_estimator, X):
    model = make_estimator(distributed=True)
    for fit in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match="torchrun --standalone"):
            fit(X)


# --- A group of one process ---------------------------------------------------------


@pytest.fixture
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("pretraining", ["neighbors", "autoencoder"])
def test_a_group_of_one_fits_the_same_model(
    group_of_one, make_estimator, X, pretraining
):
    model = make_estimator(pretraining=pretraining).fit(X)
    other = make_estimator(pretraining=pretraining, distributed=True).fit(X)
    assert_same(learned(model), learned(other))
    assert_array_equal(model.labels_, other.labels_)


def test_an_error_in_a_group_of_one_is_the_own(group_of_one, make_estimator, X):
    with pytest.raises(ValueError, match="n_samples=2 should be"):
        make_estimator(distributed=True).fit(X[:2])


def test_by_default_no_process_group_is_used(monkeypatch, make_estimator, X):
    def fail(*args, **kwargs):
        raise AssertionError

    for name in ("is_initialized", "all_reduce", "all_gather", "broadcast"):
        monkeypatch.setattr(dist, name, fail)
    assert isinstance(make_estimator().fit(X), VaDEClusterer)
