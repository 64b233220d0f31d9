"""A running batch on a device with little memory, and with reports that lag as on a GPU: fake errors on the CPU."""

from __future__ import annotations

import sys
import weakref
from dataclasses import replace

import pytest
import torch

from impasto_engine import batch as batch_module
from impasto_engine import painting
from impasto_engine.batch import RunningBatch
from impasto_engine.networks import Network
from impasto_engine.objective import Evaluation, StackedObjectives
from impasto_engine.slots import Slots
from tests.unit.engine.test_batch import JOBS, KEY, only


def full(_slots: Slots, *_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("act", ["add", "remove"])
def test_no_memory_for_a_change_of_members_leaves_the_batch_whole(
    network: Network, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The sample that could not join or leave changes nothing: all members go on, and the change succeeds later."""
    batch = RunningBatch(network, KEY, group_size=4)
    painting.join(batch, "a", only(JOBS["plain"]))
    painting.join(batch, "b", only(JOBS["noise"]))
    batch.step()
    with monkeypatch.context() as patch:
        patch.setattr(Slots, act, full)
        with pytest.raises(torch.OutOfMemoryError):
            painting.join(batch, "c", only(JOBS["plain"])) if act == "add" else batch.leave("a")
    assert {name: report.step for name, report in batch.step()} == {"a": 2, "b": 2}
    painting.join(batch, "c", only(JOBS["plain"])) if act == "add" else batch.leave("a")
    assert {name: report.step for name, report in batch.step()} == ({"a": 3, "b": 3, "c": 1} if act == "add" else {"b": 3})


def test_a_failed_pass_is_freed_before_it_is_repeated(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traceback of the error holds its activations; the cache is emptied and the pass halved when they are gone."""
    evaluate = StackedObjectives.evaluate
    activations: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    handled: list[object] = []

    def scarce(self: StackedObjectives, network: Network, canvas: torch.Tensor, **more: object) -> Evaluation:
        activation = torch.zeros(8)
        activations.append(weakref.ref(activation))
        if len(canvas) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(self, network, canvas, **more)

    def release(_device: torch.device) -> None:
        alive.append(sum(ref() is not None for ref in activations))
        handled.append(sys.exc_info()[0])

    monkeypatch.setattr(StackedObjectives, "evaluate", scarce)
    monkeypatch.setattr(batch_module, "release_cached", release)
    batch = RunningBatch(network, KEY, group_size=4)
    for name in ("plain", "noise"):
        painting.join(batch, name, only(JOBS[name]))
    assert {name: report.step for name, report in batch.step()} == {"plain": 1, "noise": 1}
    assert alive == [0]
    assert handled == [None]


def test_histories_of_different_lengths_are_not_padded(network: Network) -> None:
    """A job with a long history takes its own memory, not that of all others; all share one pass."""
    batch = RunningBatch(network, KEY, group_size=8)
    long = replace(JOBS["plain"], parameters=replace(JOBS["plain"].parameters, history=50))
    for name, job in (("a", JOBS["plain"]), ("long", long), ("b", JOBS["noise"])):
        painting.join(batch, name, only(job))
    assert batch.largest_pass == 3
    assert {name: batch.export(name).tensors["steps"].shape[1] for name in ("a", "b", "long")} == {"a": 4, "b": 4, "long": 50}


def test_memory_of_slots_without_a_sample_is_given_back(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a pass of one canvas finds no memory, the spare slots are freed and it is tried once more."""
    evaluate = StackedObjectives.evaluate
    batch = RunningBatch(network, KEY, group_size=4)
    for name in ("a", "b"):
        painting.join(batch, name, only(JOBS["plain"]))
    batch.leave("b")
    assert batch.spare == 1
    tries: list[int] = []

    def scarce(self: StackedObjectives, network: Network, canvas: torch.Tensor, **more: object) -> Evaluation:
        tries.append(batch.spare)
        if batch.spare:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(self, network, canvas, **more)

    monkeypatch.setattr(StackedObjectives, "evaluate", scarce)
    assert dict(batch.step())["a"].step == 1
    assert tries == [1, 0]


def test_delayed_reports_are_read_before_a_canvas_leaves(network: Network) -> None:
    """With reports a step late, none is lost, none comes twice, and those of the others stay in their order."""
    batch = RunningBatch(network, KEY, lag=1)
    painting.join(batch, "stays", only(JOBS["plain"]))
    painting.join(batch, "leaves", only(JOBS["noise"]))
    heard = [*batch.step(), *batch.step(), *batch.step()]
    heard += [("leaves", step) for step in batch.flush("leaves")]
    assert batch.flush("leaves") == []
    assert batch.export("leaves").step == 3
    batch.leave("leaves")
    for _ in range(3):
        heard += batch.step()
    assert [step.step for name, step in heard if name == "leaves"] == [1, 2, 3]
    assert [step.step for name, step in heard if name == "stays"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_report_shows_the_canvas_whose_losses_it_has(network: Network, lag: int) -> None:
    """Also if it is read after the next step, and after members came and went."""
    batch = RunningBatch(network, KEY, lag=lag)
    painting.join(batch, "job", only(JOBS["plain"]))
    batch.show("job", 2)
    scorer = StackedObjectives([painting.objective(network, JOBS["plain"])], network)
    shown = {}
    for number in range(6):
        if number == 2:
            painting.join(batch, "other", only(JOBS["noise"]))
        for name, step in batch.step():
            if name == "job" and step.canvas is not None:
                shown[step.step] = step
    assert sorted(shown) == [2, 4, 6]
    for step in shown.values():
        assert step.canvas is not None
        terms = scorer.evaluate(network, step.canvas[None], KEY.pooling, KEY.precision).terms
        assert float(terms.sum()) == pytest.approx(step.losses.total, rel=1e-4)


def test_a_state_can_be_resumed_twice(network: Network) -> None:
    """The first batch does not change the state that it was given."""
    batch = RunningBatch(network, KEY)
    painting.join(batch, "job", only(JOBS["plain"]))
    batch.step()
    batch.step()
    state = batch.export("job")
    pictures = []
    for _ in range(2):
        other = RunningBatch(network, KEY)
        painting.resume(other, "job", only(JOBS["plain"]), state)
        other.step()
        other.step()
        pictures.append(other.canvas("job"))
    assert torch.equal(*pictures)
