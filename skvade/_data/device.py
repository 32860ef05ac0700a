"""Devices and floating-point types."""

import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

__all__ = [
    "DeviceConfig",
    "available_devices",
    "bfloat16_autocast",
    "default_settings",
    "has_fast_bfloat16",
    "make_generator",
    "resolve_device",
]

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")

MAX_CPU_CACHE = 2**26  # bytes


@dataclass(frozen=True)
class DeviceConfig:
    """Device and dtype of a module, and whether its hidden layers use bfloat16."""

    device: torch.device
    dtype: torch.dtype
    bfloat16: bool = False

    @property
    def has_fused_optimizers(self) -> bool:
        return self.device.type != "mps"

    def to_tensor(self, array: NDArray) -> Tensor:
        """Convert an array to a tensor of this dtype on this device."""
        return torch.from_numpy(array).to(self.device, self.dtype)

    def fits_on_device(self, n_values: int) -> bool:
        """Tell whether the device has room for so many values beside the user's own.

        A GPU has if they fill at most half of its free memory, a CPU up to
        `MAX_CPU_CACHE` bytes.
        """
        n_bytes = n_values * self.dtype.itemsize
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            return n_bytes <= free / 2
        return self.device.type == "cpu" and n_bytes <= MAX_CPU_CACHE


def available_devices() -> list[str]:
    """List the devices of this machine, the preferred one first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*(["cuda"] if cuda else []), *cuda, *mps, "cpu"]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether matrix products in bfloat16 are faster than in float32.

    On a CPU they are with AMX, or with AMD's form of AVX-512; Intel's AVX-512 without
    AMX takes twice as long as for float32. Other devices than CUDA were not measured.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Older versions of torch do not have the function.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    is_intel = "Intel" in capabilities.get("cpu_name", "")
    has_avx512 = capabilities.get("avx512_bf16") and not is_intel
    return bool(capabilities.get("amx_bf16") or has_avx512)


def resolve_device(device: str, precision: str, *, strict: bool = True) -> DeviceConfig:
    """Resolve the parameters `device` and `precision`.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda", "cuda:<index>" or "mps".
    precision : {"float32", "bfloat16", "float64"}
        Arithmetic of the networks.
    strict : bool, default=True
        Whether a missing device raises and missing support for bfloat16 warns. If not,
        as for the predictions of a model that was fitted elsewhere, the CPU takes the
        place of the device, with a warning, and float32 that of bfloat16.

    Raises
    ------
    ValueError
        If there is no such kind of device, or, when `strict`, none on this machine.
    """
    if not DEVICE.fullmatch(device):
        meant = device.strip().lower().replace("gpu", "cuda")
        hint = f" Did you mean {meant!r}?" if DEVICE.fullmatch(meant) else ""
        raise ValueError(
            "The 'device' parameter of VaDEClusterer must be 'auto', 'cpu', 'cuda', "
            f"'cuda:<index>' or 'mps'. Got {device!r} instead.{hint}"
        )
    available = available_devices()
    if device == "auto":
        device = available[0]
    elif device not in available:
        message = f"device={device!r} is not available here, only {available} are."
        if strict:
            raise ValueError(f"{message} Use device='auto'.")
        warnings.warn(f"{message} Computing on the CPU.", stacklevel=2)
        device = "cpu"
    torch_device = torch.device(device)
    dtype = torch.float64 if precision == "float64" else torch.float32
    bfloat16 = precision == "bfloat16" and has_fast_bfloat16(torch_device)
    if strict and precision == "bfloat16" and not bfloat16:
        warnings.warn(
            f"precision='bfloat16' would be slower than float32 on this {device}, so "
            "float32 is used. Set precision='float32' to say so yourself.",
            stacklevel=2,
        )
    return DeviceConfig(torch_device, dtype, bfloat16)


def bfloat16_autocast(device: torch.device) -> torch.autocast:
    """Run matrix products in bfloat16.

    Rounded weights are not cached: in an outer autocast region they would outlive the
    step that they belong to.
    """
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


@contextmanager
def default_settings() -> Iterator[None]:
    """Compute with the defaults of torch and NumPy, whatever the caller has set.

    Gradients, autocast, the default device and how NumPy treats floating-point errors,
    all of this thread alone. The default dtype is one for all threads: our own tensors
    name theirs, and `float32_by_default` serves custom networks.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device_type in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        # Every operation in a context of a default device costs a microsecond more.
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(np.errstate(all="warn", under="ignore"))
        yield


def make_generator(seed: int, device: torch.device | str = "cpu") -> Generator:
    """Make a seeded generator of random numbers on a device."""
    return torch.Generator(device=device).manual_seed(seed)
