"""Files of arrays and plain values that load without executing code.

An archive is a zip file. Its member `tree.json` holds nested dicts and lists, in which
each array is a reference to a member in NumPy's format `.npy`.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

__all__ = ["Description", "read_archive", "write_archive"]

TREE = "tree.json"

# Keys of a dict of one entry that stands for something else than a dict.
ARRAY, SPARSE, TUPLE, DESCRIPTION = "$array", "$sparse", "$tuple", "$description"


class Description(NamedTuple):
    """What an archive holds in the place of an object that it cannot hold."""

    text: str

    def __repr__(self) -> str:
        return self.text


def write_archive(path: str | os.PathLike, tree: dict[str, Any]) -> None:
    """Write nested dicts, lists and tuples of arrays, tensors and plain values.

    The file is complete under its name, or not there: what stood there before remains
    until a temporary file in the same folder is complete and on the disk.

    Raises
    ------
    OSError
        If the file can not be written.
    TypeError
        If the tree holds an object of another type.
    """
    path = Path(path)
    arrays: dict[str, NDArray] = {}
    text = json.dumps(_encode(tree, "", arrays))
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            with ZipFile(file, "w") as archive:
                archive.writestr(TREE, text)
                for name, array in arrays.items():
                    with archive.open(name, "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk; Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_archive(path: str | os.PathLike) -> dict[str, Any]:
    """Read what `write_archive` has written, tensors as arrays.

    Raises
    ------
    OSError
        If the file can not be read: a FileNotFoundError if there is none, an
        IsADirectoryError if it is a folder.
    ValueError
        If it is no such archive.
    """
    path = Path(path).absolute()
    remedy = "Give the path of a file that a Checkpoint has written"
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. {remedy}.")
    if not path.exists():
        raise FileNotFoundError(
            f"There is no file {path}. {remedy}, or use fit where none was written yet."
        )
    try:
        with ZipFile(path) as archive:
            tree = json.loads(archive.read(TREE))
            arrays = {}
            for name in archive.namelist():
                if name != TREE:
                    with archive.open(name) as member:
                        array = np.lib.format.read_array(member, allow_pickle=False)
                        arrays[name] = array
        return _decode(tree, arrays)
    except (BadZipFile, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is not a file that a Checkpoint has written, or it was damaged "
            f"later: {error}. {remedy}; pickle or joblib loads what they have written."
        ) from error


def _encode(value: Any, name: str, arrays: dict[str, NDArray]) -> Any:
    """Express a value in JSON, and move its arrays to a dict, by member name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor):
        value = value.numpy(force=True)
    if isinstance(value, np.ndarray):
        member = f"{name.removeprefix('/')}.npy"
        arrays[member] = value
        return {ARRAY: member}
    if issparse(value):
        csr = csr_array(value)
        parts = [csr.data, csr.indices, csr.indptr, list(csr.shape)]
        return {SPARSE: _encode(parts, name, arrays)}
    if isinstance(value, Description):
        return {DESCRIPTION: value.text}
    if isinstance(value, Mapping):
        return {key: _encode(v, f"{name}/{key}", arrays) for key, v in value.items()}
    if isinstance(value, list | tuple):
        items = [_encode(v, f"{name}/{i}", arrays) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {TUPLE: items}
    raise TypeError(
        f"A checkpoint holds arrays and plain values. Got {value!r} of type "
        f"{type(value).__name__} as {name.removeprefix('/')}."
    )


def _decode(value: Any, arrays: Mapping[str, NDArray]) -> Any:
    """Invert `_encode`."""
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$array": member}:
            return arrays[member]
        case {"$sparse": parts}:
            data, indices, indptr, shape = _decode(parts, arrays)
            return csr_array((data, indices, indptr), shape=shape)
        case {"$tuple": items}:
            return tuple(_decode(items, arrays))
        case {"$description": text}:
            return Description(text)
    return {key: _decode(item, arrays) for key, item in value.items()}
