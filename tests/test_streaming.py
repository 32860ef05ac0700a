"""Rows that come a few at a time, or that stay on the disk."""

import copy
import os
import pickle
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from skvade import _training
from skvade._matrix import Tally

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def chunks(X_new):
    return np.array_split(X_new, 7)


def after(model, chunks):
    for chunk in chunks:
        model.partial_fit(chunk)
    return model


def assert_same(found, expected, name="state"):
    """Nested dicts and lists with equal values, arrays to the last bit."""
    assert type(found) is type(expected), name
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key, value in expected.items():
            assert_same(found[key], value, f"{name}.{key}")
    elif isinstance(expected, np.ndarray):
        assert_array_equal(found, expected, err_msg=name)
    else:
        assert found == expected, name


# --- A stream -----------------------------------------------------------------------


def test_a_stream_finds_the_clusters_and_gets_better(make_estimator, blobs, X_new):
    X, y = blobs
    model = make_estimator(pretrain_max_iter=20).partial_fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95
    bounds = [model.score(X)]
    for chunk in [*np.array_split(X_new, 7), *np.array_split(X_new, 7)]:
        model.partial_fit(chunk)
        bounds.append(model.score(X))
    assert bounds[-1] > bounds[7] > bounds[0] + 0.05
    assert adjusted_rand_score(y, model.predict(X)) > 0.95


def test_what_a_stream_leaves_behind(make_estimator, chunks):
    model = after(make_estimator(), chunks)
    assert model.n_samples_seen_ == 700
    assert model.n_iter_ == len(model.lower_bounds_) == len(model.loss_curve_) == 7
    assert len(model.pretrain_loss_curve_) == 10
    assert not model.converged_
    assert_array_equal(model.labels_, model.predict(chunks[-1]))
    assert len(model.init_labels_) == 100
    assert model.lower_bound_ == model.score(chunks[-1])


def test_a_stream_begins_with_all_stages_of_fit(make_estimator, chunks):
    model = make_estimator(embedding=PCA(2), embedding_max_iter=4, pretrain_max_iter=0)
    after(model, chunks[:2])
    assert len(model.embedding_loss_curve_) == 4
    assert len(model.pretrain_loss_curve_) == 4


def test_the_seed_decides(make_estimator, chunks):
    model = after(make_estimator(), chunks)
    assert_same(after(make_estimator(), chunks)._parameters, model._parameters)
    other = after(make_estimator(random_state=1), chunks)
    assert not np.array_equal(other.means_, model.means_)


def test_every_chunk_meets_draws_of_its_own(make_estimator, X):
    model = make_estimator(learning_rate_init=1e-12).partial_fit(X)
    model.partial_fit(X).partial_fit(X)
    assert len(set(model.loss_curve_)) == 3


def test_a_stream_is_the_same_across_a_break(make_estimator, chunks):
    expected = after(make_estimator(), chunks)
    model = pickle.loads(pickle.dumps(after(make_estimator(), chunks[:3])))
    assert_same(vars(after(model, chunks[3:])), vars(expected))


def test_components_keep_their_numbers(make_estimator, blobs):
    X, y = blobs
    model = make_estimator(init=y).partial_fit(X)
    labels = model.labels_
    for _ in range(3):
        smallest = np.flatnonzero(labels == 2)
        model.partial_fit(X[np.r_[smallest, smallest, :10]])
    assert_array_equal(model.predict(X), labels)


def test_one_row_is_a_chunk(make_estimator, X):
    model = make_estimator().partial_fit(X).partial_fit(X[:1])
    assert len(model.labels_) == 1
    assert model.n_samples_seen_ == 151
    assert np.isfinite(model.score(X))


def test_the_unit_is_that_of_the_first_chunk(make_estimator, X, fitted):
    model = make_estimator().partial_fit(X).partial_fit(100 + 7 * X)
    for name in ("likelihood.location", "likelihood.scale"):
        assert_array_equal(model._parameters[name], fitted._parameters[name])


def test_sparse_chunks_are_as_good_as_dense_ones(make_estimator, chunks):
    model = after(make_estimator(), map(sparse.csr_array, chunks))
    assert_same(model._parameters, after(make_estimator(), chunks)._parameters)


# --- Beside fit ---------------------------------------------------------------------


def test_a_stream_goes_on_from_a_fit(make_estimator, X, chunks):
    model = make_estimator().fit(X)
    bound = model.lower_bounds_[-1]
    after(model, chunks)
    assert model.n_samples_seen_ == 850
    assert len(model.lower_bounds_) == 3 + 7
    assert model.lower_bounds_[2] == bound
    assert len(model.pretrain_loss_curve_) == 10


def test_a_fit_forgets_the_stream(make_estimator, X, chunks, fitted):
    model = after(make_estimator(), chunks).fit(X)
    assert_same(vars(model), vars(fitted))


def test_a_warm_start_goes_on_from_a_stream(make_estimator, X, chunks):
    model = after(make_estimator(warm_start=True, learning_rate_init=1e-12), chunks)
    means = model.means_
    model.fit(X)
    assert_allclose(model.means_, means, atol=1e-6)
    assert model.n_iter_ == 3
    assert model.n_samples_seen_ == 150


# --- What is remembered -------------------------------------------------------------


def test_state_is_plain_python_and_numpy(make_estimator, chunks):
    def types_within(value):
        if isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else value
            return set().union(*(types_within(item) for item in items))
        return {type(value)}

    model = after(make_estimator(), chunks)
    plain = {type(None), bool, int, float, str, np.ndarray}
    assert types_within(vars(model)) <= plain


def test_the_optimizer_remembers_across_calls(make_estimator, chunks):
    """Without its memory, Adam's first step has the full length again."""
    model = after(make_estimator(), chunks[:6])
    amnesic = copy.deepcopy(model)
    amnesic._memory = {**amnesic._memory, "moments": {}}
    before = model.means_
    moved, moved_amnesic = (
        np.abs(m.partial_fit(chunks[6][:1]).means_ - before).max()
        for m in (model, amnesic)
    )
    rate = model.learning_rate_init
    assert moved_amnesic == pytest.approx(rate, rel=1e-2)
    assert moved < 0.9 * rate
    steps = {float(m["count"]) for m in model._memory["moments"].values()}
    assert steps == {6 * 7 + 1}


def test_the_optimizer_is_put_where_the_model_is(make_estimator, chunks):
    model = after(make_estimator(), chunks[:2]).set_params(precision="float64")
    model.partial_fit(chunks[2])
    for moments in model._memory["moments"].values():
        assert moments["mean"].dtype == np.float64
        assert moments["count"].dtype == np.float32


@pytest.mark.parametrize("factor", [1, 1e305, 1e-305])
def test_tally_is_the_mean_of_all_weights(factor):
    rng = np.random.default_rng(0)
    chunks = [rng.integers(4, size=n) * factor for n in (5, 1000, 30)]
    tally = Tally()
    for chunk in chunks:
        tally = tally.add(chunk)
    counting = np.concatenate([chunk[chunk > 0] for chunk in chunks])
    assert tally.n_rows == len(counting)
    assert_allclose(tally.mean_weight, (counting / factor).mean() * factor, rtol=1e-12)


def test_weights_count_beside_those_of_earlier_chunks(make_estimator, chunks):
    def streamed(*factors):
        model = make_estimator(batch_size=100)
        for chunk, factor in zip(chunks, factors, strict=False):
            model.partial_fit(chunk, sample_weight=np.full(len(chunk), factor))
        return model

    expected = after(make_estimator(batch_size=100), chunks[:3])
    assert_same(streamed(1.0, 1.0, 1.0)._parameters, expected._parameters)
    assert_same(streamed(8.0, 8.0, 8.0)._parameters, expected._parameters)
    # The loss of the last chunk is multiplied by its weight over the mean so far.
    heavy = streamed(1.0, 1.0, 7.0)
    ratio = heavy.loss_curve_[2] / expected.loss_curve_[2]
    assert ratio == pytest.approx(1, rel=1e-6)
    moments = heavy._memory["moments"]["prior.means"]["mean"]
    plain = expected._memory["moments"]["prior.means"]["mean"]
    earlier = streamed(1.0, 1.0)._memory["moments"]["prior.means"]["mean"]
    of_chunk, of_heavy_chunk = plain - 0.9 * earlier, moments - 0.9 * earlier
    assert_allclose(of_heavy_chunk, 7 / 3 * of_chunk, rtol=1e-3, atol=1e-6)


def test_rows_of_weight_zero_are_not_learned_from(make_estimator, X, chunks):
    model, expected = make_estimator().partial_fit(X), make_estimator().partial_fit(X)
    chunk, absent = chunks[0], np.arange(100) % 4 == 0
    model.partial_fit(chunk, sample_weight=~absent)
    expected.partial_fit(chunk[~absent])
    assert_same(model._parameters, expected._parameters)
    assert model.n_samples_seen_ == expected.n_samples_seen_ == 225
    assert len(model.labels_) == 100


# --- Errors, before any state changes -----------------------------------------------

CHUNK = np.zeros((4, 5))
INFINITE = np.where(np.eye(4, 5), np.inf, CHUNK)
WRONG = {
    "no rows": ({"X": CHUNK[:0]}, r"Found array with 0 sample\(s\)"),
    "one dimension": ({"X": CHUNK[0]}, "Expected 2D array, got 1D array"),
    "infinity": ({"X": INFINITE}, "Input X contains infinity"),
    "sparse infinity": ({"X": sparse.csr_array(INFINITE)}, "Input X contains infinity"),
    "words": ({"X": [["a"] * 5]}, "could not convert string to float"),
    "no X": ({"X": None}, "Expected 2D array, got scalar array"),
    "few weights": (
        {"X": CHUNK, "sample_weight": [1.0]},
        r"sample_weight.shape == \(1,\), expected \(4,\)",
    ),
    "negative weights": (
        {"X": CHUNK, "sample_weight": [1, 1, 1, -1]},
        "Negative values in data passed to `sample_weight`",
    ),
    "no weight": ({"X": CHUNK, "sample_weight": np.zeros(4)}, "at least one non-zero"),
    "above one": ({"X": CHUNK + 1.5}, r"needs X in \[0, 1\]. Got values from 1.5"),
    "sparse, below zero": (
        {"X": sparse.csr_array(-np.eye(4, 5))},
        r"needs X in \[0, 1\]. Got values from -1 to 0",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("n_calls", [0, 2])
def test_a_failed_call_leaves_everything_as_it_was(
    make_estimator, X_unit, n_calls, wrong
):
    call, message = WRONG[wrong]
    model = make_estimator(likelihood="bernoulli", n_clusters=2)
    for _ in range(n_calls):
        model.partial_fit(X_unit)
    before = copy.deepcopy(vars(model))
    with pytest.raises(ValueError, match=message):
        model.partial_fit(**call)
    assert_same(vars(model), before)


def test_a_chunk_of_another_width_leaves_everything_as_it_was(make_estimator, X):
    model = make_estimator().partial_fit(X)
    before = copy.deepcopy(vars(model))
    for chunk in (X[:, :4], sparse.csr_array(X[:, :4])):
        with pytest.raises(ValueError, match="X has 4 features, but VaDEClusterer is"):
            model.partial_fit(chunk)
    assert_same(vars(model), before)


@pytest.mark.parametrize("change", [{"early_stopping": True}, {"n_clusters": 4}])
def test_parameters_that_a_stream_cannot_serve(make_estimator, X, change):
    model = make_estimator().partial_fit(X)
    before = copy.deepcopy(vars(model))
    message = "holds none out. Got early_stopping|continues a model with n_clusters=3"
    with pytest.raises(ValueError, match=f"partial_fit .*({message})"):
        model.set_params(**change).partial_fit(X)
    assert_same(vars(model), {**before, **change})


def test_a_loss_that_is_not_finite_leaves_everything_as_it_was(make_estimator, X):
    model = make_estimator().partial_fit(X)
    before = copy.deepcopy(vars(model))
    with pytest.raises(ValueError, match="not finite"):
        model.set_params(learning_rate_init=1e200).partial_fit(X)
    assert_same(vars(model), {**before, "learning_rate_init": 1e200})


def test_the_first_chunk_needs_a_row_for_each_cluster(make_estimator, X):
    with pytest.raises(ValueError, match="n_samples=2 should be >= n_clusters=3"):
        make_estimator().partial_fit(X[:2])
    with pytest.raises(ValueError, match="is not fitted"):
        make_estimator().predict(X)


# --- Larger than memory -------------------------------------------------------------

FIT_A_FILE = """
import sys
import numpy as np
from skvade import VaDEClusterer

model = VaDEClusterer(
    2, latent_dim=2, hidden_layer_sizes=(8,), pretrain_max_iter=1, n_init=1,
    warmup_max_iter=1, max_iter=1, tol=0, random_state=0,
    batch_size=256,
)
X = np.load(sys.argv[1], mmap_mode="r")
model.fit(X[:3000]).predict(X[:3000])
print("warm", flush=True)
sys.stdin.readline()
model.fit(X).predict(X)
"""


def private_memory(process):
    """Bytes that are no pages of a file, 0 if the process has ended."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    kilobytes = re.findall(r"RssAnon:\s*(\d+)", status)
    return 1024 * int(kilobytes[0]) if kilobytes else 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_is_fitted_without_copying_it(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "X.npy"
    X = np.lib.format.open_memmap(path, "w+", np.float32, (30_000, 1000))
    for rows in np.array_split(X, 40):
        rows[:] = rng.normal(size=(1, 1000)) + rng.normal(size=(len(rows), 1))
    X[5, 3] = np.nan
    X.flush()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", FIT_A_FILE, str(path)]
    # What is freed is given back at once: holes in the heap are not what is measured.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        assert process.stdout.readline() == "warm\n"
        before = peak = private_memory(process)
        process.stdin.write("go\n")
        process.stdin.flush()
        # Watched from outside: a thread beside would allocate among the arrays.
        while process.poll() is None:
            peak = max(peak, private_memory(process))
            time.sleep(0.005)
    assert process.returncode == 0
    assert peak - before < 0.1 * X.nbytes


def test_a_fit_keeps_little_of_each_row(make_estimator, monkeypatch):
    """Ten latent coordinates or ten responsibilities would take 80 bytes each."""
    monkeypatch.setattr(_training, "MOST_ROWS", 500)
    settings = {"latent_dim": 10, "n_clusters": 10, "batch_size": 1000, "max_iter": 1}
    model = make_estimator(**settings, pretrain_max_iter=1)

    def peak(n_rows):
        X = np.random.default_rng(0).normal(size=(n_rows, 4))
        model.fit(X[:100])
        tracemalloc.start()
        model.fit(X)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert (peak(60_000) - peak(20_000)) / 40_000 < 60
