"""A changed option of a recorded picture: what depends on it is chosen anew, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from impasto.changes import changed

RECORDED: dict[str, Any] = {
    "size_px": 96,
    "steps": 20,
    "levels": 1,
    "optimizer": "lbfgs",
    "learning_rate": 1.0,
    "network": "vgg16:builtin",
    "content_layers": {"relu4_2": 1.0},
    "style_layers": {"relu1_1": 1.0},
    "content_weight": 0.1,
    "init": "content",
    "seed": 7,
    "format": "png",
    "quality": 95,
}


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ({"content_weight": 0.5}, set()),
        ({"size_px": 512}, set()),
        ({"schedule": [(64, 5)]}, {"size_px", "steps", "levels"}),
        ({"optimizer": "adam"}, {"learning_rate"}),
        ({"optimizer": "lbfgs"}, set()),
        ({"optimizer": "adam", "learning_rate": 0.1}, set()),
        ({"network": "vgg19:imagenet"}, {"content_layers", "style_layers"}),
        ({"network": "vgg16:imagenet"}, set()),
        ({"init_image": b"x"}, {"init"}),
        ({"init_image": b"x", "init": "image"}, set()),
    ],
)
def test_what_depends_on_a_change_is_left_to_the_server(given: dict[str, Any], gone: set[str]) -> None:
    """A learning rate of L-BFGS ruins Adam; layers of one network do not exist in another."""
    assert changed(RECORDED, given) == {name: RECORDED[name] for name in RECORDED if name not in gone} | given


def test_another_size_replaces_a_schedule_and_an_exact_size() -> None:
    recorded = {"schedule": [(64, 5)], "width_px": 100, "height_px": 80}
    assert changed(recorded, {"size_px": 200}) == {"size_px": 200, "steps": 5}
    assert changed(recorded, {"width_px": 200}) == {**recorded, "width_px": 200}


@pytest.mark.parametrize("given", [{"steps": 3}, {"levels": 1}, {"preset": "draft"}])
def test_a_picture_keeps_its_size_without_its_schedule(given: dict[str, Any]) -> None:
    found = changed({"schedule": [(32, 2), (64, 3)]}, given)
    assert (found["size_px"], found.get("steps")) == (64, given.get("steps", None if "preset" in given else 5))
    assert "schedule" not in found


def test_another_start_needs_no_initial_canvas() -> None:
    recorded = {"init": "image", "init_image": b"i"}
    assert changed(recorded, {"init": "noise"}) == {"init": "noise"}
    assert changed(recorded, {"init": "image"}) == recorded
    assert changed(recorded, {"init_image": b"j"}) == {"init_image": b"j"}


def test_a_preset_replaces_all_but_sizes_seed_and_pictures() -> None:
    assert changed({**RECORDED, "mask": b"m"}, {"preset": "gatys"}) == {
        "preset": "gatys",
        "size_px": 96,
        "seed": 7,
        "init": "content",
        "format": "png",
        "quality": 95,
        "mask": b"m",
    }
