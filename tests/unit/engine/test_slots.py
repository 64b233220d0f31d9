"""The arena of optimizer states, with a fake allocator where memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from impasto_engine.optimizers import OPTIMIZERS, State
from impasto_engine.slots import Slots

Fault = Callable[[int], None]


def state(number: int, history: int = 3) -> State:
    canvas = torch.rand(1, 3, 8, 9, generator=torch.Generator().manual_seed(number))
    made = OPTIMIZERS["lbfgs"].start(canvas, float(number), history)
    made["steps"] += number
    return made


def numbers(slots: Slots) -> list[float]:
    """Return the number of each sample, which all its tensors must agree on."""
    found = slots.state["learning_rate"].tolist()
    assert slots.state["steps"][:, 0, 0].tolist() == found
    assert [torch.equal(slots.state["canvas"][i], state(int(n))["canvas"][0]) for i, n in enumerate(found)] == [True] * len(
        found
    )
    return found


@pytest.fixture
def allocations(monkeypatch: pytest.MonkeyPatch) -> Fault:
    """Return a function that lets the n-th allocation of the arena from now on fail."""
    left = [10**9]

    def scarce(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def allocated(*args: object, **more: object) -> torch.Tensor:
            left[0] -= 1
            if left[0] == 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return allocate(*args, **more)

        return allocated

    monkeypatch.setattr(torch, "cat", scarce(torch.cat))
    monkeypatch.setattr(torch.Tensor, "new_empty", scarce(torch.Tensor.new_empty))

    def fail(number: int) -> None:
        left[0] = number

    return fail


def test_samples_join_and_leave_without_touching_the_others() -> None:
    """The last takes the place of one that left; the state stays one row per sample, whatever room there is."""
    slots = Slots()
    for number in range(1, 13):
        slots.add(state(number))
    assert numbers(slots) == list(range(1, 13))
    slots.remove(2)
    slots.remove(10)
    assert numbers(slots) == [1, 2, 12, *range(4, 11)]
    assert slots.capacity <= 2 * len(slots)
    while len(slots):
        slots.remove(0)
    assert slots.state == {}


def test_a_sample_that_joins_after_one_left_takes_its_room() -> None:
    """The large tensors are not copied: they stay where they are."""
    slots = Slots()
    for number in range(4):
        slots.add(state(number))
    place = slots.state["steps"].data_ptr()
    for number in range(4, 10):
        slots.remove(1)
        slots.add(state(number))
        assert slots.state["steps"].data_ptr() == place


def test_the_room_follows_the_number_of_samples() -> None:
    """At most an eighth is spare while they come, and at most half after they left."""
    slots = Slots()
    for number in range(30):
        slots.add(state(number, history=1))
        assert slots.capacity <= len(slots) * 9 / 8
    while len(slots) > 1:
        slots.remove(0)
        assert slots.capacity <= 2 * len(slots)
    slots.compact()
    assert slots.capacity == 1


@pytest.mark.parametrize("join", [True, False], ids=["joins", "leaves"])
def test_running_out_of_memory_changes_nothing(allocations: Fault, join: bool) -> None:
    """Wherever it happens while one joins or leaves: all samples keep their rows, and the next try succeeds."""
    slots = Slots()
    for number in range(8):
        slots.add(state(number))
    late = state(8)
    failures = 0
    for nth in range(1, 200):
        allocations(nth)
        try:
            slots.add(late) if join else slots.remove(3)
        except torch.OutOfMemoryError:
            failures += 1
            allocations(10**9)
            assert numbers(slots) == list(range(8))
        else:
            break
    allocations(10**9)
    assert failures > 5
    assert numbers(slots) == ([*range(8), 8] if join else [0, 1, 2, 7, 4, 5, 6])
