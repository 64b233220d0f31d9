from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from impasto_engine.optimizers import LBFGS, MAX_STEP_RMS, OPTIMIZERS, Adam, State, stalled
from impasto_engine.slots import Slots
from impasto_engine.spectral import scales, spectrum

Loss = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
SHAPE = (3, 4, 5)
SIZE = 60


def quadratic(seed: int, scale: float = 1.0, conditioning: float = 30.0) -> Loss:
    """Return a convex quadratic on one canvas, with its gradient."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))
    curvature = (basis * torch.logspace(0, torch.log10(torch.tensor(conditioning)).item(), SIZE)) @ basis.T
    bottom = torch.rand(SIZE, generator=generator, dtype=torch.float64)

    def loss(canvas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        away = canvas.double().flatten(1) - bottom
        slope = away @ curvature
        value = 0.5 * (away * slope).sum(dim=1)
        return (value * scale).float(), (slope * scale).float().view_as(canvas)

    return loss


def evaluate(state: State, losses: list[Loss]) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [loss(state["trial"][index : index + 1]) for index, loss in enumerate(losses)]
    terms = torch.cat([value for value, _ in pairs])
    zero = torch.zeros_like(terms)
    return torch.stack([terms, zero, zero], dim=1), torch.cat([gradient for _, gradient in pairs])


def run(name: str, state: State, losses: list[Loss], steps: int) -> State:
    for _ in range(steps):
        OPTIMIZERS[name].update(state, *evaluate(state, losses))
    return state


def start(name: str, seed: int = 0, learning_rate: float = 1.0, history: int = 8) -> State:
    canvas = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(100 + seed))
    return OPTIMIZERS[name].start(canvas, learning_rate, history)


def stacked(states: list[State]) -> Slots:
    slots = Slots()
    for state in states:
        slots.add(state)
    return slots


def loss_of(state: State) -> list[float]:
    return state["terms"].sum(dim=1).tolist()


def test_lbfgs_finds_the_bottom_of_a_quadratic() -> None:
    """Forty evaluations reduce the loss by five orders of magnitude."""
    state = start("lbfgs")
    first = float(quadratic(1)(state["trial"])[0])
    assert loss_of(run("lbfgs", state, [quadratic(1)], 40))[0] < first * 1e-5


def test_lbfgs_beats_adam_for_the_same_evaluations() -> None:
    """The report's finding, on a problem that both optimizers can solve."""
    by_lbfgs = loss_of(run("lbfgs", start("lbfgs"), [quadratic(2, conditioning=300)], 60))[0]
    rates = [0.01, 0.03, 0.1]
    by_adam = min(
        loss_of(run("adam", start("adam", learning_rate=rate), [quadratic(2, conditioning=300)], 60))[0] for rate in rates
    )
    assert by_lbfgs < by_adam / 10


def test_the_direction_is_that_of_the_two_loop_recursion() -> None:
    """The compact form equals Nocedal's two-loop recursion over the same pairs, also after the history has wrapped around."""
    state = start("lbfgs", history=5)
    run("lbfgs", state, [quadratic(3, conditioning=100)], 9)
    count, head, slots = int(state["count"]), int(state["next"]), 5
    assert count == slots
    order = [(head - count + age) % slots for age in range(count)]
    pairs = [(state["steps"][0, slot].double(), state["changes"][0, slot].double()) for slot in order]
    vector = state["gradient"].flatten().double()
    weights = []
    for step, change in reversed(pairs):
        weights.append((step @ vector) / (step @ change))
        vector = vector - weights[-1] * change
    bands = spectrum(*SHAPE[1:], torch.device("cpu"))
    vector = bands.scale(vector.float().view(1, *SHAPE), scales(state["moments"])).flatten().double()
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        vector = vector + step * (weight - (change @ vector) / (step @ change))
    found = LBFGS()._quasi_newton(state, state["gradient"].flatten(1))[0].double()
    torch.testing.assert_close(found, -vector, rtol=1e-3, atol=1e-3 * float(vector.abs().max()))


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_scaling_the_loss_changes_nothing(scale: float) -> None:
    """torch.optim.LBFGS stops moving on a small loss; this implementation gives the same canvases at any scale."""
    plain = run("lbfgs", start("lbfgs"), [quadratic(4)], 15)
    scaled = run("lbfgs", start("lbfgs"), [quadratic(4, scale)], 15)
    torch.testing.assert_close(scaled["canvas"], plain["canvas"], rtol=1e-2, atol=1e-3)


def test_adam_is_torchs() -> None:
    """It gives the same canvases as torch.optim.Adam."""
    loss = quadratic(5)
    state = start("adam", learning_rate=0.03)
    theirs = state["trial"].clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.03)
    for _ in range(20):
        Adam().update(state, *evaluate(state, [loss]))
        theirs.grad = loss(theirs.detach())[1]
        optimizer.step()
        torch.testing.assert_close(state["trial"], theirs.detach(), rtol=1e-4, atol=1e-5)


def test_lbfgs_never_accepts_a_higher_loss_or_too_long_a_step() -> None:
    """On a loss surface with a wall, accepted losses decrease monotonically and no step exceeds the cap."""

    def wall(canvas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = canvas.detach().double().requires_grad_()
        value = (leaf.square().sum(dim=(1, 2, 3)) * 3).exp() + (leaf - 0.7).abs().sum(dim=(1, 2, 3)) * 1e3
        return value.detach().float(), torch.autograd.grad(value.sum(), leaf)[0].float()

    state, before = start("lbfgs"), float("inf")
    for _ in range(60):
        LBFGS().update(state, *evaluate(state, [wall]))
        now = loss_of(state)[0]
        assert now <= before
        before = now
        step = (state["trial"] - state["canvas"]).square().mean().sqrt()
        assert float(step) <= MAX_STEP_RMS * 1.001


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_an_evaluation_that_is_not_finite_is_taken_back(name: str) -> None:
    """A NaN in the loss or the gradient leaves the canvas unchanged, and the sample recovers."""
    loss = quadratic(6)
    state = run(name, start(name, learning_rate=1.0 if name == "lbfgs" else 0.05), [loss], 5)
    kept, value = state["canvas"].clone(), loss_of(state)[0]
    terms, gradient = evaluate(state, [loss])
    OPTIMIZERS[name].update(state, terms * torch.nan, gradient)
    OPTIMIZERS[name].update(state, terms, gradient.masked_fill(gradient > 0, torch.inf))
    assert torch.equal(state["canvas"], kept)
    assert state["trial"].isfinite().all()
    assert loss_of(run(name, state, [loss], 20))[0] < value


def test_a_sample_at_the_bottom_is_stalled() -> None:
    """When no step lowers the loss any further, the sample reports a stall instead of running forever."""
    state, loss = start("lbfgs"), [quadratic(7, conditioning=1.5)]
    steps = 0
    while not bool(stalled(run("lbfgs", state, loss, 1))[0]):
        steps += 1
        assert steps < 100
    assert steps > 10
    assert loss_of(state)[0] < 1e-12


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["lbfgs", "adam"]),
    seeds=st.lists(st.integers(0, 40), min_size=2, max_size=5),
    history=st.sampled_from([1, 3, 7]),
    steps=st.integers(1, 12),
)
def test_a_batch_equals_one_by_one(name: str, seeds: list[int], history: int, steps: int) -> None:
    """Samples with different losses and scales give the same results as alone."""
    losses = [quadratic(seed, scale=10.0 ** (seed % 5 - 2)) for seed in seeds]
    rate = 1.0 if name == "lbfgs" else 0.02
    states = [start(name, seed, rate, history) for seed in seeds]
    together = run(name, stacked(states).state, losses, steps)
    for index, loss in enumerate(losses):
        alone = run(name, start(name, seeds[index], rate, history), [loss], steps)
        torch.testing.assert_close(together["canvas"][index : index + 1], alone["canvas"], rtol=2e-3, atol=2e-4)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(["lbfgs", "adam"]), before=st.integers(0, 10), after=st.integers(1, 10))
def test_leaving_and_coming_back_changes_nothing(name: str, before: int, after: int) -> None:
    """A row moved from one batch to another resumes with bit-identical results."""
    loss = quadratic(8)
    rate = 1.0 if name == "lbfgs" else 0.02
    slots = stacked([start(name, 1, rate), start(name, 2, rate)])
    run(name, slots.state, [quadratic(9), loss], before)
    alone = run(name, slots.row(1), [loss], after)
    slots.remove(0)
    assert torch.equal(run(name, slots.state, [loss], after)["canvas"], alone["canvas"])
