"""How often X is read: it may be a memory map that is larger than the memory."""

import numpy as np
import pytest
from missing_data import remove_entries
from recorders import PropagatedRecorder

from skvade import _estimator, _prediction
from skvade._data import device
from skvade._inference import MAX_CHUNK_SAMPLES

N_SAMPLES, N_FEATURES = 4 * MAX_CHUNK_SAMPLES, 6
FEW_STEPS = {"pretrain_max_iter": 1, "max_iter": 1, "batch_size": 256}


class CountingArray(np.ndarray):
    """An array that counts the bytes that are read of it.

    What is read is a plain array; any other operation on the whole counts as a pass.
    """

    n_bytes = 0

    def __getitem__(self, key):
        values = np.asarray(self)[key]
        CountingArray.n_bytes += np.asarray(values).nbytes
        return values

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        CountingArray.n_bytes += self.nbytes
        return getattr(ufunc, method)(*map(np.asarray, inputs), **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        CountingArray.n_bytes += self.nbytes
        plain = [np.asarray(a) if isinstance(a, CountingArray) else a for a in args]
        return function(*plain, **kwargs)


@pytest.fixture(params=["complete", "missing"])
def data(request):
    """Samples of float32, four full chunks of a prediction."""
    X = np.random.default_rng(0).normal(size=(N_SAMPLES, N_FEATURES))
    X = X if request.param == "complete" else remove_entries(X)
    return X.astype(np.float32)


@pytest.fixture
def n_passes(monkeypatch):
    """Count the passes over X once it is validated."""
    validate_X = _prediction.validate_X

    def validate(estimator, X, *, reset):
        validated = validate_X(estimator, X, reset=reset)
        assert np.shares_memory(validated, X)
        return validated.view(CountingArray)

    monkeypatch.setattr(_estimator, "validate_X", validate)
    monkeypatch.setattr(_prediction, "validate_X", validate)
    monkeypatch.setattr(CountingArray, "n_bytes", 0)
    n_bytes = N_SAMPLES * N_FEATURES * np.dtype(np.float32).itemsize
    return lambda: CountingArray.n_bytes / n_bytes


def test_validation_leaves_the_values_to_the_summary(make_estimator, data):
    """It finds neither infinity nor samples without any observed entry."""
    data[3], data[5, 2] = np.nan, np.inf
    for order in ("C", "F"):
        X = np.asarray(data, order=order)
        X.setflags(write=False)
        validated = _prediction.validate_X(make_estimator(), X, reset=True)
        assert np.shares_memory(validated, X)
        assert np.isinf(validated).any()


def passes_before_training(estimator, n_passes, data, **fit_params):
    """Fit, and give the number of passes over X when the first epoch begins."""
    counts = []

    def count(task_name, *_):
        if task_name == "epoch":
            counts.append(n_passes())

    recorder = PropagatedRecorder(begin=count)
    estimator.set_callbacks(recorder).fit(data, **fit_params)
    return counts[0]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"early_stopping": True},
        {"pretraining": "vae"},
        {"likelihood": "bernoulli"},
        {"precision": "float64"},
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fit_reads_x_at_most_twice_before_training(
    make_estimator, data, n_passes, monkeypatch, change, cached
):
    """Once for its summary, and once more where the device holds all samples."""
    if not cached:
        monkeypatch.setattr(device, "MAX_CPU_CACHE", 0)
    if change.get("likelihood") == "bernoulli":
        data = 1 / (1 + np.exp(data))
    estimator = make_estimator(**FEW_STEPS, **change)
    assert passes_before_training(estimator, n_passes, data) == (2 if cached else 1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fit_with_weights_reads_x_at_most_twice_before_training(
    make_estimator, data, n_passes
):
    estimator = make_estimator(**FEW_STEPS)
    weight = np.arange(N_SAMPLES) % 4
    passes = passes_before_training(estimator, n_passes, data, sample_weight=weight)
    assert passes <= 2


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_warm_start_reads_x_at_most_twice_before_training(
    make_estimator, data, n_passes, monkeypatch, cached
):
    """Once for its summary, and once for the cache or the clusters before it."""
    estimator = make_estimator(**FEW_STEPS, warm_start=True)
    estimator.fit(data)
    if not cached:
        monkeypatch.setattr(device, "MAX_CPU_CACHE", 0)
    monkeypatch.setattr(CountingArray, "n_bytes", 0)
    assert passes_before_training(estimator, n_passes, data) <= 2


@pytest.fixture
def estimator(make_estimator, data):
    """An estimator that is fitted before passes are counted."""
    return make_estimator(**FEW_STEPS).fit(data)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "method",
    [
        "predict",
        "predict_proba",
        "predict_log_proba",
        "transform",
        "reconstruct",
        "score_samples",
        "score",
    ],
)
def test_a_prediction_reads_x_once_before_the_networks_do(
    estimator, data, n_passes, method
):
    """The networks read every sample once: the batches need no padding here."""
    getattr(estimator, method)(data)
    assert n_passes() == 1 + 1


def test_a_prediction_of_counts_reads_x_once_more(make_estimator, n_passes):
    """To find what is no count, and samples without any."""
    data = np.random.default_rng(0).poisson(2.0, (N_SAMPLES, N_FEATURES))
    data = data.astype(np.float32)
    data[5] = 0
    estimator = make_estimator(n_clusters=1, likelihood="poisson", max_iter=1)
    estimator.fit(data[100:200])
    CountingArray.n_bytes = 0
    with pytest.warns(UserWarning, match="no count above zero in row 5: 1 of 2048"):
        estimator.predict(data)
    assert n_passes() == 1 + 1 + 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_impute_reads_x_once_before_the_networks_do(estimator, data, n_passes):
    """Without missing entries they have nothing to do; the result takes two passes."""
    estimator.impute(data)
    assert n_passes() == (1 + 1 + 2 if np.isnan(data).any() else 1)
