"""What only a GPU can show. None of these tests has run on one yet: docs/lab/gpu.md."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from impasto_engine import painting
from impasto_engine.batch import BatchKey, RunningBatch
from impasto_engine.devices import PeakMemory, auto_precision, is_lost, prepare
from impasto_engine.networks import Network
from impasto_engine.objective import StackedObjectives
from impasto_engine.painting import Job, Style
from impasto_engine.parameters import Arithmetic, Parameters, Pooling, StyleLossName
from impasto_engine.weights import load_network
from impasto_server.workers.warm_up import warm_up
from tests.unit.engine.test_batch import JOBS, pixels

pytestmark = pytest.mark.gpu
SIDE = 64
SHARE = {"float32": 1e-4, "tf32": 1e-3, "bfloat16": 5e-2}
"""Largest difference of a gradient from the CPU's in float64, relative to its length."""


@pytest.fixture(scope="module")
def gpu() -> Network:
    device = torch.device("cuda:0")
    prepare(device)
    return load_network("builtin", device)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Give this process at most 4 GB of the device."""
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (4 << 30) / whole))
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def job(side: int = SIDE, masked: bool = False, **changes: object) -> Job:
    parameters = replace(Parameters(size_px=side, steps=1000, precision="float32"), **changes)  # type: ignore[arg-type]
    mask = torch.zeros(side, side, dtype=torch.uint8)
    mask[: side // 2] = 255
    return Job(side, side, pixels(1, side, side), [Style(pixels(2, side, side))], parameters, mask if masked else None)


def batch_of(network: Network, count: int, made: Job, **options: object) -> RunningBatch:
    batch = RunningBatch(network, made.key(network.device), **options)  # type: ignore[arg-type]
    for number in range(count):
        painting.join(batch, str(number), painting.levels(replace(made, content=pixels(number, made.height, made.width)))[-1])
    return batch


@pytest.mark.parametrize("precision", SHARE)
@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("statistic", ["gram", "covariance", "moments", "sliced", "histogram"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_the_gradient_is_that_of_the_cpu_in_double_precision(
    gpu: Network, precision: Arithmetic, pooling: Pooling, statistic: StyleLossName, masked: bool
) -> None:
    """For every pooling and statistic, with and without a mask."""
    made = job(masked=masked, pooling=pooling, style_loss=statistic)
    assert_gradients_agree(gpu, load_network("builtin", torch.device("cpu")), made, precision)


@pytest.mark.parametrize("name", ["alexnet:random-1", "squeezenet1_1:random-1", "vgg19:random-1"])
def test_the_gradient_of_every_network_is_that_of_the_cpu(name: str) -> None:
    """In float32."""
    from impasto_engine.parameters import fitted

    made = job(128)
    made = replace(made, parameters=fitted(replace(made.parameters, network=name), name, "default", ()))
    assert_gradients_agree(load_network(name, torch.device("cuda:0")), load_network(name, torch.device("cpu")), made, "float32")


def assert_gradients_agree(gpu: Network, cpu: Network, made: Job, precision: Arithmetic) -> None:
    canvas = torch.rand(1, 3, made.height, made.width, generator=torch.Generator().manual_seed(4))
    gradients = []
    for network in (cpu, gpu):
        stacked = StackedObjectives([painting.objective(network, made)], network)
        used = precision if network is gpu else "float32"
        gradients.append(stacked.evaluate(network, canvas.to(network.device), made.parameters.pooling, used).gradient.cpu())
    wanted, found = (gradient.double() for gradient in gradients)
    assert float((found - wanted).norm() / wanted.norm()) < SHARE[precision]


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_step_waits_for_nothing(gpu: Network, optimizer: str) -> None:
    """The host queues step after step: torch raises at any synchronization."""
    batch = batch_of(gpu, 2, job(optimizer=optimizer), lag=100)
    for _ in range(3):
        batch.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            batch.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_sixteen_together_are_sixteen_alone(gpu: Network) -> None:
    """Within rounding, after five steps; and the same run twice gives the same bits."""
    runs = []
    for _ in range(2):
        batch = batch_of(gpu, 16, job())
        for _ in range(5):
            batch.step()
        runs.append(torch.stack([batch.canvas(str(number)) for number in range(16)]))
    assert torch.equal(*runs)
    for number in (0, 7, 15):
        alone = RunningBatch(gpu, job().key(gpu.device))
        painting.join(alone, "a", painting.levels(replace(job(), content=pixels(number, SIDE, SIDE)))[-1])
        for _ in range(5):
            alone.step()
        torch.testing.assert_close(alone.canvas("a"), runs[0][number], rtol=0, atol=1e-2)


def test_a_recorded_evaluation_survives_changes_and_allocations(gpu: Network) -> None:
    """Twenty steps with and without graphs agree, with members that join and leave, garbage collection and new tensors."""
    canvases = []
    for graphs in (False, True):
        batch = batch_of(gpu, 2, job(), graphs=graphs)
        for step in range(20):
            if step == 5:
                painting.join(batch, "late", painting.levels(job())[-1])
            if step == 12:
                batch.leave("late")
            batch.step()
            gc.collect()
            torch.rand(1 << 22, device=gpu.device)
        canvases.append(batch.canvas("0"))
    torch.testing.assert_close(*canvases, rtol=0, atol=1e-2)


def test_a_capture_that_fails_leaves_the_device_usable(gpu: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation is used as it is."""
    batch = batch_of(gpu, 1, job(), graphs=True)
    evaluate = StackedObjectives.evaluate

    def reads_back(self: StackedObjectives, *args: object, **more: object) -> object:
        found = evaluate(self, *args, **more)  # type: ignore[arg-type]
        float(found.terms.sum())  # not allowed in a capture
        return found

    monkeypatch.setattr(StackedObjectives, "evaluate", reads_back)
    for _ in range(3):
        batch.step()
    assert torch.isfinite(batch.canvas("0")).all()


def test_a_pass_without_memory_is_halved_on_the_device(gpu: Network, little_memory: None) -> None:
    """A real one: all canvases take their steps, and leave."""
    batch = batch_of(gpu, 16, job(512))
    found = {name: step.step for _ in range(3) for name, step in batch.step()}
    found |= {str(number): step.step for number in range(16) for step in batch.flush(str(number))}
    assert found == {str(number): 3 for number in range(16)}
    assert batch.largest_pass < 16
    for number in range(15):
        batch.leave(str(number))
    batch.step()


def test_an_illegal_access_is_seen_as_the_end_of_the_device() -> None:
    """In a process of its own, because nothing works there afterwards."""
    program = """
import torch
from impasto_engine.devices import is_lost
device = torch.device("cuda:0")
try:
    torch.zeros(4, device=device)[torch.tensor([1 << 40], device=device)].sum().item()
except Exception as error:
    assert is_lost(error, device), error
    print("lost")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "lost\n", done.stderr
    assert not is_lost(ValueError("an error of a job"), torch.device("cuda:0"))


@pytest.mark.parametrize("name", ["plain", "adam"])
def test_a_job_goes_on_elsewhere(gpu: Network, network: Network, name: str) -> None:
    """Exported on the GPU and resumed on the CPU, and the other way round."""
    made = JOBS[name]
    for first, second in ((gpu, network), (network, gpu)):
        batch = RunningBatch(first, BatchKey(made.height, made.width, "average", "float32"))
        painting.join(batch, "a", painting.levels(made)[-1])
        for _ in range(3):
            batch.step()
        batch.flush("a")
        state = batch.export("a")
        assert all(tensor.device.type == "cpu" for tensor in state.tensors.values())
        other = RunningBatch(second, batch.key)
        painting.resume(other, "a", painting.levels(made)[-1], state)
        for _ in range(3):
            other.step()
        stays = RunningBatch(first, batch.key)
        painting.join(stays, "a", painting.levels(made)[-1])
        for _ in range(6):
            stays.step()
        torch.testing.assert_close(other.canvas("a").cpu(), stays.canvas("a").cpu(), rtol=0, atol=2e-2)


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("side", [64, 512, 1024])
def test_the_books_are_right(gpu: Network, side: int, count: int) -> None:
    """The estimate of a pass is within 20 % of what it takes; at 64 px, where the fixed part counts, it is not below."""
    model = warm_up(gpu).memory
    arithmetic = auto_precision(gpu.device)
    made = job(side, precision=arithmetic)
    batch = batch_of(gpu, count, made)
    batch.step()
    peak = PeakMemory(gpu.device)
    batch.step(lambda: peak)
    estimate = model.pass_bytes(arithmetic, count * side**2)
    assert estimate > 0.8 * peak.taken
    if side > 64:
        assert estimate < 1.2 * peak.taken


def test_eight_large_canvases_fit_in_one_pass(gpu: Network) -> None:
    """2048 px, in bfloat16; smaller cards than 80 GB are excused."""
    if torch.cuda.get_device_properties(0).total_memory < 75 << 30:
        pytest.skip("needs 80 GB")
    batch = batch_of(gpu, 8, job(2048, precision="bfloat16"))
    batch.step()
    batch.step()
    assert batch.largest_pass == 8


def test_memory_does_not_grow_with_the_jobs_that_were_there(gpu: Network) -> None:
    """Two hundred joins and leaves of mixed sizes and histories: reserved memory stays within what the first fifty needed."""
    batches: dict[int, RunningBatch] = {}
    reserved = []
    for number in range(200):
        side = (256, 384, 512)[number % 3]
        made = job(side, history=(10, 40)[number % 2])
        batch = batches.setdefault(side, RunningBatch(gpu, made.key(gpu.device)))
        painting.join(batch, str(number), painting.levels(made)[-1])
        batch.step()
        if number >= 9:
            batches[(256, 384, 512)[(number - 9) % 3]].leave(str(number - 9))
        reserved.append(torch.cuda.memory_reserved())
    assert max(reserved[50:]) < 1.25 * max(reserved[:50])
