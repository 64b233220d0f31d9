"""Devices by name, and the arithmetic that a processor's flags choose."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from impasto_engine import devices

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("lines", "arithmetic"),
    [
        (["flags\t\t: fpu avx2 avx512f avx512_bf16 sse"], "bfloat16"),
        (["model name : x", "flags : amx_bf16 amx_tile"], "bfloat16"),
        (["flags : fpu avx2 avx512f"], "float32"),
        (["Features\t: fp asimd evtstrm aes bf16 i8mm"], "bfloat16"),
        (["Features\t: fp asimd evtstrm aes svebf16x"], "float32"),
        ([], "float32"),
    ],
    ids=["avx512", "amx", "older x86", "arm", "older arm", "unknown"],
)
def test_arithmetic_follows_the_flags(monkeypatch: pytest.MonkeyPatch, lines: list[str], arithmetic: str) -> None:
    """Of x86 and ARM: the same machine always chooses the same."""
    monkeypatch.setattr(devices, "_cpuinfo", lambda: lines)
    assert devices.auto_precision(CPU) == arithmetic


def test_an_apple_gpu_is_used_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test has run on one."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.find_devices("auto") == ("cpu",)
    assert devices.find_devices("mps") == ("mps",)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'mps': not available; available devices: cpu"):
        devices.find_devices("mps")


def test_a_gpu_computes_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its libraries use deterministic algorithms, do not choose them by a stopwatch, and add in float32."""
    for name in ("allow_tf32", "benchmark", "deterministic"):
        monkeypatch.setattr(torch.backends.cudnn, name, name != "deterministic")
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_bf16_reduced_precision_reduction=True))
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    devices.prepare(torch.device("cuda:1"))
    assert chosen == [torch.device("cuda:1")]
    cudnn = torch.backends.cudnn
    assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic) == (False, False, True)
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


def test_a_gpu_is_named_as_its_driver_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By UUID, in NVML's form."""

    class Card:
        uuid = "5fa1"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: Card())
    assert devices.gpu_uuid(torch.device("cuda:0")) == "GPU-5fa1"
    assert devices.gpu_uuid(CPU) == ""


def test_nothing_needs_a_compiler() -> None:
    """The GPU image has none: Triton and torch.compile would fail there at the first job."""
    from impasto_engine import devices as module

    folder = Path(module.__file__).parent
    for path in folder.rglob("*.py"):
        assert "torch.compile(" not in path.read_text()
        assert "import triton" not in path.read_text()


def test_memory_that_torch_keeps_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After large jobs the driver reports little free memory on an idle GPU, although the next jobs can have it."""
    for name, value in (("mem_get_info", (10, 100)), ("memory_reserved", 70), ("memory_allocated", 5)):
        monkeypatch.setattr(torch.cuda, name, lambda _device, value=value: value)
    assert devices.free_memory(torch.device("cuda:0")) == 75
