"""Work beside the steps, with a recorder in the place of CUDA's streams and events."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from impasto_engine import devices, streams
from impasto_engine.streams import Marker, hand_over

GPU = torch.device("cuda:1")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the calls in their order."""
    found: list[str] = []

    class Event:
        def record(self, stream: str) -> None:
            found.append(f"record on {stream}")

    class Stream:
        def __init__(self, device: torch.device, priority: int) -> None:
            assert (device, priority) == (GPU, 0)

        def wait_event(self, event: Event) -> None:
            found.append("wait")

        def synchronize(self) -> None:
            found.append("synchronize")

    @contextlib.contextmanager
    def used(stream: Stream) -> Iterator[None]:
        found.append("enter")
        yield
        found.append("leave")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(streams, "_side_stream", lambda device, _thread: Stream(device, 0))
    monkeypatch.setattr(torch.cuda, "stream", used)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: "the steps' stream")
    return found


def test_work_beside_the_steps_waits_for_them_and_is_complete_at_its_end(calls: list[str]) -> None:
    """It begins after what was queued when it was marked, and has ended when the block has, so that its results can be used."""
    marker = Marker(GPU)
    with marker.beside():
        calls.append("work")
    assert calls == ["record on the steps' stream", "wait", "enter", "work", "leave", "synchronize"]


def test_a_cpu_has_no_streams(calls: list[str]) -> None:
    """The work is done at once, and tensors belong to nobody."""
    with Marker(torch.device("cpu")).beside():
        calls.append("work")
    hand_over([torch.zeros(2)])
    assert calls == ["work"]


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16", "tf32"])
def test_each_thread_computes_in_its_own_arithmetic(monkeypatch: pytest.MonkeyPatch, arithmetic: str) -> None:
    """Torch has one switch for TF32: it is set for every piece of work and set back, and no two threads queue work together."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", arithmetic != "tf32")
    with devices.computing(arithmetic, GPU):  # type: ignore[arg-type]
        assert torch.backends.cudnn.allow_tf32 is (arithmetic == "tf32")
        assert not _acquired_elsewhere()
    assert _acquired_elsewhere()
    assert torch.backends.cudnn.allow_tf32 is (arithmetic != "tf32")


def _acquired_elsewhere() -> bool:
    """Whether another thread can take the switch now."""
    from concurrent.futures import ThreadPoolExecutor

    def take() -> bool:
        taken = devices._SWITCHES.acquire(blocking=False)
        if taken:
            devices._SWITCHES.release()
        return taken

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(take).result()
