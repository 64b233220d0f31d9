"""Parts of gpu.py that measure the engine in their own process."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from engine import evaluation_cost, make_job
from torch.utils.flop_counter import FlopCounterMode

from impasto_engine import painting
from impasto_engine import products as wide
from impasto_engine.batch import RunningBatch
from impasto_engine.devices import PeakMemory, auto_precision
from impasto_engine.networks import Network, random_trunk
from impasto_engine.optimizers import OPTIMIZERS
from impasto_engine.painting import Job
from impasto_engine.weights import load_network
from impasto_server.workers.memory import MemoryModel
from impasto_server.workers.warm_up import warm_up

BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Run:
    """Where to measure, how much, and until when (``time.monotonic()``)."""

    device: torch.device
    tiny: bool
    until: float

    @property
    def left_s(self) -> float:
        """Time left."""
        return max(0.0, self.until - time.monotonic())

    @property
    def batches(self) -> tuple[int, ...]:
        """Numbers of canvases."""
        return (1, 2) if self.tiny else BATCHES

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the canvases."""
        return (32, 48) if self.tiny else (256, 512)

    def network(self) -> Network:
        """Return the network of all parts."""
        return load_network("builtin", self.device)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def ms(self, work: Callable[[], Any], seconds: float = 0.5) -> float:
        """Return the median time of some work on the device, in milliseconds, after a warm-up."""
        work()
        self.synchronize()
        times: list[float] = []
        end = time.monotonic() + (0.0 if self.tiny else min(seconds, self.left_s))
        while len(times) < 3 or (time.monotonic() < end and len(times) < 50):
            times.append(self._once(work))
        return round(statistics.median(times), 4)

    def _once(self, work: Callable[[], Any]) -> float:
        if self.device.type != "cuda":
            began = time.perf_counter()
            work()
            return (time.perf_counter() - began) * 1e3
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)


def batch_of(network: Network, job: Job, count: int, **options: Any) -> RunningBatch:
    """Return a running batch of equal jobs."""
    batch = RunningBatch(network, job.key(network.device), **options)
    for number in range(count):
        painting.join(batch, str(number), painting.levels(job)[-1])
    return batch


def ceilings(run: Run) -> dict[str, Any]:
    """Measure what the device can do: a large bfloat16 product, and a copy."""
    side, length = (128, 1 << 16) if run.tiny else (8192, 1 << 31)
    left, right = (torch.randn(side, side, device=run.device, dtype=torch.bfloat16) for _ in range(2))
    product = run.ms(lambda: left @ right, 8.0)
    source = torch.empty(length, dtype=torch.uint8, device=run.device)
    target = torch.empty_like(source)
    copy = run.ms(lambda: target.copy_(source), 4.0)
    return {
        "product_side": side,
        "product_ms": product,
        "tflops": round(2 * side**3 / product / 1e9, 1),
        "copy_bytes": 2 * length,
        "copy_ms": copy,
        "tb_per_s": round(2 * length / copy / 1e9, 3),
    }


def synchronisations(run: Run) -> dict[str, Any]:
    """Take five steps in which torch refuses to wait for the device. Only a GPU can show it."""
    network, size = run.network(), run.sizes[-1]
    batch = batch_of(network, make_job(network, size, steps=100), 2, lag=100)
    adam = make_job(network, size, steps=100, optimizer="adam", learning_rate=0.02)
    painting.join(batch, "adam", painting.levels(adam)[-1])
    for _ in range(2):
        batch.step()
    run.synchronize()
    if run.device.type != "cuda":
        return {"steps": len(batch.step()), "synchronisations": "not observable on this device"}
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(5):
            batch.step()
    except RuntimeError as error:
        return {"synchronisations": str(error).splitlines()[0]}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"steps": 5, "synchronisations": "none"}


def products(run: Run) -> list[dict[str, Any]]:
    """Time the products of wide matrices as one call and in chunks, in the layouts in which they occur."""
    scale = 64 if run.tiny else 1
    shapes = [("gram", channels, channels, positions // scale) for channels, positions in ((64, 262144), (128, 65536))]
    shapes += [("gram", 256, 256, 16384 // scale), ("gram", 512, 512, 4096 // scale)]
    shapes += [("history", pairs, 1, 786432 // scale) for pairs in (10, 40)] + [("bands", 3, 7, 131584 // scale)]
    rows = []
    for kind, left_rows, right_rows, positions in shapes:
        for count in run.batches:
            for dtype in (torch.float32, torch.bfloat16) if kind == "gram" else (torch.float32,):
                samples, height = (1, left_rows * count) if kind == "bands" else (count, left_rows)
                if kind == "gram":  # channels last, as a GPU's features
                    left = torch.randn(samples, positions, height, device=run.device, dtype=dtype).transpose(1, 2)
                    right = left
                else:
                    left = torch.randn(samples, height, positions, device=run.device, dtype=dtype)
                    right = torch.randn(samples, right_rows, positions, device=run.device, dtype=dtype)
                row: dict[str, Any] = {
                    "kind": kind,
                    "shape": [height, right_rows, positions],
                    "batch": count,
                    "dtype": str(dtype),
                }
                for name, where in (("whole_ms", frozenset[str]()), ("chunked_ms", frozenset({run.device.type}))):
                    with chunks_on(where):
                        row[name] = run.ms(lambda left=left, right=right: wide.product(left, right), 0.2)  # type: ignore[misc]
                rows.append(row)
                if not run.left_s:
                    return rows
    return rows


@contextmanager
def chunks_on(where: frozenset[str]) -> Iterator[None]:
    """Split wide products on these types of devices only."""
    before = wide.CHUNKED_ON
    wide.CHUNKED_ON = where
    try:
        yield
    finally:
        wide.CHUNKED_ON = before


def steps(run: Run) -> list[dict[str, Any]]:
    """Time a step: evaluation and update on the device, the host's part, and the whole by the wall clock."""
    network, rows = run.network(), []
    for size in run.sizes:
        job = make_job(network, size, steps=100_000)
        with FlopCounterMode(display=False) as counter:
            batch_of(network, job, 1).step()
        flops = counter.get_total_flops()
        for count in run.batches:
            batch = batch_of(network, job, count)
            for _ in range(3):
                batch.step()
            ((_, evaluate),) = batch._plan()[:1]
            group = batch._groups[0]
            alone = len(batch._groups) == 1  # else histories differ, and an evaluation is of several groups
            found = evaluate(group.state["trial"]) if alone else None
            row: dict[str, Any] = {"size_px": size, "batch": count, "gflop_per_canvas": round(flops / 1e9, 1)}
            if found is not None and len(found.terms) == count:
                row["evaluation_ms"] = run.ms(lambda: evaluate(group.state["trial"]), 2.0)
                row["update_ms"] = run.ms(lambda: OPTIMIZERS["lbfgs"].update(group.state, found.terms, found.gradient), 1.0)
            row |= _wall(run, batch)
            row["tflops"] = round(flops * count / row["wall_ms"] / 1e9, 1)
            rows.append(row)
            print(row, flush=True)
            if not run.left_s:
                return rows
    return rows


def _wall(run: Run, batch: RunningBatch) -> dict[str, float]:
    """Return the time of a whole step, and that until the host has queued it."""
    number = 2 if run.tiny else 20
    run.synchronize()
    began, host = time.perf_counter(), 0.0
    for _ in range(number):
        queued = time.perf_counter()
        batch.step()
        host += time.perf_counter() - queued
    run.synchronize()
    wall = time.perf_counter() - began
    return {"wall_ms": round(wall / number * 1e3, 3), "host_ms": round(host / number * 1e3, 3)}


def profile(run: Run) -> dict[str, Any]:
    """List what takes the time of a step, and how many kernels it launches."""
    network, size, found = run.network(), run.sizes[-1], {}
    activities = [torch.profiler.ProfilerActivity.CPU]
    if run.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for count in (run.batches[0], run.batches[-1]):
        batch = batch_of(network, make_job(network, size, steps=1000), count)
        batch.step()
        run.synchronize()
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(3):
                batch.step()
            run.synchronize()
        events = profiler.key_averages()
        on = "self_device_time_total" if run.device.type == "cuda" else "self_cpu_time_total"
        top = sorted(events, key=lambda event: -getattr(event, on))[:25]
        kernels = sum(event.count for event in events if "LaunchKernel" in event.key)
        found[f"batch {count}"] = {
            "launches_per_step": kernels / 3,
            "ms_per_step": [[event.key[:120], round(getattr(event, on) / 3e3, 4), event.count // 3] for event in top],
        }
    return found


def layouts(run: Run) -> dict[str, Any]:
    """Compare an evaluation with a bare pass, and the layouts and arithmetics with each other."""
    size, weights = run.sizes[-1], run.network().weights
    found: dict[str, Any] = {"over_a_bare_pass": evaluation_cost(run.network(), size, 1 if run.tiny else 15)}
    for last in (False, True):
        network = Network(random_trunk("vgg16", 1), weights, run.device, channels_last=last)
        for precision in ("float32", "tf32", "bfloat16"):
            job = make_job(network, size, precision=precision)
            batch = batch_of(network, job, 1)
            ((_, evaluate),) = batch._plan()
            canvas = painting.first_canvas(job, run.device)
            name = f"{'NHWC' if last else 'NCHW'} {precision}"
            found[name] = run.ms(lambda evaluate=evaluate, canvas=canvas: evaluate(canvas), 2.0)  # type: ignore[misc]
            if not run.left_s:
                return found
    return found


def graphs(run: Run) -> list[dict[str, Any]]:
    """Compare recorded evaluations with eager ones over changes of membership, with allocations in between."""
    network, size, rows = run.network(), run.sizes[-1], []
    job = make_job(network, size, steps=1000)
    for count in run.batches[:3]:
        eager, recorded = (batch_of(network, job, count, graphs=on) for on in (False, True))
        row: dict[str, Any] = {"batch": count}
        for phase in ("alone", "joined", "left"):
            for batch in (eager, recorded):
                if phase == "joined":
                    painting.join(batch, "late", painting.levels(job)[-1])
                elif phase == "left":
                    batch.leave("late")
            for _ in range(2 if run.tiny else 20):
                eager.step()
                recorded.step()
                gc.collect(0)
                torch.rand(1 << 20, device=run.device)
            row[f"{phase}_difference"] = float((eager.canvas("0") - recorded.canvas("0")).abs().max())
        row |= {"eager": _wall(run, eager), "recorded": _wall(run, recorded)}
        rows.append(row)
        if not run.left_s:
            break
    return rows


def churn(run: Run) -> dict[str, Any]:
    """Let 200 jobs of mixed sizes and histories join and leave; compare the memory with the books."""
    network = run.network()
    model = warm_up(network).memory
    found: dict[str, Any] = {"estimates": [_estimate(run, network, model, size, 1) for size in run.sizes], "memory": []}
    batches: dict[int, RunningBatch] = {}
    for number in range(6 if run.tiny else 200):
        size = (32, 48, 64)[number % 3] if run.tiny else (256, 384, 512, 768)[number % 4]
        job = make_job(network, size, steps=1000, history=(10, 10, 40)[number % 3])
        batch = batches.setdefault(size, RunningBatch(network, job.key(run.device)))
        painting.join(batch, str(number), painting.levels(job)[-1])
        batch.step()
        if len(batch) > 4:
            batch.leave(next(member.name for group in batch._groups for member in group.members))
        if run.device.type == "cuda" and number % 20 == 0:
            found["memory"].append([number, torch.cuda.memory_allocated(), torch.cuda.memory_reserved()])
        if not run.left_s:
            break
    return {**found, "joined": number + 1}


def _estimate(run: Run, network: Network, model: MemoryModel, size: int, count: int) -> dict[str, Any]:
    """Compare the estimate of a pass with what it takes."""
    batch = batch_of(network, make_job(network, size), count)
    batch.step()
    peak = PeakMemory(run.device)
    batch.step(lambda: peak)
    wanted = model.pass_bytes(auto_precision(run.device), count * size**2)
    return {
        "size_px": size,
        "batch": count,
        "estimate": round(wanted),
        "taken": peak.taken,
        "ratio": round(wanted / peak.taken, 3),
    }


def compare(run: Run) -> dict[str, Any]:
    """Compare changes with what they replace, in turns in one process: chunked products, deterministic convolutions."""
    network, size = run.network(), run.sizes[-1]
    found = {}
    for count in (run.batches[0], run.batches[-1]):
        batch = batch_of(network, make_job(network, size, steps=100_000), count)
        batch.step()
        times: dict[str, list[float]] = {"chunked": [], "whole": [], "not deterministic": []}
        for _ in range(1 if run.tiny else 5):
            times["chunked"].append(_wall(run, batch)["wall_ms"])
            with chunks_on(frozenset()):
                times["whole"].append(_wall(run, batch)["wall_ms"])
            torch.backends.cudnn.deterministic = False
            times["not deterministic"].append(_wall(run, batch)["wall_ms"])
            torch.backends.cudnn.deterministic = run.device.type == "cuda"
            if not run.left_s:
                break
        found[f"batch {count}"] = {name: statistics.median(seen) for name, seen in times.items()}
    return found
