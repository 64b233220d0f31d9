"""Recorded evaluations, tested with a fake recorder and without a CUDA device."""

from __future__ import annotations

import contextlib
import gc
import weakref
from functools import partial

import pytest
import torch

from impasto_engine.batch import BatchKey, RunningBatch
from impasto_engine.cuda_graphs import Evaluate, Recording, recorded
from impasto_engine.networks import Network
from impasto_engine.objective import Evaluation

CANVAS = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def evaluate(canvas: torch.Tensor) -> Evaluation:
    return Evaluation(canvas.square().mean(dim=(2, 3)), 2 * canvas)


def test_a_recording_that_agrees_is_used() -> None:
    """Every later evaluation uses the recording."""

    def replay(canvas: torch.Tensor) -> Evaluation:
        return evaluate(canvas)

    assert recorded(evaluate, CANVAS, lambda _evaluate, _canvas: replay) is replay


@pytest.mark.parametrize("part", ["terms", "gradient"])
def test_a_recording_that_does_not_agree_is_dropped(part: str, caplog: pytest.LogCaptureFixture) -> None:
    """An error of one per cent or a NaN is too much. A warning is logged."""
    for wrong in (1.01, float("nan")):

        def replay(canvas: torch.Tensor, wrong: float = wrong) -> Evaluation:
            found = evaluate(canvas)
            return Evaluation(**{**vars(found), part: getattr(found, part) * wrong})

        used: Evaluate = recorded(evaluate, CANVAS, lambda _evaluate, _canvas, replay=replay: replay)
        assert used is evaluate
        assert f"its {part} differ" in caplog.text


def test_a_device_that_cannot_record_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    """After running out of memory, or with an operation that cannot be captured, no recording is used."""

    def record(evaluate: Evaluate, canvas: torch.Tensor) -> Evaluate:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert recorded(evaluate, CANVAS, record) is evaluate
    assert "CUDA graph not used" in caplog.text


def test_a_cpu_records_nothing(network: Network) -> None:
    """Whether or not graphs are enabled."""
    assert not RunningBatch(network, BatchKey(32, 32, "average", "float32"), graphs=True)._records


class Recorder:
    """Stands in for CUDA's streams and graphs: a replay repeats what was captured, with the same tensors."""

    def wait_stream(self, _stream: Recorder) -> None:
        return

    def replay(self) -> None:
        return


class Targets:
    """Owns what an evaluation reads, as the stacked objectives do."""

    def evaluate(self, canvas: torch.Tensor, scale: float) -> Evaluation:
        return evaluate(canvas * scale)


def test_a_recording_keeps_the_targets_that_its_graph_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph knows addresses only: freed targets would be read again after their memory has other uses."""
    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, Recorder)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: contextlib.nullcontext())
    targets = Targets()
    alive = weakref.ref(targets)
    recording = Recording(partial(targets.evaluate, scale=1.0), CANVAS)
    del targets
    gc.collect()
    assert alive() is not None
    recording(CANVAS)
    del recording
    gc.collect()
    assert alive() is None
