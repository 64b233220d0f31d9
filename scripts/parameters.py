"""Write docs/PARAMETERS.md: meanings from the contract, defaults and presets from the engine, options from the command line.

`make parameters` runs it; a test sees that the page is what it would write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from impasto.cli.main import cli
from impasto.requests import Options
from impasto_engine.parameters import PRESETS, Parameters

ROOT = Path(__file__).parents[1]
PROTO = ROOT / "proto/impasto/v1/style_transfer.proto"
PAGE = ROOT / "docs/PARAMETERS.md"
MESSAGES = {
    "Parameters": "How a job paints",
    "JobSpec": "What a job is made of",
    "Style": "One style",
    "OutputOptions": "How pictures are encoded",
    "InspectFeaturesRequest": "How filters see a picture",
}
SDK_NAMES = {"time_limit": "time_limit_s", "ttl": "ttl_s"}
OTHER_FLAGS = {
    ("Style", "weight"): "--style-shares",
    ("Style", "mask"): "--style-mask",
    ("Style", "region"): "--style-region",
    ("InspectFeaturesRequest", "filters"): "`impasto features --filters`",
    ("InspectFeaturesRequest", "count"): "`impasto features --filters`",
    ("InspectFeaturesRequest", "network"): "`impasto features --network`",
    ("InspectFeaturesRequest", "layer"): "`impasto features --layer`",
    ("InspectFeaturesRequest", "size_px"): "`impasto features --size`",
    ("InspectFeaturesRequest", "pooling"): "`impasto features --pooling`",
}


def messages(kind: str) -> dict[str, list[tuple[str, str, str]]]:
    """Return type, name and comment of every field of every message (or name and comment of an enum's values)."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    comment: list[str] = []
    name = ""
    for raw in PROTO.read_text().splitlines():
        line = raw.strip()
        if start := re.match(rf"{kind} (\w+) {{", line):
            name = start[1]
            found[name] = []
        elif raw == "}":
            name = ""
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        field = re.match(r"(?:optional |repeated )?([\w.]+) (\w+) = \d+;", line) if kind == "message" else None
        value = re.match(r"(\w+) = \d+;", line) if kind == "enum" else None
        if name and field:
            found[name].append((field[1], field[2], " ".join(comment)))
        elif name and value:
            found[name].append(("", value[1], " ".join(comment)))
        comment = []
    return found


def flags() -> dict[str, str]:
    """Return the option of `impasto stylize` for each parameter."""
    command = cli.get_command(click.Context(cli), "stylize")
    options = command.params if command else []
    return {option.name or "": option.opts[0] for option in options if isinstance(option, click.Option)}


def shown(value: Any) -> str:
    """Return a value as a reader would write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{layer}={weight:.4g}" for layer, weight in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value in ("", ()) else str(value)


def page() -> str:
    """Return the whole page."""
    enums, options, defaults = messages("enum"), flags(), Parameters()
    lines = [
        "# Parameters",
        "",
        "Made by `make parameters` from the contract's comments, the engine's presets and the command line's options;",
        "don't edit it. The Python client takes the same names as keyword arguments (`impasto.requests.Options`); what is not",
        "given comes from the preset. All are checked in `engine/impasto_engine/parameters.py` and",
        "`server/impasto_server/api/validation.py`, and an error names every field that is wrong.",
    ]
    for message, title in MESSAGES.items():
        lines += [
            "",
            f"## {title} (`{message}`)",
            "",
            "| field | option of `impasto stylize` | default | meaning |",
            "|---|---|---|---|",
        ]
        for kind, name, comment in messages("message")[message]:
            sdk = SDK_NAMES.get(name, name)
            known = sdk in Options.__annotations__ and message in ("Parameters", "JobSpec", "OutputOptions")
            option = OTHER_FLAGS.get((message, name)) or (options.get(sdk, "") if known else "")
            option = f"`{option}`" if option and "`" not in option else option
            default = shown(getattr(defaults, name)) if message == "Parameters" and hasattr(defaults, name) else ""
            words = [f"`{value.lower()}`: {text}" for value, text in values_of(enums, kind)]
            meaning = " ".join([comment, *words])
            lines.append(f"| `{name}` | {option} | {default} | {meaning} |")
    lines += ["", "## Presets", "", "A preset is plain data; only what differs from `default` is shown.", ""]
    lines += ["| preset | parameters |", "|---|---|"]
    for name, parameters in PRESETS.items():
        changed = [
            f"`{field}` {shown(value)}" for field, value in vars(parameters).items() if value != getattr(defaults, field)
        ]
        lines.append(f"| `{name}` | {'; '.join(changed) or 'the defaults above'} |")
    return "\n".join(lines) + "\n"


def values_of(enums: Mapping[str, list[tuple[str, str, str]]], kind: str) -> list[tuple[str, str]]:
    """Return an enum's values as words with their meaning; none for other types."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).upper() + "_"
    values = [(name.removeprefix(prefix), comment) for _, name, comment in enums.get(kind, [])]
    return [(name, comment) for name, comment in values if name != "UNSPECIFIED"]


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
