"""An evaluation captured once as a CUDA graph and replayed, so that a step costs one launch instead of hundreds.

Off by default: it could not be tested on a GPU where it was written. A recording that fails, or whose results differ from the
evaluation's, is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from impasto_engine.objective import Evaluation

logger = logging.getLogger(__name__)

WARM_UPS = 2
"""Warm-up evaluations on a separate stream before the capture, in which libraries choose kernels and allocate memory."""
TOLERANCE = 1e-3
"""Largest relative difference allowed between a replay and the evaluation: atomic sums have no fixed order on a GPU."""

PROBE = 0.01
"""Offset of the canvas that a recording is tested on from the canvas that it was captured with."""

Evaluate = Callable[[Tensor], Evaluation]


class Recording:
    """An evaluation captured as a CUDA graph.

    A graph holds the addresses of the tensors that it reads, not the tensors. The recording therefore keeps the evaluation,
    which owns the targets, for as long as it can be replayed.

    Args:
        evaluate: The evaluation to record. It may read only its argument and tensors whose addresses do not change.
        canvas: A canvas of the shape to record.
    """

    def __init__(self, evaluate: Evaluate, canvas: Tensor) -> None:
        self._evaluate = evaluate
        self._canvas = canvas.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                evaluate(self._canvas)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads prepare jobs meanwhile: only this thread's calls may spoil the capture, and it spoils none of theirs.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = evaluate(self._canvas)

    def __call__(self, canvas: Tensor) -> Evaluation:
        """Return the evaluation of a canvas."""
        self._canvas.copy_(canvas)
        self._graph.replay()
        return Evaluation(self._result.terms.clone(), self._result.gradient.clone())


def recorded(evaluate: Evaluate, canvas: Tensor, record: Callable[[Evaluate, Tensor], Evaluate] = Recording) -> Evaluate:
    """Return a recording of an evaluation, or the evaluation itself if recording fails or the results differ."""
    other = canvas + PROBE  # differs from the recorded canvas, so that a replay that does nothing is detected
    try:
        wanted = evaluate(other)
        replay = record(evaluate, canvas)
        found = replay(other)
    except RuntimeError as error:  # torch.OutOfMemoryError is one too
        logger.warning("CUDA graph not used: %s", error)
        return evaluate
    for name, own, other in (("terms", wanted.terms, found.terms), ("gradient", wanted.gradient, found.gradient)):
        scale = float(own.abs().max())
        if not float((own - other).abs().max()) <= TOLERANCE * scale:
            logger.warning("CUDA graph not used: its %s differ from the evaluation's", name)
            return evaluate
    return replay
