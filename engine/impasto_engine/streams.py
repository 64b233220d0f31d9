"""Work beside the steps of a device: on a GPU on streams of their own, so that no step waits for it; elsewhere plain calls."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class Marker:
    """A point in the work that was queued on a device: what was computed before it can be used by other threads.

    Args:
        device: The device. The point is after all work that the calling thread has queued on its current stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(device))

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Compute on this thread's side stream, after the marked point. The work has completed at the end of the block.

        Tensors that are made in the block and used by the steps later must be passed to :func:`hand_over`.
        """
        if self._event is None:
            yield
            return
        stream = _side_stream(self._device, threading.get_ident())
        stream.wait_event(self._event)
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()


def hand_over(tensors: Iterable[Tensor]) -> None:
    """Tell the allocator that the current stream uses tensors made on another one: their memory is not reused too early."""
    for tensor in tensors:
        if tensor.device.type == "cuda":
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


def to_host(tensor: Tensor) -> Tensor:
    """Return a tensor on the CPU. From a GPU the copy into pinned memory is complete once the stream is synchronized."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


@functools.lru_cache(maxsize=16)
def _side_stream(device: torch.device, _thread: int) -> torch.cuda.Stream:
    # Priority 0 is the lowest; the steps' own stream has it too, since it is the default stream.
    return torch.cuda.Stream(device, priority=0)  # type: ignore[no-untyped-call]
