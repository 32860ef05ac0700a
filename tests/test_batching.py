from contextlib import nullcontext
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skvade import _batching
from skvade._batching import (
    Rows,
    dump_moments,
    dump_parameters,
    load_moments,
    load_parameters,
    make_generator,
    place,
)
from skvade._matrix import UNIT, Standardization

CPU = place("cpu", "float64")
AS_IS = Standardization(np.zeros(2), 1.0, np.zeros(2))


def numbered_rows(n):
    """Rows that tell their own number in both columns."""
    X = np.repeat(np.arange(n, dtype=float)[:, None], 2, axis=1)
    return Rows.of(X, AS_IS, CPU)


def numbers(tensors):
    return [x[:, 0].int().tolist() for x in tensors]


def batches_of(rows, *arguments):
    return [batch.x for batch in rows.batches(*arguments)]


# --- Rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 100, 1e8])
def test_rows_are_centered_before_they_lose_digits(offset):
    X = np.random.default_rng(0).normal(size=(100, 3))
    rows = Rows.of(
        X + offset, Standardization.of(X + offset, center=True), place("cpu", "float32")
    )
    x = rows.take(np.arange(100)).x.numpy()
    assert_allclose(x.mean(0), 0, atol=1e-6)
    assert_allclose(x.var(0).mean(), UNIT**2, rtol=1e-5)
    expected = Rows.of(X, Standardization.of(X, center=True), CPU)
    assert_allclose(x, expected.take(np.arange(100)).x, atol=1e-6)


def test_take_standardizes_the_rows_that_are_asked_for():
    X = np.random.default_rng(0).normal(size=(10, 3))
    standard = Standardization(np.array([1.0, 2.0, 3.0]), 0.5, np.zeros(3))
    positions = np.array([7, 7, 0])
    taken = Rows.of(X, standard, CPU).take(positions).x
    assert_allclose(taken, (X[positions] - standard.location) / 0.5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_have_the_dtype_of_the_precision(precision, dtype):
    rows = Rows.of(np.ones((3, 2), dtype), AS_IS, place("cpu", precision))
    expected = torch.float64 if precision == "float64" else torch.float32
    assert rows.take(np.arange(3)).x.dtype == expected


INTEL = {"cpu_name": "Intel Xeon", "avx512_bf16": True}
AMD = {"cpu_name": "AMD EPYC", "avx512_bf16": True}


@pytest.mark.parametrize(
    "capabilities, fast",
    [
        ({}, False),
        (INTEL, False),
        ({**INTEL, "amx_bf16": True}, True),
        (AMD, True),
        ({**AMD, "avx512_bf16": False}, False),
    ],
)
def test_bfloat16_gives_way_with_a_warning_where_it_is_slow(
    monkeypatch, capabilities, fast
):
    monkeypatch.undo()  # what conftest says of every machine
    reports = {"get_capabilities": lambda: capabilities}
    monkeypatch.setattr(_batching.torch, "cpu", SimpleNamespace(**reports))
    message = "precision='bfloat16' would be slower than float32 on this cpu"
    with nullcontext() if fast else pytest.warns(UserWarning, match=message):
        assert place("cpu", "bfloat16").bfloat16 is fast
    assert place("cpu", "bfloat16", strict=False).bfloat16 is fast
    assert not place("cpu", "float32").bfloat16


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_a_read_only_memory_map(tmp_path, order, dtype):
    X = np.random.default_rng(0).normal(size=(600, 2)).astype(dtype, order=order)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")

    standard = Standardization(np.array([1.0, 2.0]), 2.0, np.zeros(2))
    chunks = Rows.of(mapped, standard, CPU).chunks(256)
    found = torch.cat([batch.x[:n] for batch, n in chunks])

    assert isinstance(mapped, np.memmap)
    assert_allclose(found, (X - standard.location) / 2, rtol=1e-6)
    assert_array_equal(mapped, X)


def test_taking_rows_leaves_the_matrix_as_it_is():
    X = np.random.default_rng(0).normal(size=(10, 2))
    before = X.copy()
    rows = Rows.of(X, Standardization.of(X, center=True), CPU)
    for batch, _ in rows.chunks(4):
        batch.x.zero_()
    for x in batches_of(rows, 3, make_generator(0)):
        x.zero_()
    assert_array_equal(X, before)


@pytest.mark.parametrize("n_rows", [1, 8, 9, 23])
def test_chunks_have_one_shape_and_cover_the_rows_in_order(n_rows):
    chunks = [(batch.x, n) for batch, n in numbered_rows(n_rows).chunks(8)]
    assert {x.shape for x, _ in chunks} == {(8, 2)}
    assert [*chain(*numbers(x[:n] for x, n in chunks))] == list(range(n_rows))


@pytest.mark.parametrize("least", [1, 8])
@pytest.mark.parametrize(
    "n_rows, batch_size", [(100, 8), (64, 8), (10, 3), (7, 7), (5, 100), (1, 1)]
)
def test_an_epoch_visits_every_row_equally_often(n_rows, batch_size, least):
    rows = numbered_rows(n_rows)
    batches = numbers(batches_of(rows, batch_size, make_generator(0), least))
    n_batches = -(-n_rows // batch_size)
    n_visits = -(-least // n_batches)
    assert len(batches) == n_visits * n_batches >= least
    for visit in range(n_visits):
        of_visit = batches[visit * n_batches : (visit + 1) * n_batches]
        assert sorted(chain(*of_visit)) == list(range(n_rows))


@pytest.mark.parametrize("n_rows, batch_size", [(100, 8), (10, 3), (7, 7), (9, 4)])
def test_batches_differ_by_one_row_at_most(n_rows, batch_size):
    batches = numbers(batches_of(numbered_rows(n_rows), batch_size, make_generator(0)))
    sizes = {len(batch) for batch in batches}
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_every_visit_has_an_order_of_its_own_that_the_generator_decides():
    def two_epochs(seed):
        rows, generator = numbered_rows(50), make_generator(seed)
        return [
            *chain(*(numbers(batches_of(rows, 50, generator, 3)) for _ in range(2)))
        ]

    orders = two_epochs(0)
    assert len({tuple(order) for order in orders}) == 2 * 3
    assert two_epochs(0) == orders
    assert two_epochs(1)[0] != orders[0]


@pytest.mark.parametrize("n_held_out", [1, 4, 19])
def test_split_shares_the_rows_out(n_held_out):
    rows = numbered_rows(20)
    training, held_out = rows.split(n_held_out, make_generator(0))
    assert len(held_out) == n_held_out
    assert sorted([*training.members, *held_out.members]) == list(range(20))
    assert_array_equal(training.whole().members, rows.members)


def test_split_of_nothing_keeps_all_rows_and_the_generator():
    rows, generator = numbered_rows(20), make_generator(0)
    before = generator.get_state()
    assert rows.split(0, generator) == (rows, None)
    assert_array_equal(generator.get_state(), before)


def test_subset_of_a_subset_counts_from_the_subset():
    rows = numbered_rows(20).subset(np.arange(10, 20)).subset(np.array([0, 9]))
    assert len(rows) == 2
    assert numbers([rows.take(np.array([1, 0])).x]) == [[19, 10]]


def test_some_rows_are_distinct_and_in_order():
    some = numbered_rows(20).some(5, np.random.RandomState(0))
    (members,) = numbers([some.take(np.arange(5)).x])
    assert members == sorted(set(members))
    assert members != [0, 1, 2, 3, 4]
    assert len(numbered_rows(20).some(30, np.random.RandomState(0))) == 20


# --- Placement ----------------------------------------------------------------------


def pretend(monkeypatch, *, cuda=0, mps=False):
    """Let torch report these devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    "present, expected",
    [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": 1, "mps": True}, "cuda")],
)
def test_auto_is_the_best_device_there_is(monkeypatch, present, expected):
    pretend(monkeypatch, **present)
    assert place("auto", "float32").device.type == expected
    assert place("cpu", "float32").device.type == "cpu"


def test_one_of_several_devices(monkeypatch):
    pretend(monkeypatch, cuda=2)
    assert place("cuda:1", "float32").device == torch.device("cuda", 1)


@pytest.mark.parametrize("device", ["tpu", "gpu", "", "cuda:", "cuda:x", "CPU"])
@pytest.mark.parametrize("strict", [True, False])
def test_unknown_device(device, strict):
    with pytest.raises(ValueError, match=r"The 'device' parameter .* Got .* instead"):
        place(device, "float32", strict=strict)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_missing_device(monkeypatch, device):
    pretend(monkeypatch)
    with pytest.raises(ValueError, match=f"device='{device}' is not available here"):
        place(device, "float32")
    with pytest.warns(UserWarning, match="not available here.* on the CPU"):
        placement = place(device, "float64", strict=False)
    assert placement.device == torch.device("cpu")
    assert placement.dtype == torch.float64


def test_missing_device_beside_others_of_its_kind(monkeypatch):
    pretend(monkeypatch, cuda=1)
    with pytest.raises(ValueError, match="device='cuda:1' is not available here"):
        place("cuda:1", "float32")
    with pytest.warns(UserWarning, match="not available here"):
        place("cuda:1", "float32", strict=False)


def test_available_devices_end_with_the_cpu(monkeypatch):
    pretend(monkeypatch, cuda=1)
    assert _batching.available_devices() == ["cuda", "cuda:0", "cpu"]


# --- Parameters ---------------------------------------------------------------------


def a_module():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    module[0].register_buffer("scalar", torch.tensor(2.5))
    return module.requires_grad_(True)


def test_parameters_survive_the_round_trip():
    with torch.random.fork_rng():
        source, target = a_module(), a_module()
    arrays = dump_parameters(source)
    load_parameters(target, arrays)
    for name, values in source.state_dict().items():
        assert type(arrays[name]) is np.ndarray
        assert torch.equal(target.state_dict()[name], values)


def test_dumped_parameters_are_copies():
    with torch.random.fork_rng():
        module = a_module()
    arrays = dump_parameters(module)
    before = module[0].weight.detach().clone()
    arrays["0.weight"][:] = 7
    assert torch.equal(module[0].weight, before)


def test_loaded_parameters_are_copies_in_the_dtype_of_the_module():
    with torch.random.fork_rng():
        module = a_module().double()
    arrays = {k: v.astype(v.dtype) for k, v in dump_parameters(module).items()}
    load_parameters(module.float(), arrays)
    assert module[0].weight.dtype == torch.float32
    with torch.no_grad():
        module[0].weight.fill_(7)
    assert not (arrays["0.weight"] == 7).any()


def test_parameters_load_from_read_only_arrays():
    with torch.random.fork_rng():
        module = a_module()
    arrays = dump_parameters(module)
    for array in arrays.values():
        array.setflags(write=False)
    load_parameters(module, arrays)
    assert_array_equal(module[0].weight.detach(), arrays["0.weight"])


def test_what_an_optimizer_remembers_survives_the_round_trip():
    with torch.random.fork_rng():
        module, other = a_module(), a_module().double()
    memory = [
        (p, {"mean": torch.full_like(p, 3), "count": torch.tensor(7.0)})
        for p in module.parameters()
    ]
    empty = [
        (p, {"mean": torch.zeros_like(p), "count": torch.tensor(0.0)})
        for p in reversed(list(other.parameters()))
    ]
    moments = dump_moments(module, memory)
    load_moments(other, empty, moments)
    memory[0][1]["mean"].zero_()
    for parameter, kept in empty:
        assert torch.equal(kept["mean"], torch.full_like(parameter, 3))
        assert kept["count"] == 7
    load_moments(other, empty, {})
    assert empty[0][1]["count"] == 7
