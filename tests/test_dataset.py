"""Datasets: samples as batches of standardized tensors, gathered from X or a cache."""

from itertools import chain

import numpy as np
import pytest
import torch
from missing_data import mean_imputed
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from skvade._data import dataset as dataset_module
from skvade._data import device
from skvade._data.dataset import Dataset
from skvade._data.device import make_generator, resolve_device
from skvade._data.scaling import TARGET_STD, DataSummary, Scaling, uniform_weights

CPU = resolve_device("cpu", "float64")
FLOAT32 = resolve_device("cpu", "float32")
IDENTITY = Scaling(np.zeros(2), 1.0, np.zeros(2))

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device"
)


def make_dataset(X, scaling=None, device_config=CPU, sample_weight=None):
    """Make a dataset of X, by its own scaling unless another one is given."""
    if sample_weight is None:
        sample_weight = uniform_weights(X.shape[0])
    summary = DataSummary.from_array(X, sample_weight)
    if scaling is None:
        scaling = summary.scaling(center=True)
    return Dataset.from_array(
        X, scaling, device_config, sample_weight, summary.has_missing
    )


def numbered_samples(n_samples):
    """Make samples that hold their own number in both features."""
    X = np.repeat(np.arange(n_samples, dtype=float)[:, None], 2, axis=1)
    return make_dataset(X, IDENTITY)


def numbers(tensors):
    return [x[:, 0].int().tolist() for x in tensors]


def batches_of(dataset, *arguments):
    return [batch.x for batch in dataset.iter_batches(*arguments)]


def assert_same_batch(batch, expected):
    for values, expected_values in zip(batch, expected, strict=True):
        if expected_values is None:
            assert values is None
        else:
            assert values.dtype == expected_values.dtype
            assert_array_equal(values.cpu(), expected_values.cpu())


# --- From samples to tensors --------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 100, 1e8])
def test_samples_are_centered_before_they_are_rounded(offset):
    X = np.random.default_rng(0).normal(size=(100, 3))
    dataset = make_dataset(X + offset, device_config=FLOAT32)
    x = dataset.get_batch(np.arange(100)).x.numpy()
    assert_allclose(x.mean(0), 0, atol=1e-6)
    assert_allclose(x.var(0).mean(), TARGET_STD**2, rtol=1e-5)
    assert_allclose(x, make_dataset(X).get_batch(np.arange(100)).x, atol=1e-6)


def test_a_batch_holds_the_samples_at_the_positions_standardized():
    X = np.random.default_rng(0).normal(size=(10, 3))
    scaling = Scaling(np.array([1.0, 2.0, 3.0]), 0.5, np.zeros(3))
    positions = np.array([7, 7, 0])
    batch = make_dataset(X, scaling).get_batch(positions)
    assert_allclose(batch.x, (X[positions] - scaling.location) / 0.5)
    assert_array_equal(batch.indices, positions)
    assert_array_equal(batch.sample_weight, np.ones(3))
    assert batch.mask is None


@pytest.mark.parametrize("center", [True, False])
def test_missing_entries_hold_the_mean_of_their_feature(X_missing, center):
    summary = DataSummary.from_array(X_missing, uniform_weights(len(X_missing)))
    scaling = summary.scaling(center)
    dataset = make_dataset(X_missing, scaling)
    expected = (mean_imputed(X_missing) - scaling.location) / scaling.scale
    for batch in dataset.iter_batches(40, make_generator(0)):
        assert_allclose(batch.x, expected[batch.indices], atol=1e-12)
        assert_array_equal(batch.mask, ~np.isnan(X_missing[batch.indices]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_have_the_dtype_of_the_precision(precision, dtype):
    X = np.ones((3, 2), dtype)
    X[0, 0] = np.nan
    dataset = make_dataset(X, device_config=resolve_device("cpu", precision))
    expected = torch.float64 if precision == "float64" else torch.float32
    for one in (dataset, dataset.cache_on_device()):
        x, sample_weight, _, mask, *_ = one.get_batch(np.arange(3))
        assert x.dtype == sample_weight.dtype == mask.dtype == expected


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_of_a_read_only_memory_map(tmp_path, order, dtype):
    X = np.random.default_rng(0).normal(size=(600, 2)).astype(dtype, order=order)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")

    scaling = Scaling(np.array([1.0, 2.0]), 2.0, np.zeros(2))
    batches = make_dataset(mapped, scaling).iter_padded_batches(256)
    found = torch.cat([batch.x[:n] for batch, n in batches])

    assert isinstance(mapped, np.memmap)
    assert_allclose(found, (X - scaling.location) / 2, rtol=1e-6)
    assert_array_equal(mapped, X)


@pytest.mark.parametrize("cached", [True, False])
def test_changing_a_batch_leaves_x_as_it_is(X_missing, cached):
    X = X_missing.copy()
    dataset = make_dataset(X)
    if cached:
        dataset = dataset.cache_on_device()
    expected = dataset.get_batch(np.arange(len(X))).x.clone()
    for batch, _ in dataset.iter_padded_batches(4):
        batch.x.zero_()
    for x in batches_of(dataset, 3, make_generator(0)):
        x.zero_()
    assert_array_equal(X, X_missing)
    assert_array_equal(dataset.get_batch(np.arange(len(X))).x, expected)


# --- Batches ------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [1, 8, 9, 23])
def test_padded_batches_have_one_shape_and_cover_the_samples_in_order(n_samples):
    dataset = numbered_samples(n_samples)
    batches = [(batch.x, n) for batch, n in dataset.iter_padded_batches(8)]
    assert {x.shape for x, _ in batches} == {(8, 2)}
    assert [*chain(*numbers(x[:n] for x, n in batches))] == list(range(n_samples))


@pytest.mark.parametrize("min_batches", [1, 8])
@pytest.mark.parametrize(
    "n_samples, batch_size", [(100, 8), (64, 8), (10, 3), (7, 7), (5, 100), (1, 1)]
)
def test_an_epoch_visits_every_sample_equally_often(n_samples, batch_size, min_batches):
    dataset = numbered_samples(n_samples)
    arguments = batch_size, make_generator(0), min_batches
    batches = numbers(batches_of(dataset, *arguments))
    n_batches = -(-n_samples // batch_size)
    n_visits = -(-min_batches // n_batches)
    assert len(batches) == n_visits * n_batches >= min_batches
    for visit in range(n_visits):
        of_visit = batches[visit * n_batches : (visit + 1) * n_batches]
        assert sorted(chain(*of_visit)) == list(range(n_samples))


@pytest.mark.parametrize("n_samples, batch_size", [(100, 8), (10, 3), (7, 7), (9, 4)])
def test_sizes_of_batches_differ_by_one_at_most(n_samples, batch_size):
    dataset = numbered_samples(n_samples)
    batches = numbers(batches_of(dataset, batch_size, make_generator(0)))
    sizes = {len(batch) for batch in batches}
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_every_visit_has_another_order_that_the_generator_decides():
    def two_epochs(seed):
        dataset, generator = numbered_samples(50), make_generator(seed)
        epochs = [numbers(batches_of(dataset, 50, generator, 3)) for _ in range(2)]
        return [*chain(*epochs)]

    orders = two_epochs(0)
    assert len({tuple(order) for order in orders}) == 2 * 3
    assert two_epochs(0) == orders
    assert two_epochs(1)[0] != orders[0]


@pytest.mark.parametrize("cached", [True, False])
def test_batches_carry_the_weights_of_their_samples(cached):
    X, weight = np.repeat(np.arange(20.0)[:, None], 2, axis=1), np.arange(20.0)
    dataset = make_dataset(X, IDENTITY, FLOAT32, weight)
    if cached:
        dataset = dataset.cache_on_device()
    dataset = dataset.drop_zero_weight()
    batches = list(dataset.iter_batches(6, make_generator(0)))
    assert len(dataset) == sum(len(batch.x) for batch in batches) == 19
    assert_array_equal(dataset.weights, weight[1:])
    for x, w, *_ in batches:
        assert x.dtype == w.dtype
        assert_array_equal(x[:, 0], w)


# --- Subsets ------------------------------------------------------------------------


@pytest.mark.parametrize("n_validation", [1, 4, 19])
def test_split_puts_every_sample_into_one_of_both_parts(n_validation):
    dataset = numbered_samples(20)
    training, validation = dataset.split(n_validation, make_generator(0))
    assert len(validation) == n_validation
    assert sorted([*training.indices, *validation.indices]) == list(range(20))
    assert_array_equal(training.full().indices, dataset.indices)


def test_split_without_validation_samples_leaves_dataset_and_generator_as_they_are():
    dataset, generator = numbered_samples(20), make_generator(0)
    before = generator.get_state()
    assert dataset.split(0, generator) == (dataset, None)
    assert_array_equal(generator.get_state(), before)


def test_positions_of_a_subset_count_from_the_subset():
    dataset = numbered_samples(20).subset(np.arange(10, 20)).subset(np.array([0, 9]))
    assert len(dataset) == 2
    assert numbers([dataset.get_batch(np.array([1, 0])).x]) == [[19, 10]]


def test_a_subsample_is_distinct_and_in_order():
    subsample = numbered_samples(20).subsample(5, np.random.RandomState(0))
    (members,) = numbers([subsample.get_batch(np.arange(5)).x])
    assert members == sorted(set(members))
    assert members != [0, 1, 2, 3, 4]
    assert len(numbered_samples(20).subsample(30, np.random.RandomState(0))) == 20


# --- Cache on the device ------------------------------------------------------------


KINDS = {
    "dense": lambda X, X_missing: X,
    "Fortran order": lambda X, X_missing: np.asfortranarray(X, np.float64),
    "float32": lambda X, X_missing: X.astype(np.float32),
    "sparse": lambda X, X_missing: csr_array(np.where(X > 0, X, 0)),
    "missing entries": lambda X, X_missing: X_missing,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_cached_batches_are_the_same(X, X_missing, monkeypatch, kind, precision):
    monkeypatch.setattr(dataset_module, "TRANSFER_CHUNK_SIZE", 7 * X.shape[1])
    data = KINDS[kind](X, X_missing)
    weight = np.random.default_rng(0).random(data.shape[0])
    weight[::3] = 0
    device_config = resolve_device("cpu", precision)
    dataset = make_dataset(data, None, device_config, weight)
    cached = dataset.cache_on_device()
    assert dataset.device_cache is None
    assert cached.device_cache.x.shape == data.shape
    positions = np.array([5, 0, 5, 11])
    for one, expected in [
        (cached, dataset),
        (cached.drop_zero_weight(), dataset.drop_zero_weight()),
        (cached.drop_zero_weight().full(), dataset),
        (cached.subset(np.arange(20, 40)), dataset.subset(np.arange(20, 40))),
    ]:
        assert_same_batch(one.get_batch(positions), expected.get_batch(positions))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_is_the_same_with_a_cache_to_the_last_bit(
    make_estimator, X, X_missing, kind, weighted, monkeypatch
):
    """Through all stages, with validation samples and weights of zero."""
    data = KINDS[kind](X, X_missing)
    weight = np.arange(len(X)) % 4 if weighted else None
    models = []
    for limit in (0, device.MAX_CPU_CACHE):
        monkeypatch.setattr(device, "MAX_CPU_CACHE", limit)
        model = make_estimator(early_stopping=True).fit(data, sample_weight=weight)
        models.append(model.set_params(early_stopping=False).partial_fit(data))
    uncached, cached = models
    assert_array_equal(cached.labels_, uncached.labels_)
    assert cached.loss_curve_ == uncached.loss_curve_
    assert_array_equal(cached.means_, uncached.means_)


def test_datasets_are_cached_up_to_the_limit(X, X_missing, monkeypatch):
    """A mask takes as much room as the samples."""
    monkeypatch.setattr(device, "MAX_CPU_CACHE", X.size * 4)
    assert make_dataset(X, device_config=FLOAT32).cache_on_device().device_cache
    assert make_dataset(X).cache_on_device().device_cache is None
    X_missing = X_missing.astype(np.float32)
    dataset = make_dataset(X_missing, device_config=FLOAT32)
    assert dataset.cache_on_device().device_cache is None
    monkeypatch.setattr(device, "MAX_CPU_CACHE", 2 * X.size * 4)
    assert dataset.cache_on_device().device_cache


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
    on_gpu = model.predict_proba(data)
    on_cpu = model.set_params(device="cpu").predict_proba(data)
    assert_allclose(on_gpu, on_cpu, atol=1e-2 if precision == "bfloat16" else 1e-4)


@needs_cuda
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_with_room_holds_the_samples(X, X_missing, kind):
    data = KINDS[kind](X, X_missing)
    dataset = make_dataset(data, device_config=resolve_device("cuda", "float32"))
    cached = dataset.cache_on_device()
    assert cached.device_cache.x.is_cuda
    positions = np.arange(9)
    assert_same_batch(cached.get_batch(positions), dataset.get_batch(positions))
