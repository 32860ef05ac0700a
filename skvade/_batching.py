"""The border of NumPy and torch: rows into batches, parameters into arrays."""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Generator, Tensor, nn

from skvade._matrix import (
    Standardization,
    check_reach,
    check_unit,
    equal_weights,
    gather,
    has_missing,
    pick,
)
from skvade._warnings import warn

__all__ = [
    "Batch",
    "Moments",
    "Placement",
    "Rows",
    "available_devices",
    "dump_moments",
    "dump_parameters",
    "in_bfloat16",
    "load_moments",
    "load_parameters",
    "make_generator",
    "place",
]

MOVED_AT_ONCE = 4096  # rows, on their way to a GPU that holds all of them


@dataclass(frozen=True)
class Placement:
    """Where the arithmetic happens, in which dtype, and how the hidden layers do it."""

    device: torch.device
    dtype: torch.dtype
    bfloat16: bool = False

    @property
    def fuses_optimizers(self) -> bool:
        return self.device.type != "mps"

    def __call__(self, values: NDArray) -> Tensor:
        return torch.from_numpy(values).to(self.device, self.dtype)

    def has_room(self, n_numbers: int) -> bool:
        """Whether a GPU is there that so many numbers fill at most to a half.

        The host's own memory holds the data already.
        """
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return n_numbers * self.dtype.itemsize <= free / 2

    def alone(self) -> AbstractContextManager[Any]:
        """Arithmetic in these types, whatever autocast the caller is in."""
        kind = self.device.type
        return nullcontext() if kind == "mps" else torch.autocast(kind, enabled=False)


def available_devices() -> list[str]:
    """The devices of this machine, the preferred one first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*(["cuda"] if cuda else []), *cuda, *mps, "cpu"]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 there.

    On a CPU they are with AMX, or with AMD's form of AVX-512; Intel's AVX-512 without
    AMX takes twice as long as for float32. Elsewhere than on CUDA nothing was measured.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Older versions of torch do not tell.
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    intel = "Intel" in has.get("cpu_name", "")
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and not intel))


def place(device: str, precision: str, *, strict: bool = True) -> Placement:
    """The placement that the parameters `device` and `precision` ask for.

    A model that was fitted elsewhere predicts here: only when `strict` does a missing
    device raise and missing support for bfloat16 warn. Otherwise the CPU and float32
    take their place, the CPU with a warning.

    Raises
    ------
    ValueError
        If there is no such kind of device, or, when `strict`, none on this machine.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ValueError(
            "The 'device' parameter of VaDEClusterer must be 'auto', 'cpu', 'cuda', "
            f"'cuda:<index>' or 'mps'. Got {device!r} instead."
        )
    present = available_devices()
    if device == "auto":
        device = present[0]
    elif device not in present:
        message = f"device={device!r} is not available here, only {present} are."
        if strict:
            raise ValueError(f"{message} Use device='auto'.")
        warn(f"{message} Computing on the CPU.")
        device = "cpu"
    where = torch.device(device)
    dtype = torch.float64 if precision == "float64" else torch.float32
    bfloat16 = precision == "bfloat16" and has_fast_bfloat16(where)
    if strict and precision == "bfloat16" and not bfloat16:
        warn(
            f"precision='bfloat16' would be slower than float32 on this {device}, so "
            "float32 is used. Set precision='float32' to say so yourself."
        )
    return Placement(where, dtype, bfloat16)


def in_bfloat16(device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16.

    No rounded weights are kept: within an outer region they would outlive their step.
    """
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def make_generator(seed: int, device: torch.device | str = "cpu") -> Generator:
    return torch.Generator(device=device).manual_seed(seed)


class Batch(NamedTuple):
    """Rows of a step (B, D), what each counts (B,), one on average, and which it is.

    Where entries are missing, `x` has the average of the feature, or what a model makes
    of it, and `observed`, (B, D), a zero instead of a one; where none are, there is no
    `observed`.
    """

    x: Tensor
    weight: Tensor
    positions: Tensor
    observed: Tensor | None


def _numbers(n_rows: int) -> NDArray[np.integer]:
    """0 to n - 1, in half the memory where that is enough."""
    return np.arange(n_rows, dtype=np.int32 if n_rows <= 2**31 else np.int64)


@dataclass(frozen=True)
class Rows:
    """Rows of a matrix as standardized tensors, and their weights.

    Rows are gathered with NumPy, made dense and centered in the dtype of X, before they
    are cast: X may be read-only, memory-mapped, sparse or far from the origin. A GPU
    that all rows were moved to gathers them itself, the same numbers.
    """

    X: NDArray | csr_array
    standardization: Standardization
    placement: Placement
    members: NDArray[np.integer]
    weight_of_all: NDArray[np.float64]
    incomplete: bool
    resident: Batch | None = None  # every row of the matrix, on the device

    @classmethod
    def of(
        cls,
        X: NDArray | csr_array,
        standard: Standardization,
        placement: Placement,
        weight: NDArray | None = None,
    ) -> Self:
        weight = equal_weights(X.shape[0]) if weight is None else weight
        members = _numbers(X.shape[0])
        return cls(X, standard, placement, members, weight, has_missing(X))

    def __len__(self) -> int:
        return len(self.members)

    @property
    def weight(self) -> NDArray[np.float64]:
        return pick(self.weight_of_all, self.members)

    def checked(self) -> Self:
        """The same, or an error if the arithmetic of the networks can not hold them."""
        holds = torch.finfo(self.placement.dtype)
        check_unit(self.standardization, holds.tiny, holds.max)
        check_reach(self.X, self.standardization)
        return self

    def whole(self) -> "Rows":
        """All rows of the matrix that these were taken from."""
        return replace(self, members=_numbers(len(self.weight_of_all)))

    def weighty(self) -> "Rows":
        """The rows that count at all."""
        weight = self.weight
        return self if weight.all() else self.subset(np.flatnonzero(weight))

    def subset(self, positions: NDArray) -> "Rows":
        return replace(self, members=self.members[positions])

    def some(self, at_most: int, rng: RandomState) -> "Rows":
        """Random rows, in order; all of them if there are no more."""
        return self.subset(np.sort(rng.permutation(len(self))[:at_most]))

    def moved(self) -> Self:
        """The same, every row of the matrix on the GPU if there is one with room.

        A step then waits for no copy. Rows that are visited once need not be moved.
        """
        n_rows, n_features = self.X.shape
        n_numbers = n_rows * n_features * (2 if self.incomplete else 1)
        if not self.placement.has_room(n_numbers):
            return self
        where, dtype = self.placement.device, self.placement.dtype
        x = torch.empty(n_rows, n_features, dtype=dtype, device=where)
        weight = torch.empty(n_rows, dtype=dtype, device=where)
        observed = torch.empty_like(x) if self.incomplete else None
        every = self.whole()
        for start in range(0, n_rows, MOVED_AT_ONCE):
            stop = min(start + MOVED_AT_ONCE, n_rows)
            batch = every.take(np.arange(start, stop))
            x[start:stop], weight[start:stop] = batch.x, batch.weight
            if observed is not None and batch.observed is not None:
                observed[start:stop] = batch.observed
        resident = Batch(x, weight, torch.arange(n_rows), observed)
        return replace(self, resident=resident)

    def take(self, positions: NDArray) -> Batch:
        """The rows at these positions."""
        members = self.members[positions]
        if self.resident is not None:
            return _gathered_there(self.resident, members, positions)
        gathered = gather(self.X, members)
        location, scale, average = self.standardization
        observed = None
        if self.incomplete:
            missing = np.isnan(gathered)
            np.copyto(gathered, average, "same_kind", where=missing)
            observed = self.placement(~missing)
        gathered -= location.astype(gathered.dtype)
        gathered /= gathered.dtype.type(scale)
        weight = self.placement(self.weight_of_all[members])
        x, which = self.placement(gathered), torch.from_numpy(positions)
        return Batch(x, weight, which, observed)

    def split(
        self, n_held_out: int, generator: Generator
    ) -> "tuple[Rows, Rows | None]":
        """The rows without some at random, and these; None for none."""
        if not n_held_out:
            return self, None
        order = torch.randperm(len(self), generator=generator).numpy()
        return self.subset(np.sort(order[n_held_out:])), self.subset(order[:n_held_out])

    def batches(
        self, batch_size: int, generator: Generator, least: int = 1
    ) -> Iterator[Batch]:
        """One epoch: every row, shuffled, in batches whose sizes differ by one.

        Where that makes fewer than `least` batches, it is done more than once.
        """
        n_batches = math.ceil(len(self) / batch_size)
        for _ in range(math.ceil(least / n_batches)):
            order = torch.randperm(len(self), generator=generator).numpy()
            for positions in np.array_split(order, n_batches):
                yield self.take(positions)

    def chunks(self, n_rows: int) -> Iterator[tuple[Batch, int]]:
        """The rows in order, `n_rows` at a time, with how many are not padding.

        Matrix products pick their kernel by shape: one shape of all chunks makes the
        answer for a row independent of the rows it came with, to the last bit.
        """
        for start in range(0, len(self), n_rows):
            positions = np.arange(start, min(start + n_rows, len(self)))
            yield self.take(np.resize(positions, n_rows)), len(positions)


def _gathered_there(every: Batch, members: NDArray, positions: NDArray) -> Batch:
    """Some of the rows that a device holds."""
    which = torch.from_numpy(members).to(every.x.device)
    observed = every.observed
    if observed is not None:
        observed = observed.index_select(0, which)
    x, weight = every.x.index_select(0, which), every.weight.index_select(0, which)
    return Batch(x, weight, torch.from_numpy(positions), observed)


# What an optimizer remembers of each parameter, and the same as arrays, by the
# parameter's name.
Memory = Iterable[tuple[nn.Parameter, dict[str, Tensor]]]
Moments = dict[str, dict[str, NDArray]]


def dump_moments(module: nn.Module, memory: Memory) -> Moments:
    """Copies of what an optimizer remembers of the module's parameters."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {
        names[p]: {key: value.numpy(force=True).copy() for key, value in kept.items()}
        for p, kept in memory
    }


def load_moments(module: nn.Module, memory: Memory, moments: Moments) -> None:
    """Let an optimizer go on from what another one remembered, if anything."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    for parameter, kept in memory:
        for key, values in moments.get(names[parameter], {}).items():
            kept[key].copy_(torch.tensor(values))


def dump_parameters(module: nn.Module) -> dict[str, NDArray]:
    """Copies of the parameters and buffers as arrays: they load anywhere."""
    return {k: v.numpy(force=True).copy() for k, v in module.state_dict().items()}


def load_parameters(module: nn.Module, arrays: dict[str, NDArray]) -> None:
    """Fill a module with arrays, cast to the dtype that it already has."""
    present = module.state_dict(keep_vars=True)
    for name, array in arrays.items():
        old = present.pop(name)
        # What the module was built with may never have been touched, so no memory.
        old.data = torch.tensor(array, dtype=old.dtype, device=old.device)
    if present:
        raise KeyError(f"There are no values for {[*present]}.")
