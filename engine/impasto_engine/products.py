r"""Products of two wide matrices, summed over many positions: Gram matrices, inner products with a history, band energies.

A GPU's libraries may compute such a product on a single processor, because its result is small. Here the positions are split
into chunks, which are separate products of one batched call, and their results are added:

.. math:: A B^T = \sum_k A_k B_k^T

The chunks depend on the shape of one sample's matrices, not on the number of samples. On a CPU the product is a single call.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

CHUNKED_ON = frozenset({"cuda"})
"""Types of devices on which positions are split. Not confirmed by a measurement yet (docs/lab/gpu.md)."""
LEAST_POSITIONS = 4096
"""Smallest number of positions of a chunk."""
MOST_CHUNKS = 128
TILE = 128
"""Side of the tiles of a result that libraries compute independently of each other, roughly."""
LOOPED_SAMPLES = 4
"""Samples whose chunks are not a regular batch are multiplied one by one up to this number; more fill a GPU anyway."""


def product(left: Float[Tensor, "batch rows positions"], right: Float[Tensor, "batch columns positions"]) -> Tensor:
    """Return ``left right^T`` of each sample. On a GPU, bfloat16 matrices give a float32 result."""
    chunks = _chunks(left, right)
    if chunks == 1 or (len(left) > LOOPED_SAMPLES and not _regular(left, right)):
        return _multiply(left, right.transpose(1, 2))
    if not _regular(left, right):
        return torch.cat([chunked(left[i : i + 1], right[i : i + 1], chunks) for i in range(len(left))])
    return chunked(left, right, chunks)


def chunked(left: Tensor, right: Tensor, chunks: int) -> Tensor:
    """Return ``left right^T`` as the sum over equal chunks of the positions; their number must divide the positions."""
    first, second = (_split(matrix, chunks) for matrix in (left, right))
    parts = _multiply(first, second.transpose(1, 2))
    return parts.view(len(left), chunks, *parts.shape[1:]).sum(dim=1)


def _chunks(left: Tensor, right: Tensor) -> int:
    if left.device.type not in CHUNKED_ON:
        return 1
    tiles = -(-left.shape[1] // TILE) * -(-right.shape[1] // TILE)
    return _divisor(left.shape[2], MOST_CHUNKS // tiles)


@functools.lru_cache(maxsize=256)
def _divisor(positions: int, most: int) -> int:
    """Return the largest number of equal chunks that are neither too many nor too small."""
    wanted = min(most, positions // LEAST_POSITIONS)
    return next((chunks for chunks in range(wanted, 1, -1) if positions % chunks == 0), 1)


def _regular(*matrices: Tensor) -> bool:
    """Whether the chunks of all samples can be one batch without copying: positions are the slowest axis of a sample."""
    return all(len(matrix) == 1 or matrix.stride(0) == matrix.shape[2] * matrix.stride(2) for matrix in matrices)


def _split(matrix: Tensor, chunks: int) -> Tensor:
    """Return a matrix as a batch of its chunks, [batch * chunks, rows, size]: a view if it is regular."""
    samples, rows, positions = matrix.shape
    return matrix.view(samples, rows, chunks, positions // chunks).transpose(1, 2).flatten(0, 1)


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    if left.dtype == torch.bfloat16 and left.device.type == "cuda":
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left, right)
