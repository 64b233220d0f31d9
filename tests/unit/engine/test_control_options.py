"""Colours, masks, initial canvases, schedules and statistics, tested with small complete jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from impasto_engine import colors
from impasto_engine.architectures import random_seed, split
from impasto_engine.batch import RunningBatch
from impasto_engine.networks import Network
from impasto_engine.objective import StackedObjectives, to_canvas
from impasto_engine.painting import Job, Style, entrant, first_canvas, join, levels, objective, paint
from impasto_engine.parameters import Parameters, StyleLossName, fitted, level_sizes, level_steps, settled
from impasto_engine.samples import Step
from impasto_engine.weights import load_network

pytestmark = pytest.mark.slow  # each paints

CPU = torch.device("cpu")
SIDE = 48
PLAIN = Parameters(size_px=SIDE, steps=12, precision="float32", levels=1)


def pixels(seed: int, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """Return a smooth picture with random colours."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator) * torch.tensor([1.0, 0.6, 0.3]).roll(seed).view(1, 3, 1, 1)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (smooth[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def half(value: int = 255) -> torch.Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    mask[:, : SIDE // 2] = value
    return mask


def job(**changes: Any) -> Job:
    made = {"height": SIDE, "width": SIDE, "content": pixels(1), "styles": [Style(pixels(2))], "parameters": PLAIN}
    return Job(**{**made, **changes})


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    error = (one.double() - other.double()).square().mean()
    return float("inf") if error == 0 else float(10 * torch.log10(255**2 / error))


def chroma(picture: torch.Tensor) -> torch.Tensor:
    """Return the two colour differences of BT.601, [height, width, 2]."""
    values = picture.double() / 255
    luma = (values * values.new_tensor(colors.LUMA)).sum(dim=2)
    return torch.stack([(values[..., 2] - luma) / 1.772, (values[..., 0] - luma) / 1.402], dim=2)


def test_what_the_mask_leaves_out_stays_the_content(network: Network) -> None:
    """Outside the mask the picture equals the content within rounding, far above 30 dB; inside it is painted."""
    masked = job(mask=half())
    found, _ = paint(network, masked)
    content = pixels(1)
    assert torch.equal(found[:, SIDE // 2 :], content[:, SIDE // 2 :])
    assert psnr(found[:, : SIDE // 2], content[:, : SIDE // 2]) < 30


def test_a_half_grey_mask_paints_half(network: Network) -> None:
    """A soft edge mixes canvas and content."""
    found, _ = paint(network, job(mask=half(128)))
    assert 0 < psnr(found[:, : SIDE // 2], pixels(1)[:, : SIDE // 2]) < 60


def test_luminance_keeps_the_contents_hue(network: Network) -> None:
    """Within 8 degrees, measured in colour differences where the chroma is large enough; the brightness is the style's."""
    strong_style = replace(PLAIN, content_weight=0.01, steps=25)
    found, _ = paint(network, job(parameters=replace(strong_style, color="luminance")))
    own, wanted = chroma(found), chroma(pixels(1))
    strong = (own.norm(dim=2) > 0.05) & (wanted.norm(dim=2) > 0.05)
    assert strong.float().mean() > 0.3
    cosine = torch.nn.functional.cosine_similarity(own[strong], wanted[strong], dim=1)
    assert float(torch.rad2deg(cosine.clamp(-1, 1).arccos()).max()) < 8
    assert psnr(found, pixels(1)) < 30
    plain, _ = paint(network, job(parameters=strong_style))
    other = chroma(plain)
    strong = (other.norm(dim=2) > 0.05) & (wanted.norm(dim=2) > 0.05)
    cosine = torch.nn.functional.cosine_similarity(other[strong], wanted[strong], dim=1)
    assert float(torch.rad2deg(cosine.clamp(-1, 1).arccos()).max()) > 20


def test_colours_that_cannot_be_that_bright_are_drawn_to_grey() -> None:
    """The result is within [0, 1], has the requested brightness, and keeps its hue."""
    content = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    found = colors.with_brightness(content, torch.full((3, 1, 1), 0.9))
    assert float((found.flatten() * torch.tensor(colors.LUMA)).sum()) == pytest.approx(0.9, abs=1e-6)
    assert float(found.max()) <= 1 + 1e-6
    assert found[1] == found[2] < found[0]


def test_matched_colours_have_the_contents_mean_and_covariance() -> None:
    """As far as 8-bit rounding and clipping allow."""
    content = (pixels(1).float() * 0.5 + 60).to(torch.uint8)
    found = colors.colored_like((pixels(2).float() * 0.5 + 60).to(torch.uint8), content)
    own, wanted = (picture.double().reshape(-1, 3) for picture in (found, content))
    torch.testing.assert_close(own.mean(dim=0), wanted.mean(dim=0), rtol=0, atol=1.0)
    torch.testing.assert_close(own.T.cov(), wanted.T.cov(), rtol=0.05, atol=4.0)


def test_matched_job_is_judged_by_the_recoloured_style(network: Network) -> None:
    """The style in the content's colours is closer to the target than the style in its own colours."""
    found, _ = paint(network, job(parameters=replace(PLAIN, color="matched", content_weight=0.02, steps=25)))
    plain, _ = paint(network, job(parameters=replace(PLAIN, content_weight=0.02, steps=25)))
    mean = pixels(1).double().mean(dim=(0, 1))
    assert (found.double().mean(dim=(0, 1)) - mean).norm() < (plain.double().mean(dim=(0, 1)) - mean).norm()


def test_two_styles_make_neither_alone(network: Network) -> None:
    """An equal mix differs visibly from either style alone."""
    one, two = Style(pixels(2)), Style(pixels(3))
    mixed, only_one, only_two = (paint(network, job(styles=styles))[0] for styles in ([one, two], [one], [two]))
    assert psnr(mixed, only_one) < 40
    assert psnr(mixed, only_two) < 40


def test_each_region_takes_its_own_style(network: Network) -> None:
    """Two styles, left and right: each half is closer to its own style's colours than the other half is."""
    left, right = half(), 255 - half()
    styles = [Style(pixels(2), region=left), Style(pixels(3), region=right)]
    parameters = replace(PLAIN, content_weight=0.0, steps=40, init="noise")
    found, _ = paint(network, job(styles=styles, parameters=parameters))
    middle = SIDE // 2
    for index, style in ((0, pixels(2)), (1, pixels(3))):
        wanted = style.double().mean(dim=(0, 1))
        halves = [found[:, :middle].double().mean(dim=(0, 1)), found[:, middle:].double().mean(dim=(0, 1))]
        assert (halves[index] - wanted).norm() < (halves[1 - index] - wanted).norm()


def test_a_styles_mask_takes_a_part_of_it(network: Network) -> None:
    """The statistics equal those of the cropped left half, apart from receptive fields that cross the edge."""
    whole = torch.cat([pixels(2, SIDE, SIDE // 2), pixels(3, SIDE, SIDE // 2)], dim=1)
    masked = objective(network, job(styles=[Style(whole, mask=half())])).style[0]["relu1_1"].value
    cut = objective(network, job(styles=[Style(pixels(2, SIDE, SIDE // 2))])).style[0]["relu1_1"].value
    full = objective(network, job(styles=[Style(whole)])).style[0]["relu1_1"].value
    assert float((masked - cut).norm()) < 0.3 * float((full - cut).norm())


@pytest.mark.parametrize("name", ["covariance", "moments", "sliced", "histogram"])
def test_every_style_loss_paints(network: Network, name: StyleLossName) -> None:
    """The loss falls by more than half, and the picture differs from the one with Gram matrices."""
    losses: list[float] = []
    found, step = paint(network, job(parameters=replace(PLAIN, style_loss=name)), lambda step: losses.append(step.losses.style))
    assert step.losses.style < 0.5 * losses[0]
    assert not torch.equal(found, paint(network, job())[0])


def test_jobs_with_other_controls_share_a_batch_and_do_not_disturb_each_other(network: Network) -> None:
    """Masks, regions and different statistics in one pass give the same results as each job alone."""
    jobs = {
        "plain": job(),
        "masked": job(mask=half()),
        "regions": job(styles=[Style(pixels(2), region=half()), Style(pixels(3), region=255 - half())]),
        "moments": job(parameters=replace(PLAIN, style_loss="moments")),
        "sliced": job(parameters=replace(PLAIN, style_loss="sliced")),
        "luminance": job(parameters=replace(PLAIN, color="luminance")),
    }
    objectives = {name: objective(network, each) for name, each in jobs.items()}
    canvases = torch.cat([first_canvas(job(parameters=replace(PLAIN, init="noise", seed=n)), CPU) for n in range(len(jobs))])
    together = StackedObjectives(list(objectives.values()), network).evaluate(network, canvases, "average", "float32")
    for index, each in enumerate(objectives.values()):
        one = canvases[index : index + 1]
        alone = StackedObjectives([each], network).evaluate(network, one, "average", "float32")
        torch.testing.assert_close(together.terms[index : index + 1], alone.terms, rtol=1e-4, atol=1e-7)
        apart = together.gradient[index : index + 1] - alone.gradient  # rounding can change the sort order
        assert float(apart.norm() / alone.gradient.norm()) < 1e-3


@pytest.mark.parametrize("init", ["style", "image"])
def test_a_canvas_can_start_from_a_style_or_an_image(init: Any) -> None:
    """The first canvas is exactly that picture."""
    start = pixels(5)
    made = job(styles=[Style(start)], init_image=start, parameters=replace(PLAIN, init=init))
    torch.testing.assert_close(first_canvas(made, CPU), to_canvas(start, CPU), rtol=0, atol=2 / 255)


def test_a_tolerance_ends_a_job_that_hardly_gets_better(network: Network) -> None:
    """A loose tolerance stops the job early; without one it takes all its steps."""
    steps: list[Step] = []
    _, last = paint(network, job(parameters=replace(PLAIN, steps=60, tolerance=0.5)), steps.append)
    assert last.converged
    assert 10 <= last.step < 60
    ten_before = steps[-11].losses.total if len(steps) > 10 else float("inf")
    assert ten_before - last.losses.total < 0.5 * last.losses.total


def test_a_loss_that_rises_is_no_convergence(network: Network) -> None:
    """Adam's first steps are too long at a high learning rate; the job ends at a lowest loss, not at a rise."""
    steps: list[Step] = []
    hasty = replace(PLAIN, steps=60, optimizer="adam", learning_rate=0.3, tolerance=0.002)
    paint(network, job(parameters=hasty), steps.append)
    losses = [step.losses.total for step in steps]
    assert losses[10] > losses[0], "there is no rise to test"
    assert losses[-1] < losses[0]
    assert len(steps) == 60 or losses[-1] == min(losses[-11:])


def test_a_schedule_says_sizes_and_steps() -> None:
    """A schedule replaces the levels, and the derived parameters are filled in."""
    parameters = settled(replace(PLAIN, schedule=((24, 3), (36, 2), (48, 4))))
    assert (parameters.size_px, parameters.steps) == (48, 9)
    assert level_sizes(parameters) == (24, 36, 48)
    assert level_steps(parameters) == (3, 2, 4)
    plan = levels(job(parameters=parameters, mask=half(), init_image=pixels(5)))
    assert [(level.job.width, level.done, level.last) for level in plan] == [(24, 0, 3), (36, 3, 5), (48, 5, 9)]
    assert [level.job.mask.shape for level in plan if level.job.mask is not None] == [(24, 24), (36, 36), (48, 48)]


def test_adam_goes_on_with_its_moments_on_the_larger_canvas(network: Network) -> None:
    """Adam's moments are upsampled instead of reset, and its update count continues."""
    made = job(parameters=replace(settled(replace(PLAIN, schedule=((24, 4), (48, 4)))), optimizer="adam", learning_rate=0.02))
    coarse, fine = levels(made)
    before = RunningBatch(network, coarse.job.key(CPU))
    join(before, "job", coarse)
    for _ in range(4):
        before.step()
    carried = before.carried("job", 48, 48)
    assert carried["first_moment"].shape == (1, 3, 48, 48)
    assert float(carried["second_moment"].min()) >= 0
    assert carried["updates"].tolist() == [4]
    after = RunningBatch(network, fine.job.key(CPU))
    after.add("job", entrant(network, fine, carried=carried))
    assert torch.equal(after.export("job").tensors["first_moment"], carried["first_moment"])
    assert paint(network, made)[1].step == 8


@pytest.mark.parametrize("name", ["alexnet:random-1", "squeezenet1_1:random-1", "vgg19:random-1"])
def test_other_networks_paint(name: str) -> None:
    """Layers that the caller did not set follow the network, and the loss falls."""
    other = load_network(name, CPU)
    parameters = fitted(replace(PLAIN, size_px=96, steps=6, network=name), name, "default", ())
    assert set(parameters.style_layers) <= set(other.layers)
    losses: list[float] = []
    made = Job(96, 96, pixels(1, 96, 96), [Style(pixels(2, 96, 96))], parameters)
    paint(other, made, lambda step: losses.append(step.losses.total))
    assert losses[-1] < 0.8 * losses[0]


def test_layers_that_were_chosen_stay() -> None:
    """Validation reports layers that the network does not have."""
    chosen = replace(PLAIN, content_layers={"relu4_2": 1.0}, style_layers={"relu1_1": 1.0})
    assert fitted(chosen, "alexnet:random-1", "default", {"content_layers", "style_layers"}) == chosen
    assert fitted(PLAIN, "vgg19:imagenet-v1", "default", ()) == PLAIN


def test_names_of_networks() -> None:
    """An architecture before the colon, or weights alone. Paths may contain colons; seeds are numbers."""
    assert split("vgg19:imagenet-v1") == ("vgg19", "imagenet-v1")
    assert split("builtin") == ("vgg16", "builtin")
    assert split("alexnet") == ("alexnet", "")
    assert split("C:/weights.pth") == ("vgg16", "C:/weights.pth")
    assert [random_seed(name) for name in ("random", "random-7", "random-x", "imagenet")] == [0, 7, None, None]


def test_random_filters_are_those_of_their_seed() -> None:
    """The same seed gives the same filters and the same hash."""
    first, again, other = (load_network(f"alexnet:random-{seed}", CPU).weights.sha256 for seed in (1, 1, 2))
    assert first == again != other
