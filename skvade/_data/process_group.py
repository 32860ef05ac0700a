"""Several processes that fit one model, by `torch.distributed`; or a single one.

All of these collective operations must be called by all processes in the same order.
Each begins with the same small exchange, in which a process that has failed tells so:
no process waits for one that will not come.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["SINGLE_PROCESS", "ProcessGroup", "RemoteError", "make_process_group"]

MIN_LARGE_SIZE = 2**16  # values of a tensor that is not worth a copy

T = TypeVar("T")


class RemoteError(RuntimeError):
    """Another process of the group has failed, or cannot be reached."""


class ProcessGroup:
    """A group of one process. Its operations give back what they are given.

    Attributes
    ----------
    rank : int
        Number of this process, from zero.
    world_size : int
        Number of processes.
    """

    rank, world_size = 0, 1

    def gather(self, value: T) -> list[T]:
        """Give the values of all processes, in the order of their ranks."""
        return [value]

    def sum(self, value: T) -> T:
        """Add the values of all processes, in the order of their ranks.

        The result is the same on all of them, to the last bit.
        """
        first, *others = self.gather(value)
        total: Any = first
        for other in others:
            total = total + other
        return total

    def broadcast(self, value: T) -> T:
        """Give the value of the first process."""
        return value

    def on_first(self, function: Callable[[], T]) -> T:
        """Call a function in the first process and give its result to all."""
        return function()

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add tensors of the same shapes over the processes, in place."""

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Copy the tensors of the first process to all, in place."""

    def sum_with_own_gradient(self, tensor: Tensor) -> Tensor:
        """Add a tensor over the processes; gradients reach the term of this one."""
        return tensor

    def concatenate_with_own_gradient(self, tensor: Tensor, dim: int) -> Tensor:
        """Join tensors of all processes; gradients reach that of this one."""
        return tensor

    @contextmanager
    def shared_errors(self) -> Iterator[None]:
        """Let an error in one process end the block in all of them.

        Raises
        ------
        RemoteError
            In the others; it names the process that failed and holds its message.
        """
        yield


SINGLE_PROCESS = ProcessGroup()


class TorchProcessGroup(ProcessGroup):
    """The default process group of `torch.distributed`, which the user has opened.

    Values travel pickled, in few and small messages. Large gradients travel as they
    are, at the same time, and small ones in one flat tensor.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        on_gpu = dist.get_backend() == "nccl"
        self.device = torch.device("cuda" if on_gpu else "cpu")

    def gather(self, value: T) -> list[T]:
        data = self._to_bytes(value)
        sizes = self._meet(len(data))
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=self.device)
        padded[: len(data)] = data
        gathered = [torch.empty_like(padded) for _ in sizes]
        with _communication():
            dist.all_gather(gathered, padded)
        return [
            pickle.loads(values[:size].numpy(force=True).tobytes())
            for values, size in zip(gathered, sizes, strict=True)
        ]

    def broadcast(self, value: T) -> T:
        data = self._to_bytes(value if self.rank == 0 else None)
        size = self._meet(len(data))[0]
        if self.rank:
            data = torch.empty(size, dtype=torch.uint8, device=self.device)
        with _communication():
            dist.broadcast(data, src=0)
        return pickle.loads(data.numpy(force=True).tobytes())

    def on_first(self, function: Callable[[], T]) -> T:
        result: Any = function() if self.rank == 0 else None
        return self.broadcast(result)

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        self._meet()
        large = [t for t in tensors if t.numel() >= MIN_LARGE_SIZE]
        small = [t for t in tensors if t.numel() < MIN_LARGE_SIZE]
        flat = torch.cat([tensors[0].new_empty(0), *(t.reshape(-1) for t in small)])
        with _communication():
            buckets = [bucket for bucket in (*large, flat) if bucket.numel()]
            for work in [dist.all_reduce(b, async_op=True) for b in buckets]:
                work.wait()
        parts = flat.split([t.numel() for t in small])
        for tensor, part in zip(small, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    @torch.no_grad()
    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        self._meet()
        for tensor in tensors:
            values = tensor.detach().contiguous()
            with _communication():
                dist.broadcast(values, src=0)
            tensor.copy_(values)

    def sum_with_own_gradient(self, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        self.sum_([total])
        return total + (tensor - tensor.detach())

    def concatenate_with_own_gradient(self, tensor: Tensor, dim: int) -> Tensor:
        sizes = self._meet(tensor.shape[dim])
        shape = [*tensor.shape]
        shape[dim] = sum(sizes)
        joined = tensor.new_zeros(shape)
        parts = joined.split(sizes, dim)
        parts[self.rank].copy_(tensor.detach())
        with _communication():
            dist.all_reduce(joined)
        rank = self.rank
        return torch.cat([*parts[:rank], tensor, *parts[rank + 1 :]], dim)

    @contextmanager
    def shared_errors(self) -> Iterator[None]:
        try:
            yield
            self._meet()
        except RemoteError:
            raise
        except Exception as error:
            error.add_note(f"This was process {self.rank} of {self.world_size}.")
            try:
                self._meet(error=error)
            except RemoteError as other:  # it may be the cause
                raise error from other
            raise

    def _to_bytes(self, value: Any) -> Tensor:
        data = np.frombuffer(pickle.dumps(value), np.uint8)
        return torch.from_numpy(data.copy()).to(self.device)

    def _meet(self, number: int = 0, error: Exception | None = None) -> list[int]:
        """Exchange a number with all processes, unless one of them has failed.

        Raises
        ------
        RemoteError
            If another process has failed and this one has not.
        """
        status = torch.zeros(1 + self.world_size, dtype=torch.int64)
        status[0] = error is not None
        status[1 + self.rank] = number
        status = status.to(self.device)
        with _communication():
            dist.all_reduce(status)
        n_failed, *numbers = status.tolist()
        if n_failed:
            self._exchange_errors(error)
        return numbers

    def _exchange_errors(self, error: Exception | None) -> None:
        message = None if error is None else f"{type(error).__name__}: {error}"
        messages: list[str | None] = [None] * self.world_size
        with _communication():
            dist.all_gather_object(messages, message)
        if error is None:
            failed = [f"{rank}: {m}" for rank, m in enumerate(messages) if m]
            raise RemoteError(
                f"{len(failed)} of {self.world_size} processes failed, so all of them "
                f"end. Process {'; process '.join(failed)}"
            )


@contextmanager
def _communication() -> Iterator[None]:
    """Say what it means if a collective operation fails."""
    try:
        yield
    except RuntimeError as error:
        raise RemoteError(
            "The processes of torch.distributed lost each other: one may have been "
            f"killed, or its backend does not know the device. It says: {error}"
        ) from error


def make_process_group(distributed: bool) -> ProcessGroup:
    """Give the process group of a fit.

    Raises
    ------
    ValueError
        If it should be distributed, and there is no process group.
    """
    if not distributed:
        return SINGLE_PROCESS
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "distributed=True needs a process group, which the caller opens. Call "
            "torch.distributed.init_process_group() before fit, and start the script "
            "in several processes: torchrun --standalone --nproc-per-node 2 script.py"
        )
    return TorchProcessGroup()
