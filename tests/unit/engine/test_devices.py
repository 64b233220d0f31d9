"""Devices by name, and the arithmetic that a processor's flags choose."""

from __future__ import annotations

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
