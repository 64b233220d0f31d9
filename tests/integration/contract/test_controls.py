"""Controls through the contract: what is taken, what is refused and by which name, and how filters see a picture."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from impasto.v1 import style_transfer_pb2 as pb
from tests.integration.contract.test_service import fails
from tests.unit.server.fakes import FakeWorker

Png = Callable[..., bytes]


def grey(value: int, width: int = 8, height: int = 8) -> pb.Image:
    out = io.BytesIO()
    Image.new("L", (width, height), value).save(out, "PNG")
    return pb.Image(data=out.getvalue(), name="mask.png")


async def test_controls_reach_the_worker_and_the_record(service: Any, spec: Any) -> None:
    """Masks at their sizes, a schedule with what follows from it, a style at its scale, the full network name."""
    async with service(FakeWorker(hang=True)) as running:
        made = spec(style_scale=0.75, color=pb.COLOR_MATCHED, style_loss=pb.STYLE_LOSS_MOMENTS, tolerance=0.01)
        made.parameters.schedule.extend([pb.SizeSteps(size_px=24, steps=2), pb.SizeSteps(size_px=40, steps=1)])
        made.parameters.network = "alexnet:random-7"
        made.parameters.schedule[0].size_px, made.parameters.schedule[1].size_px = 96, 128
        made.mask.CopyFrom(grey(255))
        made.styles[0].mask.CopyFrom(grey(200))
        made.styles[0].region.CopyFrom(grey(100))
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made))).job
        while not running.worker.commands:
            await asyncio.sleep(0.01)
        sent = running.worker.commands[0].spec
        assert (sent.width, sent.height) == (job.width_px, job.height_px) == (128, 107)
        assert (job.parameters.size_px, job.parameters.steps) == (128, 3)
        assert [(item.size_px, item.steps) for item in job.parameters.schedule] == [(96, 2), (128, 1)]
        assert job.parameters.network == "alexnet:random-7"
        assert {layer.layer for layer in job.parameters.style_layers.layers} == {"relu1_1", "relu2_1", "relu3_1"}
        assert (job.parameters.color, job.parameters.style_loss) == (pb.COLOR_MATCHED, pb.STYLE_LOSS_MOMENTS)
        style = sent.styles[0]
        assert max(style.picture.width, style.picture.height) == 96
        assert (style.mask.width, style.mask.height) == (style.picture.width, style.picture.height)
        assert (style.region.width, style.region.height) == (sent.mask.width, sent.mask.height) == (128, 107)
        assert isinstance(style.region.values, Path)
        assert set(style.region.values.read_bytes()) == {100}
        roles = [source.role for source in sent.sources]
        assert roles == ["content", "styles[0].image", "styles[0].mask", "styles[0].region", "mask"]


@pytest.mark.parametrize(
    ("width", "height", "wanted"), [(64, 64, (64, 64)), (60, 0, (60, 50)), (0, 60, (72, 60)), (0, 0, (48, 40))]
)
async def test_exact_sizes(service: Any, spec: Any, width: int, height: int, wanted: tuple[int, int]) -> None:
    """Both: cropped to the aspect; one: the other follows; none: size_px is the longer side."""
    async with service() as running:
        made = spec(width_px=width, height_px=height)
        result = (await running.stub.Stylize(pb.StylizeRequest(spec=made))).result
        assert Image.open(io.BytesIO(result.image.data)).size == wanted
        assert result.job.parameters.size_px == max(wanted)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda spec: setattr(spec.parameters, "network", "resnet50"), "parameters.network"),
        (lambda spec: setattr(spec.parameters, "network", "alexnet:imagenet-v1"), "parameters.network"),
        (lambda spec: setattr(spec.parameters, "style_scale", 0.01), "parameters.style_scale"),
        (lambda spec: setattr(spec.parameters, "style_scale", float("nan")), "parameters.style_scale"),
        (lambda spec: spec.parameters.MergeFrom(pb.Parameters(style_scale=8.0, size_px=512)), "parameters.style_scale"),
        (lambda spec: setattr(spec.parameters, "tolerance", -1.0), "parameters.tolerance"),
        (lambda spec: setattr(spec.parameters, "tolerance", float("nan")), "parameters.tolerance"),
        (lambda spec: setattr(spec.parameters, "width_px", 5), "parameters.width_px"),
        (lambda spec: setattr(spec.parameters, "height_px", 4000), "parameters.height_px"),
        (lambda spec: setattr(spec.parameters, "color", 9), "parameters.color"),
        (lambda spec: setattr(spec.parameters, "style_loss", 9), "parameters.style_loss"),
        (lambda spec: setattr(spec.parameters, "init", pb.INIT_IMAGE), "parameters.init"),
        (lambda spec: spec.parameters.schedule.add(size_px=3, steps=1), "parameters.schedule[0].size_px"),
        (lambda spec: spec.parameters.schedule.add(size_px=32, steps=0), "parameters.schedule[0].steps"),
        (
            lambda spec: spec.parameters.schedule.extend([pb.SizeSteps(size_px=32, steps=1)] * 2),
            "parameters.schedule[1].size_px",
        ),
        (lambda spec: spec.mask.CopyFrom(pb.Image(data=b"text")), "mask"),
        (lambda spec: spec.mask.CopyFrom(grey(0)), "mask"),
        (lambda spec: spec.styles[0].region.CopyFrom(grey(0)), "styles[0].region"),
        (lambda spec: spec.styles[0].mask.SetInParent(), "styles[0].mask"),
    ],
)
async def test_each_wrong_control_is_named(service: Any, spec: Any, change: Any, field: str) -> None:
    """INVALID_ARGUMENT with that field, and only that."""
    async with service() as running:
        made = spec()
        change(made)
        code, _, violations = await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=made)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(violations) == [field]


async def test_controls_that_do_not_go_together(service: Any, spec: Any) -> None:
    """Distributions with masks, colours of a content that is not there, a mask of it, an image that is not started from."""
    async with service() as running:
        masked = spec(style_loss=pb.STYLE_LOSS_SLICED)
        masked.mask.CopyFrom(grey(255))
        texture = spec(color=pb.COLOR_LUMINANCE)
        texture.ClearField("content")
        texture.mask.CopyFrom(grey(255))
        started = spec(init=pb.INIT_NOISE)
        started.init_image.CopyFrom(started.content)
        for made, fields in (
            (masked, {"parameters.style_loss"}),
            (texture, {"parameters.color", "mask"}),
            (started, {"parameters.init"}),
        ):
            _, _, violations = await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=made)))
            assert set(violations) == fields


async def test_a_region_outside_of_the_mask_is_refused(service: Any, spec: Any) -> None:
    """Nothing of its style would be seen."""

    def half(left: bool) -> pb.Image:
        image = Image.new("L", (16, 16))
        image.paste(255, (0, 0, 6, 16) if left else (10, 0, 16, 16))
        out = io.BytesIO()
        image.save(out, "PNG")
        return pb.Image(data=out.getvalue())

    async with service() as running:
        made = spec()
        made.mask.CopyFrom(half(left=True))
        made.styles[0].region.CopyFrom(half(left=False))
        _, _, violations = await fails(running.stub.SubmitJob(pb.SubmitJobRequest(spec=made)))
        assert list(violations) == ["styles[0].region"]
        made.styles[0].region.CopyFrom(half(left=True))
        assert (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made))).job.job_id


async def test_an_image_to_start_from_is_started_from(service: Any, spec: Any, png: Png) -> None:
    """Without saying so, cropped to the canvas."""
    async with service() as running:
        made = spec()
        made.init_image.CopyFrom(pb.Image(data=png(30, 60, seed=2)))
        job = (await running.stub.Stylize(pb.StylizeRequest(spec=made))).result.job
        assert job.parameters.init == pb.INIT_IMAGE
        sent = running.worker.commands[0].spec.init_image
        assert (sent.width, sent.height) == (48, 40)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
async def test_a_picture_says_what_made_it_unless_it_shall_not(service: Any, spec: Any, name: str) -> None:
    """In its EXIF user comment, in sRGB; the same job gives the same file; without metadata there is neither."""
    async with service() as running:
        made = spec()
        made.content.name = "photo.png"
        made.output.format = getattr(pb, f"IMAGE_FORMAT_{name}")
        first, second = [(await running.stub.Stylize(pb.StylizeRequest(spec=made))).result.image.data for _ in range(2)]
        assert first == second
        image = Image.open(io.BytesIO(first))
        assert image.info["icc_profile"]
        told = json.loads(image.getexif().get_ifd(0x8769)[0x9286].removeprefix(b"ASCII\0\0\0"))
        assert told["sources"][0]["name"] == "photo.png"
        assert told["parameters"]["network"] == "vgg16:builtin"
        made.output.omit_metadata = True
        bare = Image.open(io.BytesIO((await running.stub.Stylize(pb.StylizeRequest(spec=made))).result.image.data))
        assert "icc_profile" not in bare.info
        assert not bare.getexif()


async def test_a_jobs_limits_stand_in_its_record(service: Any, spec: Any) -> None:
    """Time limit, what happens then, and how long it is kept."""
    async with service() as running:
        made = spec()
        made.time_limit.FromSeconds(60)
        made.on_deadline = pb.ON_DEADLINE_RETURN_BEST
        made.ttl.FromSeconds(90)
        job = (await running.stub.SubmitJob(pb.SubmitJobRequest(spec=made))).job
        assert (job.time_limit.seconds, job.on_deadline, job.ttl.seconds) == (60, pb.ON_DEADLINE_RETURN_BEST, 90)


async def test_features_are_inspected_by_the_worker(service: Any, png: Png) -> None:
    """The network that is named, the filters asked for, the picture at its size."""
    async with service() as running:
        request = pb.InspectFeaturesRequest(image=pb.Image(data=png()), layer="conv1_1", filters=[3], size_px=64)
        found = await running.stub.InspectFeatures(request)
        assert [item.filter for item in found.responses] == [3]
        asked = running.worker.commands[0]
        assert (asked.network, asked.layer, asked.filters, asked.picture.width) == ("vgg16:builtin", "conv1_1", (3,), 64)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"layer": "relu9_9"}, "layer"),
        ({"filters": [64]}, "filters"),
        ({"filters": [-1]}, "filters"),
        ({"count": 65}, "count"),
        ({"size_px": 5}, "size_px"),
        ({"size_px": 9999}, "size_px"),
        ({"network": "nothing:here"}, "network"),
        ({"pooling": 9}, "pooling"),
        ({"image": pb.Image(data=b"text")}, "image"),
        ({"image": pb.Image()}, "image"),
        ({"image": pb.Image(image_id="0" * 64)}, "image.image_id"),
    ],
)
async def test_each_wrong_field_of_a_question_is_named(service: Any, png: Png, change: dict[str, Any], field: str) -> None:
    """INVALID_ARGUMENT with that field."""
    async with service() as running:
        request = pb.InspectFeaturesRequest(**{"image": pb.Image(data=png()), "layer": "conv1_1", **change})
        code, _, violations = await fails(running.stub.InspectFeatures(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(violations) == [field]


async def test_a_worker_that_dies_over_a_question_is_told(service: Any, png: Png) -> None:
    """UNAVAILABLE, to be asked again."""
    worker = FakeWorker(deaf=True)
    async with service(worker) as running:
        request = pb.InspectFeaturesRequest(image=pb.Image(data=png()), layer="conv1_1")
        asking = asyncio.ensure_future(running.stub.InspectFeatures(request))
        while not worker.commands:
            await asyncio.sleep(0.01)
        worker.die()
        code, info, _ = await fails(asking)
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_GONE")
