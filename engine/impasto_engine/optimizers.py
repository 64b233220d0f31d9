"""L-BFGS and Adam for a batch of independent canvases.

One update consumes one evaluation of every canvas in the batch. A state maps names to tensors whose first axis is the batch.
Stacking, removing, saving and restoring a sample therefore use the same code for every optimizer, and a sample's row is
sufficient to resume it. Rows share nothing, and no value is read back to the host.

``canvas`` is the last accepted point, with its ``terms`` (losses); ``trial`` is the next point to evaluate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from impasto_engine.parameters import OptimizerName
from impasto_engine.products import product
from impasto_engine.spectral import scales, spectrum_of

State = dict[str, Tensor]

HISTORY = ("steps", "changes")
"""Tensors of a state with the pairs of L-BFGS, a row for each place of a ring. An update changes only the row at ``next``."""

CHANGED_IN_PLACE = frozenset({*HISTORY, "products"})
"""Tensors of a state that an update changes in place: the history, which is most of it. All others are replaced."""

FIRST_STEP_RMS = 0.02
"""Root mean square of the first L-BFGS step, before any curvature information, in pixel values of [0, 1]."""
MAX_STEP_RMS = 0.1
"""Largest root mean square of an L-BFGS step, in the same units. The quadratic model is not trusted beyond it."""
MIN_CURVATURE = 1e-9
"""A pair is kept if the cosine between step and gradient change exceeds this. The test is relative and therefore invariant to
the scale of the loss. torch.optim.LBFGS compares ``y . s`` with 1e-10 and stops moving when the loss is small."""
MOMENTS_DECAY = 0.95
"""Decay factor per accepted pair of the moments that give the curvature by frequency and colour."""
REJECTIONS_TO_RESTART = 6
"""Number of consecutive rejected steps after which the history is discarded: it no longer describes the loss surface."""
REJECTIONS_TO_STOP = 18
"""Number of consecutive rejected steps, a restart among them, after which the sample has stalled: float32 resolves no further
improvement."""


WINDOW = 10
"""Number of steps over which the convergence tolerance is tested."""


class Optimizer(Protocol):
    """Update rule for a batch of canvases."""

    def start(self, canvas: Float[Tensor, "1 3 height width"], learning_rate: float, history: int) -> State:
        """Return the initial state of one sample, before its first evaluation."""
        ...

    def update(
        self, state: State, terms: Float[Tensor, "batch terms"], gradient: Float[Tensor, "batch 3 height width"]
    ) -> None:
        """Process the evaluation of ``state["trial"]`` and choose the next trial."""
        ...


def row(state: State, index: int) -> State:
    """Return a copy of one sample's state, with a batch axis of one."""
    return {name: values[index : index + 1].clone() for name, values in state.items()}


def recent_row(state: State, index: int, updates: int) -> State:
    """Return a copy of one sample's state with the rows of the history that its last updates may have changed, oldest first."""
    found = row({name: values for name, values in state.items() if name not in HISTORY}, index)
    places = (state["next"][index] - updates + torch.arange(updates, device=state["next"].device)) % state["history"][index]
    return found | {name: state[name][index].index_select(0, places)[None] for name in HISTORY}


def stalled(state: State) -> Tensor:
    """Return, per sample, whether no further improvement can be found."""
    return state["rejections"] >= REJECTIONS_TO_STOP


def converged(state: State) -> Tensor:
    """Return, per sample, whether the relative decrease over the last :data:`WINDOW` steps is below its tolerance.

    A loss above one of theirs is no convergence: Adam's may rise at first, and L-BFGS accepts no rise.
    """
    loss, tolerance, recent = state["terms"].sum(dim=1), state["tolerance"], state["recent"]
    return (tolerance > 0) & (loss <= recent.amin(dim=1)) & (recent[:, 0] - loss < tolerance * loss)


def note_loss(state: State) -> None:
    """Record the loss before an update, for :func:`converged`."""
    loss = state["terms"].sum(dim=1, keepdim=True)
    state["recent"] = torch.cat([state["recent"][:, 1:], loss], dim=1)


def carried(optimizer: OptimizerName, state: Mapping[str, Tensor], height: int, width: int) -> State:
    """Return the optimizer state of one sample that is carried over to a larger canvas.

    Adam's moments are upsampled (as in Crowson's style-transfer-pytorch), the second moment clamped at zero. L-BFGS carries
    nothing over, because that was measured to be worse (docs/lab/performance.md).
    """
    if optimizer != "adam":
        return {}

    def enlarged(name: str, mode: str) -> Tensor:
        return F.interpolate(state[name], size=(height, width), mode=mode)

    first, second = enlarged("first_moment", "bicubic"), enlarged("second_moment", "bilinear").clamp_min(0)
    return {"first_moment": first, "second_moment": second, "updates": state["updates"].clone()}


class Adam:
    """Adam (Kingma & Ba 2015) with the published constants; the learning rate is in pixel values.

    Departure: epsilon is 1e-16 instead of 1e-8, since the gradient of a mean over a large picture is itself near 1e-8. A
    non-finite evaluation halves the learning rate and returns to the last finite canvas.
    """

    first_decay = 0.9
    second_decay = 0.999

    def start(self, canvas: Float[Tensor, "1 3 height width"], learning_rate: float, history: int) -> State:
        """See :class:`Optimizer`; ``history`` is not used."""
        del history
        zeros = torch.zeros_like(canvas)
        return {
            **_common(canvas, learning_rate),
            "first_moment": zeros,
            "second_moment": zeros.clone(),
            "updates": canvas.new_zeros(1),
        }

    def update(
        self, state: State, terms: Float[Tensor, "batch terms"], gradient: Float[Tensor, "batch 3 height width"]
    ) -> None:
        """See :class:`Optimizer`."""
        finite = _finite(terms, gradient)
        each = finite.view(-1, 1, 1, 1)
        state["canvas"] = torch.where(each, state["trial"], state["canvas"])
        state["terms"] = torch.where(finite[:, None], terms, state["terms"])
        state["rejections"] = torch.where(finite, 0, state["rejections"] + 1)
        state["learning_rate"] = torch.where(finite, state["learning_rate"], state["learning_rate"] / 2)
        state["updates"] = state["updates"] + finite
        first = torch.lerp(gradient, state["first_moment"], self.first_decay)
        second = torch.lerp(gradient.square(), state["second_moment"], self.second_decay)
        state["first_moment"] = torch.where(each, first, state["first_moment"])
        state["second_moment"] = torch.where(each, second, state["second_moment"])
        updates = state["updates"].clamp_min(1)
        first_scale = state["learning_rate"] / (1 - self.first_decay**updates)
        second_scale = 1 / (1 - self.second_decay**updates)
        size = (state["second_moment"] * second_scale.view(-1, 1, 1, 1)).sqrt_().add_(1e-16)
        state["trial"] = state["canvas"] - state["first_moment"] / size * first_scale.view(-1, 1, 1, 1)


def _wide(device: torch.device) -> torch.dtype:
    """Return the type of L-BFGS's inner products; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class LBFGS:
    r"""Limited-memory BFGS (Nocedal 1980) without a line search, with safeguards per sample.

    Directions come from the compact form of the two-loop recursion. With the steps ``S`` and gradient changes ``Y`` of the
    history as rows, oldest first, and :math:`R_{ij} = s_i \cdot y_j` for :math:`i \le j`,

    .. math:: R a = S g, \quad r = H_0 (g - Y^T a), \quad R^T c = \mathrm{diag}(R)\, a - Y r, \quad d = -(r + S^T c)

    which takes four passes over the history and two small triangular solves for the whole batch. The initial inverse Hessian
    :math:`H_0` has a separate scale for each octave of spatial frequency and each colour (:mod:`impasto_engine.spectral`).

    Safeguards that ``torch.optim.LBFGS`` lacks: a trial that does not lower the loss is rejected and the step halved; step
    lengths are capped in pixel values; the curvature test is relative; the history is discarded after repeated rejections.
    """

    def start(self, canvas: Float[Tensor, "1 3 height width"], learning_rate: float, history: int) -> State:
        """See :class:`Optimizer`."""
        pairs = canvas.new_zeros(1, history, canvas[0].numel())
        zero = torch.zeros(1, dtype=torch.int64, device=canvas.device)
        return {
            **_common(canvas, learning_rate),
            "gradient": torch.zeros_like(canvas),
            "direction": torch.zeros_like(canvas),
            "length": canvas.new_ones(1),
            "steps": pairs,
            "changes": pairs.clone(),
            "products": torch.zeros(1, history, history, dtype=_wide(canvas.device), device=canvas.device),
            "moments": canvas.new_zeros(1, 2, 3, spectrum_of(canvas).count),
            "count": zero,
            "next": zero.clone(),
            "history": zero + history,
        }

    def update(
        self, state: State, terms: Float[Tensor, "batch terms"], gradient: Float[Tensor, "batch 3 height width"]
    ) -> None:
        """See :class:`Optimizer`."""
        loss = terms.sum(dim=1)
        before = state["terms"].sum(dim=1)
        accepted = _finite(terms, gradient) & (loss < before)
        self._remember(state, gradient, accepted & before.isfinite())
        each = accepted.view(-1, 1, 1, 1)
        state["canvas"] = torch.where(each, state["trial"], state["canvas"])
        state["gradient"] = torch.where(each, gradient, state["gradient"])
        state["terms"] = torch.where(accepted[:, None], terms, state["terms"])
        state["rejections"] = torch.where(accepted, 0, state["rejections"] + 1)
        restart = state["rejections"] == REJECTIONS_TO_RESTART
        state["count"] = torch.where(restart, 0, state["count"])
        state["moments"] = torch.where(restart.view(-1, 1, 1, 1), 0.0, state["moments"])
        state["length"] = torch.where(accepted | restart, 1.0, state["length"] / 2)
        fresh = (accepted | restart).view(-1, 1, 1, 1)
        state["direction"] = torch.where(fresh, self._direction(state), state["direction"])
        length = (state["length"] * state["learning_rate"]).view(-1, 1, 1, 1)
        state["trial"] = state["canvas"] + length * state["direction"]

    def _remember(self, state: State, gradient: Tensor, eligible: Tensor) -> None:
        """Overwrite the oldest pair with the newest where the curvature test passes."""
        moved, turned = state["trial"] - state["canvas"], gradient - state["gradient"]
        moments = spectrum_of(moved).moments(moved, turned)
        step, change = moved.flatten(1), turned.flatten(1)
        curvature = (step * change).sum(dim=1)
        change_square = change.square().sum(dim=1)
        size = (step.square().sum(dim=1) * change_square).sqrt()
        kept = eligible & (curvature > MIN_CURVATURE * size)
        samples = torch.arange(len(kept), device=kept.device)
        slot = state["next"]
        for name, values in (("steps", step), ("changes", change)):
            state[name][samples, slot] = torch.where(kept[:, None], values, state[name][samples, slot])
        column = _dots(state["steps"], change).to(state["products"].dtype)
        old = state["products"][samples, :, slot]
        state["products"][samples, :, slot] = torch.where(kept[:, None], column, old)
        # Normalized so that each pair has the same weight, whatever the length of its step.
        mixed = MOMENTS_DECAY * state["moments"] + moments / change_square.view(-1, 1, 1, 1)
        state["moments"] = torch.where(kept.view(-1, 1, 1, 1), mixed, state["moments"])
        state["next"] = torch.where(kept, (slot + 1) % state["history"], slot)
        state["count"] = torch.where(kept, (state["count"] + 1).minimum(state["history"]), state["count"])

    def _direction(self, state: State) -> Tensor:
        gradient = state["gradient"].flatten(1)
        quasi_newton = self._quasi_newton(state, gradient)
        steepest = -gradient * (FIRST_STEP_RMS / _rms(gradient))[:, None]
        usable = (state["count"] > 0) & quasi_newton.isfinite().all(dim=1)
        usable &= (quasi_newton * gradient).sum(dim=1) < 0
        direction = torch.where(usable[:, None], quasi_newton, steepest)
        capped = (MAX_STEP_RMS / _rms(direction)).clamp_max(1)
        return (direction * capped[:, None]).view_as(state["canvas"])

    def _quasi_newton(self, state: State, gradient: Tensor) -> Tensor:
        steps, changes = state["steps"], state["changes"]
        slots = steps.shape[1]
        age = torch.arange(slots, device=steps.device)
        count = state["count"][:, None]
        valid = age < count
        # Row k of the ordered history is the k-th oldest pair. Rows beyond the count are arbitrary and are masked.
        order = torch.where(valid, (state["next"][:, None] - count + age) % state["history"][:, None], age)
        products = state["products"].gather(1, order[:, :, None].expand(-1, -1, slots))
        products = products.gather(2, order[:, None, :].expand(-1, slots, -1))
        identity = torch.eye(slots, dtype=products.dtype, device=products.device)
        upper = torch.where(valid[:, :, None] & valid[:, None, :], products.triu(), identity)

        def along(history: Tensor, vector: Tensor) -> Tensor:
            values = _dots(history, vector).to(products.dtype).gather(1, order)
            return torch.where(valid, values, 0)

        def combine(history: Tensor, weights: Tensor) -> Tensor:
            by_slot = torch.zeros_like(weights).scatter_add(1, order, torch.where(valid, weights, 0))
            return torch.bmm(by_slot[:, None, :].to(history.dtype), history)[:, 0]

        first = torch.linalg.solve_triangular(upper, along(steps, gradient)[:, :, None], upper=True)[:, :, 0]
        rest = (gradient - combine(changes, first)).view_as(state["canvas"])
        rest = spectrum_of(rest).scale(rest, scales(state["moments"])).flatten(1)
        right = upper.diagonal(dim1=1, dim2=2) * first - along(changes, rest)
        second = torch.linalg.solve_triangular(upper.transpose(1, 2), right[:, :, None], upper=False)[:, :, 0]
        return -(rest + combine(steps, second))


OPTIMIZERS: Mapping[str, Optimizer] = {"lbfgs": LBFGS(), "adam": Adam()}


def _common(canvas: Tensor, learning_rate: float) -> State:
    return {
        "canvas": canvas.clone(),
        "trial": canvas.clone(),
        "terms": canvas.new_full((1, 3), torch.inf),
        "learning_rate": canvas.new_full((1,), learning_rate),
        "rejections": torch.zeros(1, dtype=torch.int64, device=canvas.device),
        "tolerance": canvas.new_zeros(1),
        "recent": canvas.new_full((1, WINDOW), torch.inf),
    }


def _finite(terms: Tensor, gradient: Tensor) -> Tensor:
    return terms.isfinite().all(dim=1) & gradient.flatten(1).sum(dim=1).isfinite()  # a sum is finite only if its parts are


def _dots(history: Tensor, vector: Tensor) -> Tensor:
    """Return each sample's inner products of its history's rows with its vector, [batch, rows]."""
    return product(history, vector[:, None, :])[:, :, 0]


def _rms(values: Tensor) -> Tensor:
    return values.square().mean(dim=1).sqrt().clamp_min(torch.finfo(values.dtype).tiny)
