"""Options of a picture that is made again with changes: what a change makes of the recorded options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SIZES = ("size_px", "steps", "levels")
_KEPT_WITH_A_PRESET = ("format", "quality", "mask", "init_image", "init", "seed", "size_px", "width_px", "height_px")


def changed(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a new job.

    The recorded options are complete, so those that depend on a changed one are left to the server: see :func:`replaced`. Of a
    schedule that is replaced the last size and the sum of the steps remain. A preset replaces all that is recorded but sizes,
    seed and pictures.

    Args:
        recorded: Options from a picture's metadata.
        given: The changes.
    """
    options = dict(recorded)
    if options.get("schedule") and ("preset" in given or any(name in given for name in _SIZES)):
        schedule = options.pop("schedule")
        options |= {"size_px": schedule[-1][0], "steps": sum(steps for _, steps in schedule)}
    if "preset" in given:
        options = {name: value for name, value in options.items() if name in _KEPT_WITH_A_PRESET}
    dropped = replaced(options, given)
    return {**{name: value for name, value in options.items() if name not in dropped}, **given}


def replaced(options: Mapping[str, Any], given: Mapping[str, Any]) -> set[str]:
    """Return the names of options that do not hold beside others that take precedence over them.

    A schedule replaces sizes and steps, and they it; another size replaces an exact one; another optimizer has another
    learning rate; another network other layers; an initial canvas is used, unless another start is wanted.

    Args:
        options: The options.
        given: Those that take precedence.
    """
    dropped: list[str] = []
    if "schedule" in given:
        dropped += _SIZES
    if any(name in given for name in _SIZES):
        dropped.append("schedule")
    if "size_px" in given:
        dropped += ["width_px", "height_px"]
    if "optimizer" in options and given.get("optimizer", options["optimizer"]) != options["optimizer"]:
        dropped.append("learning_rate")
    if "network" in options and _architecture(given.get("network", options["network"])) != _architecture(options["network"]):
        dropped += ["content_layers", "style_layers"]
    if "init_image" in given:
        dropped.append("init")
    elif given.get("init", "image") != "image":
        dropped.append("init_image")
    return options.keys() & dropped


def _architecture(network: object) -> str:
    return str(network).partition(":")[0]
