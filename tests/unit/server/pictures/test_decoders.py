"""Pictures are opened in processes of their own, which are killed when they take too much or when nobody waits."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from PIL import Image

from impasto_engine.parameters import Parameters
from impasto_server.api.validation import Draft, File, StyleFiles, open_pictures
from impasto_server.config import ServerConfig
from impasto_server.domain.errors import ServiceError, invalid
from impasto_server.domain.job import OutputOptions
from impasto_server.pictures import decoders as decoding
from impasto_server.pictures.decoders import Decoders

Tell = Callable[[str], None]


@pytest.fixture
async def decoders() -> AsyncIterator[Decoders]:
    made = Decoders()
    yield made
    made.close()


def slow(seconds: float, tell: Tell) -> int:
    tell("content")
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return os.getpid()


def who(_: int, tell: Tell) -> int:
    del tell
    return os.getpid()


def dies(_: int, tell: Tell) -> None:
    tell("styles[3].image")
    os.abort()


def fails(_: int, tell: Tell) -> None:
    tell("mask")
    raise ZeroDivisionError


def wants(size: int, tell: Tell) -> int:
    tell("content")
    return len(bytearray(size))


def refuses(_: int, tell: Tell) -> None:
    del tell
    raise invalid(("content", "is empty"), ("mask", "is empty"))


def fields(error: ServiceError) -> list[str]:
    return [field for field, _ in error.violations]


async def test_a_decoder_works_in_another_process_and_is_kept(decoders: Decoders) -> None:
    """The same one for the next request; what it refuses is refused with all fields."""
    first = await decoders.run(who, 0)
    assert first != os.getpid()
    assert await decoders.run(who, 0) == first
    with pytest.raises(ServiceError) as caught:
        await decoders.run(refuses, 0)
    assert fields(caught.value) == ["content", "mask"]
    assert await decoders.run(who, 0) == first


async def test_what_takes_too_long_is_killed_and_named(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its processor time; the next request has a new process."""
    monkeypatch.setattr(decoding, "CPU_S", 0.3)
    began = time.monotonic()
    with pytest.raises(ServiceError, match="takes more than") as caught:
        await decoders.run(slow, 60.0)
    assert fields(caught.value) == ["content"]
    assert time.monotonic() - began < 20
    assert await decoders.run(who, 0)


@pytest.mark.parametrize(("function", "field"), [(dies, "styles[3].image"), (fails, "mask")])
async def test_a_crash_or_a_fault_is_the_pictures_and_not_the_servers(
    function: Callable[..., None], field: str, decoders: Decoders
) -> None:
    """INVALID_ARGUMENT that names the picture; nobody else notices."""
    with pytest.raises(ServiceError) as caught:
        await decoders.run(function, 0)
    assert (caught.value.code, fields(caught.value)) == ("INVALID_ARGUMENT", [field])
    assert await decoders.run(who, 0)


async def test_memory_is_bounded(decoders: Decoders) -> None:
    """A picture that wants more than a decoder may have is refused; the process lives on."""
    before = await decoders.run(who, 0)
    with pytest.raises(ServiceError, match="too much memory"):
        await decoders.run(wants, decoding.MEMORY_BYTES + (1 << 30))
    assert await decoders.run(who, 0) == before


async def test_who_leaves_takes_the_work_along(decoders: Decoders) -> None:
    """The process is killed soon, so four who left do not hold up the fifth."""
    for _ in range(4):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(decoders.run(slow, 600.0), 0.3)
    began = time.monotonic()
    assert await decoders.run(who, 0)
    assert time.monotonic() - began < 10


async def test_one_owners_requests_take_turns(decoders: Decoders) -> None:
    """While ann's is worked on her second waits and bob's does not."""
    order: list[str] = []

    async def ask(owner: str) -> None:
        async with decoders.turn(owner):
            order.append(owner)
            await asyncio.sleep(0.05)

    await asyncio.gather(ask("ann"), ask("ann"), ask("bob"))
    assert order == ["ann", "bob", "ann"]
    assert not decoders._turns


def encoded(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(out, "PNG")
    return out.getvalue()


def draft(content: Any, *styles: Any, **more: Any) -> Draft:
    styles_ = tuple(StyleFiles(File(style)) for style in styles)
    parameters = Parameters(size_px=48, network="vgg16:builtin")
    return Draft(File(content), styles_, parameters, "default", frozenset(), OutputOptions(), **more)


async def test_a_requests_pictures_are_bounded_together(decoders: Decoders) -> None:
    """By their headers, before any is decoded: four times what one may have."""
    config = ServerConfig(max_image_pixels=100 * 100)
    picture = encoded(100, 100)
    spec = await decoders.run(open_pictures, draft(picture, picture, picture), config)
    assert (spec.width, spec.height, len(spec.styles)) == (48, 48, 2)
    with pytest.raises(ServiceError, match="50000 pixels together; at most 40000"):
        await decoders.run(open_pictures, draft(picture, *[picture] * 4), config)


async def test_every_wrong_picture_is_named_though_one_is_opened_at_a_time(decoders: Decoders) -> None:
    """Also where the first one, whose aspect the canvas has, cannot be used."""
    config = ServerConfig()
    with pytest.raises(ServiceError) as caught:
        await decoders.run(open_pictures, draft(b"nothing", encoded(40, 30), b"neither", mask=File(b"nor this")), config)
    assert fields(caught.value) == ["content", "styles[1].image", "mask"]


async def test_an_uploaded_file_that_is_gone_is_told(decoders: Decoders, tmp_path: Any) -> None:
    """It was there when the request was checked."""
    with pytest.raises(ServiceError, match="upload it again"):
        await decoders.run(open_pictures, draft(tmp_path / "gone", encoded(30, 30)), ServerConfig())
