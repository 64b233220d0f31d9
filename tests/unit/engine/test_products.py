"""Wide products in chunks, as on a GPU: computed on the CPU, where only their values and their memory can be checked."""

from __future__ import annotations

import pytest
import torch

from impasto_engine import painting, products
from impasto_engine.batch import BatchKey, RunningBatch
from impasto_engine.losses import gram
from impasto_engine.networks import Network
from impasto_engine.optimizers import OPTIMIZERS
from impasto_engine.products import chunked, product
from tests.unit.engine.test_batch import JOBS, only


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split the positions on the CPU as on a GPU, and from a small number on."""
    monkeypatch.setattr(products, "CHUNKED_ON", {"cpu"})
    monkeypatch.setattr(products, "LEAST_POSITIONS", 16)
    products._divisor.cache_clear()


@pytest.fixture(autouse=True)
def forgotten() -> None:
    products._divisor.cache_clear()


@pytest.mark.parametrize("samples", [1, 3, 6])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("positions", [64 * 48, 61 * 47, 8])
def test_chunks_give_the_same_product(on_a_gpu: None, samples: int, layout: str, positions: int) -> None:
    """Of matrices in either layout, of any number of samples and positions, with a vector too."""
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.rand(samples, rows, positions, generator=generator, dtype=torch.float64) for rows in (10, 1))
    if layout == "channels last":
        left = left.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(product(left, left), torch.bmm(left, left.transpose(1, 2)))
    torch.testing.assert_close(product(left, right), torch.bmm(left, right.transpose(1, 2)))


def test_features_are_not_copied(on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks of channels-last features, and those of the history of one canvas, are views."""
    seen: list[torch.Tensor] = []
    multiply = products._multiply

    def watched(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        seen.append(left)
        return multiply(left, right)

    monkeypatch.setattr(products, "_multiply", watched)
    features = torch.rand(3, 8, 32, 32).contiguous(memory_format=torch.channels_last)
    gram(features)
    history = torch.rand(1, 10, 4096)
    product(history, torch.rand(1, 1, 4096))
    assert [tensor.untyped_storage().data_ptr() for tensor in seen] == [
        tensor.untyped_storage().data_ptr() for tensor in (features, history)
    ]
    assert all(len(tensor) >= 64 for tensor in seen)


def test_the_chunks_do_not_depend_on_the_number_of_samples(on_a_gpu: None) -> None:
    """A sample's sums are those of the sample alone."""
    features = torch.rand(3, 8, 32, 32).contiguous(memory_format=torch.channels_last)
    alone = torch.cat([gram(features[i : i + 1]) for i in range(3)])
    assert products._divisor.cache_info().currsize == 1
    torch.testing.assert_close(gram(features), alone, rtol=1e-6, atol=1e-7)


def test_a_cpu_multiplies_in_one_call() -> None:
    """Chunks would only cost time there."""
    left = torch.rand(1, 4, 1 << 16)
    assert torch.equal(product(left, left), torch.bmm(left, left.transpose(1, 2)))
    assert not torch.equal(product(left, left), chunked(left, left, 16))


def test_a_job_in_chunks_takes_the_same_steps(network: Network, on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gram matrices, the history and the band energies: the canvas after five steps is that of whole products."""

    def painted() -> torch.Tensor:
        batch = RunningBatch(network, BatchKey(32, 48, "average", "float32"), group_size=4)
        for name in ("plain", "noise"):
            painting.join(batch, name, only(JOBS[name]))
        for _ in range(5):
            batch.step()
        return batch.canvas("noise")

    in_chunks = painted()
    monkeypatch.setattr(products, "CHUNKED_ON", frozenset())
    torch.testing.assert_close(in_chunks, painted(), rtol=0, atol=2e-3)


def test_an_optimizer_uses_chunks_for_its_history(on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All inner products of an update go through them."""
    seen: list[tuple[int, ...]] = []
    split = products._split

    def watched(matrix: torch.Tensor, chunks: int) -> torch.Tensor:
        seen.append(tuple(matrix.shape))
        return split(matrix, chunks)

    monkeypatch.setattr(products, "_split", watched)
    state = OPTIMIZERS["lbfgs"].start(torch.rand(1, 3, 32, 32), 1.0, 5)
    for _ in range(3):
        terms = state["trial"].square().sum(dim=(1, 2, 3))
        OPTIMIZERS["lbfgs"].update(state, torch.stack([terms] + [torch.zeros_like(terms)] * 2, dim=1), 2 * state["trial"])
    assert seen.count((1, 5, 3 * 32 * 32)) >= 3 * 2
