"""Archives: what comes back, what is rejected, and files whose write is cut short."""

import errno
import json
import math
import os
import random
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import kill, write
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from skvade._archive import Description, read_archive, write_archive


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tree.npz"


def write_and_read(path, value):
    write_archive(path, {"value": value})
    return read_archive(path)["value"]


# --- What comes back ----------------------------------------------------------------

PLAIN = {
    "constants": [None, True, False],
    "numbers": [0, -(2**70), 0.1, 1e-320, -0.0, math.inf, -math.inf],
    "text": "ü\n$array",
    "tuples": ((1, "a"), [(2,)], ()),
    "empty": [{}, [], ""],
    "dicts": {"a": {"b": 1, "c/d": 2}},
    "description": Description("<function f>"),
}


@pytest.mark.parametrize("value", PLAIN.values(), ids=[*PLAIN])
def test_plain_values_come_back(path, value):
    result = write_and_read(path, value)
    assert result == value
    assert repr(result) == repr(value)


def test_nan_comes_back(path):
    assert math.isnan(write_and_read(path, math.nan))


ARRAYS = {
    "float32": np.array([0.1, np.nan, np.inf, -0.0, 1e-45], np.float32),
    "int32": np.arange(6, dtype=np.int32).reshape(2, 3),
    "uint8": np.arange(3, dtype=np.uint8),
    "a scalar": np.array(0.1),
    "empty": np.zeros((0, 3), np.int64),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "text": np.array(["a", "bc"]),
    "bool": np.array([True, False]),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=[*ARRAYS])
def test_arrays_come_back_with_their_bits(path, array):
    result = write_and_read(path, {"nested": [array]})["nested"][0]
    assert result.dtype == array.dtype
    assert result.shape == array.shape
    assert result.tobytes() == array.tobytes()


def test_tensors_come_back_as_arrays(path):
    for tensor in (torch.tensor(0.1), torch.arange(6).reshape(2, 3).T):
        result = write_and_read(path, tensor.requires_grad_(tensor.is_floating_point()))
        assert_array_equal(result, tensor.detach().numpy(), strict=True)


def test_sparse_matrices_come_back_with_their_stored_zeros(path):
    matrix = csr_array(([0.0, 2.0], [1, 0], [0, 1, 2]), shape=(2, 3))
    result = write_and_read(path, matrix)
    assert result.shape == (2, 3)
    for name in ("data", "indices", "indptr"):
        assert_array_equal(getattr(result, name), getattr(matrix, name))


def test_numpy_scalars_become_those_of_python(path):
    result = write_and_read(path, [np.float32(0.5), np.int64(3), np.bool_(True)])
    assert repr(result) == "[0.5, 3, True]"


def test_other_tools_can_read_the_file(path):
    write_archive(path, {"a": {"x": np.arange(3)}, "b": 1})
    with np.load(path, allow_pickle=False) as file:
        assert_array_equal(file["a/x"], np.arange(3))
        assert json.loads(file["tree.json"])["b"] == 1


# --- What is rejected ---------------------------------------------------------------


def test_other_objects_are_rejected(path):
    with pytest.raises(TypeError, match=r"Got <object object.* type object as a/1"):
        write_archive(path, {"a": [1, object()]})
    assert not path.exists()


class Unpickled:
    """Leaves a mark when it is loaded from a pickle."""

    loaded = False

    def __reduce__(self):
        return setattr, (Unpickled, "loaded", True)


def test_reading_executes_no_code(path):
    pickled = path.with_name("object.npy")
    np.save(pickled, np.array([Unpickled()], object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tree.json", '{"$array": "object.npy"}')
        archive.write(pickled, "object.npy")
    with pytest.raises(ValueError, match="not a file that a Checkpoint has written"):
        read_archive(path)
    assert not Unpickled.loaded


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 and no more"])
def test_other_files_are_rejected(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tree\.npz is not a file that a Check"):
        read_archive(path)


def test_other_zip_files_are_rejected(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "no tree")
    with pytest.raises(ValueError, match="not a file that a Checkpoint has written"):
        read_archive(path)


def test_damage_is_found(path):
    write_archive(path, {"x": np.zeros(1000)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="or it was damaged later: Bad CRC-32"):
        read_archive(path)


@pytest.mark.parametrize("as_given", [str, Path])
def test_a_file_that_does_not_exist_is_named(tmp_path, monkeypatch, as_given):
    monkeypatch.chdir(tmp_path)
    message = f"There is no file {tmp_path / 'fit.npz'}. Give the path of a file"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        read_archive(as_given("fit.npz"))


def test_a_folder_is_named(tmp_path):
    message = f"{tmp_path} is a folder. Give the path of a file"
    with pytest.raises(IsADirectoryError, match=re.escape(message)):
        read_archive(tmp_path)


# --- A write that is cut short ------------------------------------------------------


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_former_file(path, monkeypatch, function):
    write_archive(path, {"x": np.zeros(10)})

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, function, fail)
        write_archive(path, {"x": np.ones(10)})
    assert_array_equal(read_archive(path)["x"], 0)
    assert os.listdir(path.parent) == [path.name]


def test_a_disk_that_is_full_in_the_midst_of_an_array(path):
    """A limit of the size of files stands for the disk."""
    resource = pytest.importorskip("resource")
    write_archive(path, {"x": np.zeros(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_archive(path, {"x": np.ones(10**6)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_array_equal(read_archive(path)["x"], 0)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="needs fork and SIGKILL")
def test_a_killed_write_leaves_a_complete_file(tmp_path):
    rng, n_cut = random.Random(), 0
    for number in range(10):
        path = tmp_path / f"{number}.npz"
        assert kill(write, (100_000,), path, rng.uniform(0, 0.02))
        tree = read_archive(path)
        assert tree["first"] == tree["last"]
        assert_array_equal(tree["x"], tree["first"])
        n_cut += len(os.listdir(tmp_path)) > number + 1 + n_cut
    assert n_cut
