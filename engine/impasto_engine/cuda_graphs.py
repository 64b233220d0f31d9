"""An evaluation recorded once as a CUDA graph and replayed, so that a step costs one launch instead of hundreds.

Off unless asked for: nobody could run it on a GPU where it was written. A recording that does not give what the evaluation
itself gives, or that fails, is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from impasto_engine.objective import Evaluation

logger = logging.getLogger(__name__)

WARM_UPS = 2
"""Evaluations on a stream of their own before recording, in which the libraries choose their kernels and take their memory."""
TOLERANCE = 1e-3
"""By how much a replay may differ from the evaluation itself: the order of atomic sums is not fixed on a GPU."""

PROBE = 0.01
"""By how much the canvas that a recording is tried on differs from the one that it was made on."""

Evaluate = Callable[[Tensor], Evaluation]


class Recording:
    """A recorded evaluation.

    Args:
        evaluate: What to record; reads nothing but its argument and tensors that stay where they are.
        canvas: Of the shape to record for.
    """

    def __init__(self, evaluate: Evaluate, canvas: Tensor) -> None:
        self._canvas = canvas.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                evaluate(self._canvas)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = evaluate(self._canvas)

    def __call__(self, canvas: Tensor) -> Evaluation:
        """Return the evaluation of a canvas."""
        self._canvas.copy_(canvas)
        self._graph.replay()
        return Evaluation(self._result.terms.clone(), self._result.gradient.clone())


def recorded(evaluate: Evaluate, canvas: Tensor, record: Callable[[Evaluate, Tensor], Evaluate] = Recording) -> Evaluate:
    """Return a recording of an evaluation, or the evaluation itself where none can be had that agrees with it."""
    other = canvas + PROBE  # not the canvas that was recorded: a replay that does nothing must show
    try:
        wanted = evaluate(other)
        replay = record(evaluate, canvas)
        found = replay(other)
    except RuntimeError as error:  # torch.OutOfMemoryError is one too
        logger.warning("no CUDA graph is used: %s", error)
        return evaluate
    for name, own, other in (("terms", wanted.terms, found.terms), ("gradient", wanted.gradient, found.gradient)):
        scale = float(own.abs().max())
        if not float((own - other).abs().max()) <= TOLERANCE * scale:
            logger.warning("no CUDA graph is used: its %s differ from the evaluation's", name)
            return evaluate
    return replay
