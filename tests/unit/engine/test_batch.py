from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from impasto_engine import painting
from impasto_engine.batch import BatchKey, RunningBatch
from impasto_engine.networks import Network, WeightsInfo, random_trunk
from impasto_engine.objective import Evaluation, StackedObjectives
from impasto_engine.optimizers import HISTORY
from impasto_engine.painting import Job, Level, Style, StyleCache, first_canvas, levels, next_canvas, paint
from impasto_engine.parameters import Parameters, fitted
from impasto_engine.samples import Step

HEIGHT, WIDTH = 32, 48
PLAIN = fitted(Parameters(size_px=48, steps=6, precision="float32", history=4), "vgg16:builtin", "default", ())


def pixels(seed: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()


JOBS = {
    "plain": Job(HEIGHT, WIDTH, pixels(1), [Style(pixels(2))], PLAIN),
    "noise": Job(HEIGHT, WIDTH, pixels(3), [Style(pixels(4))], replace(PLAIN, init="noise", seed=5)),
    "adam": Job(HEIGHT, WIDTH, pixels(1), [Style(pixels(2))], replace(PLAIN, optimizer="adam", learning_rate=0.02)),
    "texture": Job(HEIGHT, WIDTH, None, [Style(pixels(2)), Style(pixels(4), 3.0)], replace(PLAIN, init="noise", history=7)),
    "content": Job(HEIGHT, WIDTH, pixels(3), [], replace(PLAIN, init="noise", content_layers={"relu2_2": 1.0})),
}
KEY = JOBS["plain"].key(torch.device("cpu"))


def only(job: Job) -> Level:
    (level,) = levels(job)
    return level


def alone(network: Network, job: Job, steps: int = 6) -> torch.Tensor:
    batch = RunningBatch(network, KEY)
    painting.join(batch, "job", only(job))
    for _ in range(steps):
        batch.step()
    return batch.canvas("job").clone()


@pytest.mark.slow
def test_a_job_is_the_same_bit_for_bit_whoever_shares_its_batch(network: Network) -> None:
    """On a CPU, members with other optimizers or objectives that join late or leave early do not change any bit of a canvas."""
    batch = RunningBatch(network, KEY)
    names = list(JOBS)
    for step in range(10):
        if step < len(names):
            painting.join(batch, names[step], only(JOBS[names[step]]))
        reports = dict(batch.step())
        for name in [name for name, report in reports.items() if report.step == 6]:
            assert torch.equal(batch.canvas(name), alone(network, JOBS[name])), name
            batch.leave(name)
    assert len(batch) == 0


@pytest.mark.slow
def test_one_pass_for_all_gives_the_same_pictures_within_rounding(network: Network) -> None:
    """As on a GPU: five canvases in one pass, two optimizers, different layers each; only the summation order differs."""
    batch = RunningBatch(network, KEY, group_size=8)
    for name, job in JOBS.items():
        painting.join(batch, name, only(job))
    for _ in range(4):
        batch.step()
    for name, job in JOBS.items():
        torch.testing.assert_close(batch.canvas(name), alone(network, job, 4), rtol=0, atol=2e-3, msg=name)


@pytest.mark.slow
def test_a_pass_without_memory_is_done_in_halves(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to one canvas at a time. Every canvas takes every step once; only a canvas that is too large by itself fails."""
    evaluate = StackedObjectives.evaluate
    limit = 2

    def scarce(self: StackedObjectives, network: Network, canvas: torch.Tensor, **more: object) -> Evaluation:
        if len(canvas) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(self, network, canvas, **more)

    monkeypatch.setattr(StackedObjectives, "evaluate", scarce)
    batch = RunningBatch(network, KEY, group_size=8)
    for name, job in JOBS.items():
        painting.join(batch, name, only(job))
    for step in range(1, 4):
        assert {name: report.step for name, report in batch.step()} == dict.fromkeys(JOBS, step)
    assert batch.largest_pass == 2
    for name, job in JOBS.items():
        torch.testing.assert_close(batch.canvas(name), alone(network, job, 3), rtol=0, atol=2e-3, msg=name)
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        batch.step()


@pytest.mark.slow
def test_late_reports_tell_the_same(network: Network) -> None:
    """As on a GPU, where reports lag by one step: the last report is on time, and removed canvases send no more reports."""

    def run(lag: int) -> list[tuple[str, Step]]:
        batch = RunningBatch(network, KEY, lag=lag)
        painting.join(batch, "stays", only(JOBS["plain"]))
        painting.join(batch, "leaves", only(JOBS["noise"]))
        heard = []
        for step in range(1, 7):
            heard += batch.step()
            if step == 3:
                batch.leave("leaves")
        return heard

    on_time, late = run(0), run(1)
    assert [step for name, step in late if name == "stays"] == [step for name, step in on_time if name == "stays"]
    assert [step.step for name, step in late if name == "stays"] == [1, 2, 3, 4, 5, 6]
    assert [step.step for name, step in late if name == "leaves"] == [1, 2]


@pytest.mark.parametrize("name", ["plain", "adam", "noise"])
def test_going_on_from_an_exported_state_is_going_on(network: Network, name: str) -> None:
    """A canvas that moves to another batch halfway gives a bit-identical result to one that stayed."""
    job = JOBS[name]
    first = RunningBatch(network, KEY)
    painting.join(first, "job", only(job))
    for _ in range(3):
        first.step()
    state = first.export("job")
    second = RunningBatch(network, KEY)
    painting.resume(second, "other name", only(job), state)
    for _ in range(3):
        report = dict(second.step())["other name"]
    assert report.step == 6
    assert torch.equal(second.canvas("other name"), alone(network, job))


def test_an_exported_state_is_a_copy(network: Network) -> None:
    """Further steps do not change an exported state."""
    batch = RunningBatch(network, KEY)
    painting.join(batch, "job", only(JOBS["plain"]))
    batch.step()
    state = batch.export("job")
    kept = {key: value.clone() for key, value in state.tensors.items()}
    batch.step()
    assert all(torch.equal(kept[key], value) for key, value in state.tensors.items())


@pytest.mark.parametrize("name", ["plain", "adam"])
def test_a_later_state_has_only_what_may_have_changed_since(network: Network, name: str) -> None:
    """Of the history, the pairs of the steps since; all of it if all may have changed; everything else complete."""
    job = JOBS[name]
    job = replace(job, parameters=replace(job.parameters, history=4))
    batch = RunningBatch(network, KEY)
    painting.join(batch, "other", only(JOBS["noise"]))
    painting.join(batch, "job", only(job))
    for _ in range(6):
        before, done = batch.export("job"), batch.export("job").step
        batch.step()
        batch.step()
        whole = batch.export("job")
        for since in (done, done + 2, 0):
            part = batch.snapshot("job", since).fetch()
            assert part.tensors.keys() == whole.tensors.keys()
            for key, tensor in part.tensors.items():
                expected = whole.tensors[key]
                assert torch.equal(tensor, expected[:, list(part.places)] if key in HISTORY else expected)
            assert len(part.places) == min(part.history, whole.step - since)
            if since == done and part.history:
                rest = [place for place in range(4) if place not in part.places]
                assert all(torch.equal(before.tensors[key][:, rest], whole.tensors[key][:, rest]) for key in HISTORY)


def test_reported_losses_are_those_of_the_canvas(network: Network) -> None:
    """The losses of a step belong to the canvas that is returned after it, and never increase under L-BFGS."""
    from impasto_engine.objective import StackedObjectives

    batch, job = RunningBatch(network, KEY), JOBS["plain"]
    painting.join(batch, "job", only(job))
    objective = StackedObjectives([painting.objective(network, job)], network)
    before = float("inf")
    for _ in range(5):
        losses = dict(batch.step())["job"].losses
        canvas = batch.canvas("job")[None]
        terms = objective.evaluate(network, canvas, KEY.pooling, KEY.precision).terms[0].tolist()
        assert [losses.content, losses.style, losses.total_variation] == pytest.approx(terms, rel=1e-4, abs=1e-7)
        assert losses.total <= before
        before = losses.total


def test_wrong_shapes_and_taken_names_are_refused(network: Network) -> None:
    """Both errors name the given value and leave the batch unchanged."""
    batch = RunningBatch(network, KEY)
    painting.join(batch, "job", only(JOBS["plain"]))
    with pytest.raises(ValueError, match="already in the batch"):
        painting.join(batch, "job", only(JOBS["plain"]))
    wide = Job(16, 64, pixels(1, 16, 64), [], PLAIN)
    with pytest.raises(ValueError, match=r"\(16, 64\) cannot join a batch of \(32, 48\)"):
        painting.join(batch, "wide", only(wide))
    assert len(batch) == 1


@pytest.mark.slow
def test_painting_lowers_the_loss_and_keeps_the_seed(network: Network) -> None:
    """The same seed gives the same picture, another seed a different one. From noise, the loss halves within 20 steps."""
    losses: list[float] = []
    job = replace(JOBS["noise"], parameters=replace(JOBS["noise"].parameters, steps=20))
    first, _ = paint(network, job, lambda step: losses.append(step.losses.total))
    again, last = paint(network, job)
    other, _ = paint(network, replace(job, parameters=replace(job.parameters, seed=6)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert losses[-1] == last.losses.total
    assert losses[-1] < losses[0] / 2


def test_the_callback_can_stop_the_painting(network: Network) -> None:
    """Returning True ends the job at that step."""
    _, last = paint(network, JOBS["plain"], lambda step: step.step == 2)
    assert last.step == 2


def test_a_job_that_asks_for_bfloat16_is_scored_nearly_like_float32(network: Network) -> None:
    """The loss reported with bfloat16 features differs by a few per cent at most."""
    _, full = paint(network, JOBS["plain"])
    half_job = replace(JOBS["plain"], parameters=replace(PLAIN, precision="bfloat16"))
    _, half = paint(network, half_job)
    assert half.losses.total == pytest.approx(full.losses.total, rel=0.1)


def test_a_style_goes_through_the_network_once(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache hits for the same pixels, layers and pooling, and misses otherwise."""
    passes = []
    original = Network.features
    monkeypatch.setattr(Network, "features", lambda self, *args, **kw: passes.append(1) or original(self, *args, **kw))
    cache, style = StyleCache(2), Style(pixels(2), digest="a")
    first = cache.statistics(network, style, PLAIN)
    assert cache.statistics(network, style, PLAIN) is first
    cache.statistics(network, style, replace(PLAIN, pooling="max"))
    cache.statistics(network, Style(pixels(4), digest="b"), PLAIN)
    cache.statistics(network, style, PLAIN)
    assert len(passes) == 4


def test_a_natural_pictures_features_are_cached_by_what_they_depend_on(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pooling, filters and layers: a grey content, whose normalizer they bound, has the coefficients it has without a cache."""
    passes: list[tuple[str, ...]] = []
    computed = Network.features

    def counted(self: Network, canvas: torch.Tensor, layers: tuple[str, ...], *rest: object) -> dict[str, torch.Tensor]:
        passes.append(layers)
        return computed(self, canvas, layers, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "features", counted)
    other = Network(random_trunk("vgg16", 2), WeightsInfo("random-2", "2"), network.device)
    cache, grey = StyleCache(), torch.full((HEIGHT, WIDTH, 3), 128, dtype=torch.uint8)
    found = set()
    for _ in range(2):
        for net, pooling, layer in itertools.product((network, other), ("max", "average"), ("relu2_1", "relu3_1")):
            job = Job(HEIGHT, WIDTH, grey, (), Parameters(content_layers={layer: 1.0}, pooling=pooling))  # type: ignore[arg-type]
            passes.clear()
            coefficient = painting.objective(net, job, cache).content[layer].coefficient
            cached = len(passes)
            assert coefficient == painting.objective(net, job).content[layer].coefficient
            found.add(coefficient)
        assert len(found) == 8
    assert cached == 1


def test_noise_is_the_same_on_every_device_and_centred() -> None:
    """White noise around mid-grey, drawn on the CPU."""
    canvas = first_canvas(JOBS["noise"], torch.device("cpu"))
    assert float(canvas.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(canvas.std()) == pytest.approx(0.15, abs=0.02)


@pytest.mark.gpu
def test_a_gpu_paints_what_the_cpu_paints(network: Network) -> None:
    """A few steps on CUDA agree with the CPU within rounding, also with all canvases in one pass."""
    from impasto_engine.weights import load_network

    device = torch.device("cuda")
    batch = RunningBatch(load_network("builtin", device), BatchKey(HEIGHT, WIDTH, "average", "float32"))
    for name, job in JOBS.items():
        painting.join(batch, name, only(job))
    for _ in range(4):
        batch.step()
    for name, job in JOBS.items():
        torch.testing.assert_close(batch.canvas(name).cpu(), alone(network, job, 4), rtol=0, atol=1e-2, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "texture"])
def test_a_job_climbs_from_level_to_level(network: Network, name: str) -> None:
    """Step numbers continue, each level starts near the end of the previous one, and the picture has the full size."""
    job = replace(JOBS[name], parameters=replace(JOBS[name].parameters, steps=30, levels=2))
    coarse, fine = levels(job)
    assert (coarse.job.height, coarse.job.width, coarse.last, fine.last) == (HEIGHT // 2, WIDTH // 2, 18, 30)
    steps: list[Step] = []
    picture, last = paint(network, job, steps.append)
    assert [step.step for step in steps] == list(range(1, 31))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    from_start = replace(job, parameters=replace(job.parameters, levels=1))
    first: list[Step] = []
    paint(network, from_start, lambda step: first.append(step) is None and step.step == 1)
    # Compare the style loss: a canvas equal to the content has no content loss, whatever its weight.
    assert steps[18].losses.style < 0.6 * first[0].losses.style
    assert last.losses.total < steps[18].losses.total


def test_detail_of_the_content_comes_back_at_the_next_level(network: Network) -> None:
    """A coarse canvas that did not change becomes the full-size content, bit-identical to a first canvas."""
    job = replace(JOBS["plain"], parameters=replace(PLAIN, levels=2))
    coarse, fine = levels(job)
    still = first_canvas(coarse.job, network.device)[0]
    again = next_canvas(still, coarse.job, fine.job, network.device)
    torch.testing.assert_close(again, first_canvas(fine.job, network.device))


def test_stopping_at_a_coarse_level_still_gives_a_picture(network: Network) -> None:
    """The picture has the size of the level at which the caller stopped."""
    job = replace(JOBS["plain"], parameters=replace(PLAIN, levels=2, steps=10))
    picture, last = paint(network, job, lambda step: step.step == 2)
    assert last.step == 2
    assert picture.shape == (HEIGHT // 2, WIDTH // 2, 3)
