"""What the machine can compute with, and what it calls itself."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from impasto_engine.parameters import Arithmetic, Precision

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def find_devices(choice: str) -> tuple[str, ...]:
    """Return the names of the devices that a choice stands for: ``auto``, ``cpu``, ``cuda`` or a list by commas.

    Raises:
        ValueError: If a CUDA device is asked for that is not there.
    """
    count = torch.cuda.device_count()
    if choice == "auto":
        choice = "cuda" if count else "cpu"
    if choice == "cuda":
        if not count:
            raise ValueError("device cuda: no CUDA device is visible here")
        return tuple(f"cuda:{index}" for index in range(count))
    names = tuple(name.strip() for name in choice.split(","))
    known = {"cpu", *(f"cuda:{index}" for index in range(count))}
    for name in names:
        if name not in known:
            raise ValueError(f"device {name!r}: not here; there are {', '.join(sorted(known))}")
    if len(set(names)) < len(names):
        raise ValueError(f"device {choice!r}: names a device twice")
    return names


def describe(device: torch.device) -> str:
    """Return the maker's name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = _cpuinfo()
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def auto_precision(device: torch.device) -> Arithmetic:
    """Return bfloat16 where the device has instructions for it, decided by what it is and never by a stopwatch.

    The same machine must always choose the same, or the same seed would not give the same picture.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "").split()
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "float32"


def resolve_precision(precision: Precision, device: torch.device) -> Arithmetic:
    """Return the arithmetic that a job's precision stands for on a device; TF32 is float32 where there are no tensor cores."""
    if precision == "tf32" and device.type != "cuda":
        return "float32"
    return auto_precision(device) if precision == "auto" else precision


@contextlib.contextmanager
def computing(arithmetic: Arithmetic, device: torch.device) -> Iterator[None]:
    """Let convolutions on a GPU round their factors to TF32, if that is the arithmetic; Gram sums stay float32."""
    if arithmetic != "tf32" or device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def prepare(device: torch.device) -> None:
    """Set a process up for its device, once, before the first network is loaded.

    On a GPU float32 means float32 (no TF32 in the convolutions, which is torch's default), sums of bfloat16 products stay
    float32, and cuDNN does not choose its algorithms by stopwatch. On a CPU freed memory is kept.
    """
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # events and graphs are made on the current device
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    else:
        keep_freed_memory()


class PeakMemory:
    """Measures what a block of code takes of a device's memory at most, beyond what is in use when it begins.

    On a GPU by the allocator's own books. On a CPU by the process's largest resident size, after what was freed earlier is
    given back to the system; what the libraries keep from call to call is seen the first time only.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0
        self.taken = 0

    def __enter__(self) -> PeakMemory:
        """Begin."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            _give_freed_memory_back()
            _reset_peak_resident()
            self._before = _status_bytes("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        """Measure: ``taken`` holds the bytes."""
        cuda = self._device.type == "cuda"
        now = torch.cuda.max_memory_allocated(self._device) if cuda else _status_bytes("VmHWM")
        self.taken = max(0, now - self._before)


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes a device could still give, within the container's limit on a CPU; None if that is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    figures = [_status_bytes("MemAvailable", "/proc/meminfo"), *_container_room()]
    known = [figure for figure in figures if figure > 0]
    return min(known, default=None)


def _container_room() -> list[int]:
    """Return what a control group's limit leaves, for version 2 and 1."""
    root = Path("/sys/fs/cgroup")
    rooms = []
    for limit, usage in (
        (root / "memory.max", root / "memory.current"),
        (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"),
    ):
        try:
            rooms.append(int(limit.read_text()) - int(usage.read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return rooms


def _give_freed_memory_back() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _reset_peak_resident() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is then that of the process's whole life
        return


def _status_bytes(name: str, file: str = "/proc/self/status") -> int:
    """Return a figure that the kernel tells in kB; 0 if it does not."""
    path = Path(file)
    lines = path.read_text().splitlines() if path.exists() else []
    figure = next((line.split()[1] for line in lines if line.startswith(f"{name}:")), "0")
    return int(figure) * 1024


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks for the next step instead of giving them back to the system.

    Each step allocates the same activations; mapping them afresh costs about 5 % of a step on a CPU.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
