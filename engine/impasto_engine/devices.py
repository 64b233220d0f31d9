"""Compute devices: names, arithmetic, memory, and process-wide setup."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from impasto_engine.parameters import Arithmetic, Precision

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def find_devices(choice: str) -> tuple[str, ...]:
    """Return the device names for a choice: ``auto``, ``cpu``, ``cuda``, ``mps`` (Apple; untested) or a comma-separated list.

    Raises:
        ValueError: If a device is not available or is listed twice.
    """
    count = torch.cuda.device_count()
    if choice == "auto":
        choice = "cuda" if count else "cpu"
    if choice == "cuda":
        if not count:
            raise ValueError("device cuda: no CUDA device is visible")
        return tuple(f"cuda:{index}" for index in range(count))
    names = tuple(name.strip() for name in choice.split(","))
    known = {"cpu", *(f"cuda:{index}" for index in range(count)), *(("mps",) if torch.backends.mps.is_available() else ())}
    for name in names:
        if name not in known:
            raise ValueError(f"device {name!r}: not available; available devices: {', '.join(sorted(known))}")
    if len(set(names)) < len(names):
        raise ValueError(f"device {choice!r}: lists a device twice")
    return names


def describe(device: torch.device) -> str:
    """Return the model name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = _cpuinfo()
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def gpu_uuid(device: torch.device) -> str:
    """Return a GPU's UUID in NVML's form, "GPU-...": libraries may number GPUs differently. Empty for other devices."""
    if device.type != "cuda":
        return ""
    found = str(torch.cuda.get_device_properties(device).uuid)
    return found if found.startswith(("GPU-", "MIG-")) else f"GPU-{found}"


def auto_precision(device: torch.device) -> Arithmetic:
    """Return bfloat16 if the device has instructions for it, else float32. The choice depends on the hardware, not on timings.

    A machine must always choose the same arithmetic; otherwise the same seed would not give the same picture.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    # x86 lists them as "flags", ARM as "Features".
    flags = next((line for line in _cpuinfo() if line.startswith(("flags", "Features"))), "").split()
    return "bfloat16" if {"avx512_bf16", "amx_bf16", "bf16"} & set(flags) else "float32"


def resolve_precision(precision: Precision, device: torch.device) -> Arithmetic:
    """Return the arithmetic for a job's precision on a device. TF32 becomes float32 on devices other than CUDA."""
    if precision == "tf32" and device.type != "cuda":
        return "float32"
    return auto_precision(device) if precision == "auto" else precision


_SWITCHES = threading.RLock()
"""Held while work is queued on a GPU: torch's switch for TF32 is one for all threads."""


@contextlib.contextmanager
def computing(arithmetic: Arithmetic, device: torch.device) -> Iterator[None]:
    """Allow TF32 in convolutions on a GPU if that is the arithmetic, and only then. Gram sums stay float32.

    The work of two threads is queued one after the other, so that each has its own arithmetic; the device may still overlap it.
    """
    if device.type != "cuda":
        yield
        return
    with _SWITCHES:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before


def prepare(device: torch.device) -> None:
    """Set up a process for its device. Call it once, before the first network is loaded.

    On a GPU: float32 means float32 (TF32 convolutions, torch's default, are disabled), bfloat16 products accumulate in float32,
    and cuDNN uses deterministic algorithms and does not benchmark. On a CPU: the allocator keeps freed memory.
    """
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # events and graphs are created on the current device
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    else:
        keep_freed_memory()


def release_cached(device: torch.device) -> None:
    """Return the memory that torch keeps for later to the device; nothing on a CPU, whose allocator decides by itself."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_lost(error: BaseException, device: torch.device) -> bool:
    """Whether an error means that this process can compute nothing more on its device.

    After an illegal access or a hardware error every later call fails too, until the process is replaced.
    """
    if isinstance(error, torch.AcceleratorError):
        return True
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


class PeakMemory:
    """Measures the peak device memory of a block of code, beyond the memory in use at its start.

    On a GPU it reads the allocator's statistics. On a CPU it uses the peak resident size of the process, after memory freed
    earlier has been returned to the system. Memory that libraries keep between calls is counted only the first time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0
        self.taken = 0

    def __enter__(self) -> PeakMemory:
        """Start measuring."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            _return_freed_memory()
            _reset_peak_resident()
            self._before = _status_bytes("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        """Stop measuring and store the number of bytes in ``taken``."""
        cuda = self._device.type == "cuda"
        now = torch.cuda.max_memory_allocated(self._device) if cuda else _status_bytes("VmHWM")
        self.taken = max(0, now - self._before)


def free_memory(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes, within the container's limit on a CPU; None if unknown.

    What torch keeps of freed memory on a GPU is free for this process.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    figures = [_status_bytes("MemAvailable", "/proc/meminfo"), *_container_free()]
    known = [figure for figure in figures if figure > 0]
    return min(known, default=None)


def _container_free() -> list[int]:
    """Return the memory left within the control group's limit, for cgroup versions 2 and 1."""
    root = Path("/sys/fs/cgroup")
    free = []
    for limit, usage in (
        (root / "memory.max", root / "memory.current"),
        (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"),
    ):
        try:
            free.append(int(limit.read_text()) - int(usage.read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return free


def _return_freed_memory() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _reset_peak_resident() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not permitted: the peak then covers the lifetime of the process
        return


def _status_bytes(name: str, file: str = "/proc/self/status") -> int:
    """Return a value that the kernel reports in kB as bytes; 0 if it is missing."""
    path = Path(file)
    lines = path.read_text().splitlines() if path.exists() else []
    figure = next((line.split()[1] for line in lines if line.startswith(f"{name}:")), "0")
    return int(figure) * 1024


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks for the next step instead of returning them to the system.

    Each step allocates the same activations. Mapping them again costs about 5 % of a step on a CPU.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
