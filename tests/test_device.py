"""Devices and floating-point types."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from skvade._data import device as device_module
from skvade._data.device import (
    MAX_CPU_CACHE,
    DeviceConfig,
    available_devices,
    has_fast_bfloat16,
    resolve_device,
)


def pretend(monkeypatch, *, cuda=0, mps=False):
    """Let torch report these devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


# --- Devices ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "present, expected",
    [({}, "cpu"), ({"mps": True}, "mps"), ({"cuda": 1, "mps": True}, "cuda")],
)
def test_auto_is_the_preferred_device(monkeypatch, present, expected):
    pretend(monkeypatch, **present)
    assert resolve_device("auto", "float32").device.type == expected
    assert resolve_device("cpu", "float32").device.type == "cpu"


def test_one_of_several_devices(monkeypatch):
    pretend(monkeypatch, cuda=2)
    expected = torch.device("cuda", 1)
    assert resolve_device("cuda:1", "float32").device == expected


@pytest.mark.parametrize("device", ["tpu", "gpu", "", "cuda:", "cuda:x", "CPU"])
@pytest.mark.parametrize("strict", [True, False])
def test_unknown_devices_raise(device, strict):
    with pytest.raises(ValueError, match=r"The 'device' parameter .* Got .* instead"):
        resolve_device(device, "float32", strict=strict)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_missing_devices_raise_or_leave_it_to_the_cpu(monkeypatch, device):
    pretend(monkeypatch)
    with pytest.raises(ValueError, match=f"device='{device}' is not available here"):
        resolve_device(device, "float32")
    with pytest.warns(UserWarning, match="not available here.* on the CPU"):
        device_config = resolve_device(device, "float64", strict=False)
    assert device_config == DeviceConfig(torch.device("cpu"), torch.float64)


def test_missing_devices_beside_others_of_their_kind(monkeypatch):
    pretend(monkeypatch, cuda=1)
    with pytest.raises(ValueError, match="device='cuda:1' is not available here"):
        resolve_device("cuda:1", "float32")
    with pytest.warns(UserWarning, match="not available here"):
        resolve_device("cuda:1", "float32", strict=False)


def test_available_devices_end_with_the_cpu(monkeypatch):
    pretend(monkeypatch, cuda=1)
    assert available_devices() == ["cuda", "cuda:0", "cpu"]


# --- bfloat16 -----------------------------------------------------------------------


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
def test_bfloat16_becomes_float32_with_a_warning_where_it_is_slow(
    monkeypatch, capabilities, fast
):
    monkeypatch.undo()  # the fixture of conftest that calls every machine fast
    reports = {"get_capabilities": lambda: capabilities}
    monkeypatch.setattr(device_module.torch, "cpu", SimpleNamespace(**reports))
    message = "precision='bfloat16' would be slower than float32 on this cpu"
    with nullcontext() if fast else pytest.warns(UserWarning, match=message):
        assert resolve_device("cpu", "bfloat16").bfloat16 is fast
    assert resolve_device("cpu", "bfloat16", strict=False).bfloat16 is fast
    assert not resolve_device("cpu", "float32").bfloat16


def test_bfloat16_is_not_fast_on_mps():
    assert not has_fast_bfloat16(torch.device("mps"))


# --- Room for a cache ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gpu_has_room_up_to_half_of_its_free_memory(monkeypatch, dtype):
    gpu = DeviceConfig(torch.device("cuda", 0), dtype)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (800, 10_000))
    limit = 400 // dtype.itemsize
    assert gpu.fits_on_device(limit)
    assert not gpu.fits_on_device(limit + 1)


@pytest.mark.parametrize("precision, itemsize", [("float32", 4), ("float64", 8)])
def test_a_cpu_has_room_up_to_a_limit(precision, itemsize):
    cpu = resolve_device("cpu", precision)
    limit = MAX_CPU_CACHE // itemsize
    assert cpu.fits_on_device(limit)
    assert not cpu.fits_on_device(limit + 1)


def test_other_devices_have_no_room():
    mps = DeviceConfig(torch.device("mps"), torch.float32)
    assert not mps.fits_on_device(1)
