"""Write docs/reference/parameters.md from the contract, the engine's defaults and presets, and the command line.

Run by `make generate`; a test checks that the page is up to date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from impasto.cli.main import cli
from impasto.contract import messages
from impasto.requests import ENUMS, Options
from impasto.words import words
from impasto_engine.parameters import ADAM_LEARNING_RATE, NORMALIZED, PRESETS, TUNED, Parameters

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/parameters.md"
MESSAGES = {
    "Parameters": "How a job paints",
    "JobSpec": "Contents of a job",
    "Style": "One style",
    "OutputOptions": "How pictures are encoded",
    "InspectFeaturesRequest": "Feature inspection",
}
_FIELD = re.compile(r"(?:optional |repeated )?(map<string, string>|[\w.]+) (\w+) = \d+;")
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
FORM_OF_STYLE = {
    "image": "`style=@painting.jpg`, for each style",
    "weight": "`style_share=0.7`, for each style in order",
    "mask": "`style_mask=@part.png`, for each style in order, or empty",
    "region": "`style_region=@region.png`, for each style in order, or empty",
}
FORM_EXAMPLES: Mapping[str, str] = {
    "preset": "gatys", "content_layers": "relu4_2=1,relu3_1=0.5", "style_layers": "relu1_1=1,relu2_1=0.5",
    "content_weight": "0.05", "style_weight": "1",
    "total_variation_weight": "0.1", "size_px": "512", "steps": "100", "learning_rate": "0.5",
    "history": "20", "seed": "7", "levels": "2", "network": "vgg19:imagenet-v1", "style_scale": "0.7", "tolerance": "0.002",
    "width_px": "640", "height_px": "480", "schedule": "256:100,512:50", "mask": "@mask.png", "init_image": "@start.png",
    "content": "@photo.jpg", "quality": "90", "preview_every_steps": "10", "preview_size_px": "256", "omit_metadata": "true",
    "priority": "5", "time_limit_s": "90", "ttl_s": "600", "labels": '{"album": "norway"}',
    "webhook": "https://hooks.example.com/impasto",
}  # fmt: skip
"""A value of each option as forms take it; a test sends them. Those of enumerations follow from their words."""
FORMS = """
## Over an HTTP form

The tables have each field as an argument of `curl -F` ([how](../howto/web.md#curl)); a form is `multipart/form-data`.

- **Numbers** are decimal text, whole ones without a point.
- **Booleans** are `true`, `1`, `on` or `yes`, and `false`, `0`, `off` or `no`.
- **Enumerations** are the words that the table lists, such as `adam`.
- **Layers** are `NAME=WEIGHT` with commas between them; a name alone has weight 1. **Schedules** are `SIZE:STEPS`, likewise.
- **Maps** (`labels`) are an object in JSON. **Durations** are in seconds, in a field whose name ends in `_s`.
- **Pictures** are files, or `sha256:HEX` for a file that was uploaded. Lists of them repeat the field: the first `style_share`
  belongs to the first `style`.
- `request_id` is text, `validate_only` (not of `/v1/stylize`) a boolean. An empty field is one that was not sent. Names in
  lowerCamelCase, as in JSON, are accepted too.

In JSON the same fields are those of the contract's messages:
`{"spec": {"parameters": {"optimizer": "OPTIMIZER_ADAM", "sizePx": 512}}}`.
"""


def form(message: str, name: str) -> str:
    """Return how a field is given in a form, as an argument of `curl -F`; empty if it is not."""
    if message == "Style":
        return FORM_OF_STYLE[name]
    if (message, name) == ("JobSpec", "styles"):
        return "see [Style](#one-style-style)"
    option = SDK_NAMES.get(name, name)
    if option not in (*Options.__annotations__, "content") or message == "InspectFeaturesRequest":
        return ""
    value = words(ENUMS[option])[1] if option in ENUMS else FORM_EXAMPLES[option]
    return f"`{option}={value}`"


def flags() -> dict[str, str]:
    """Return the option of `impasto stylize` for each parameter."""
    command = cli.get_command(click.Context(cli), "stylize")
    options = command.params if command else []
    return {option.name or "": option.opts[0] for option in options if isinstance(option, click.Option)}


def shown(value: Any) -> str:
    """Return a value in readable form."""
    if isinstance(value, Mapping):
        return ", ".join(f"{layer}={weight:.4g}" for layer, weight in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value in ("", ()) else str(value)


def default_of(name: str) -> str:
    """Return the default of a painting parameter, and what it is where it depends on another choice."""
    base = getattr(Parameters(), name)
    found = [shown(base)]
    found += {
        "learning_rate": [f"{ADAM_LEARNING_RATE} with `optimizer` adam"],
        "history": ["not used with `optimizer` adam"],
        "init": ["noise without a content image"],
    }.get(name, [])
    for normalization, weights in NORMALIZED.items():
        if weights.get(name, base) != base:
            found.append(f"{shown(weights[name])} with `normalization` {normalization}")
    for filters, tuned in TUNED.items():
        if name in tuned:
            found.append(f"{shown(tuned[name])} with the filters {filters}")
    return "; ".join(item for item in found if item)


def page() -> str:
    """Return the page."""
    enums, options, defaults = messages("enum"), flags(), Parameters()
    lines = [
        "# Parameters",
        "",
        "Generated by `make generate` from the contract's comments, the engine's presets and the command-line options;",
        "do not edit. The Python client accepts the same names as keyword arguments (`impasto.requests.Options`). Omitted",
        "parameters come from the preset. All are validated in `engine/impasto_engine/parameters.py` and",
        "`server/impasto_server/api/validation.py`; an error lists every invalid field. Defaults are those of the preset",
        "`default` with VGG16 and filters trained on ImageNet; a default that depends on another choice says so. Layers that",
        "the network does not have are replaced by its own (`impasto info` lists what the server uses).",
        *FORMS.rstrip().split("\n"),
    ]
    for message, title in MESSAGES.items():
        lines += [
            "",
            f"## {title} (`{message}`)",
            "",
            "| field | option of `impasto stylize` | default | in a form | meaning |",
            "|---|---|---|---|---|",
        ]
        for kind, name, comment in messages("message")[message]:
            sdk = SDK_NAMES.get(name, name)
            known = sdk in Options.__annotations__ and message in ("Parameters", "JobSpec", "OutputOptions")
            option = OTHER_FLAGS.get((message, name)) or (options.get(sdk, "") if known else "")
            option = f"`{option}`" if option and "`" not in option else option
            default = default_of(name) if message == "Parameters" and hasattr(defaults, name) else ""
            values = [f"`{value.lower()}`: {text}" for value, text in values_of(enums, kind)]
            meaning = " ".join([comment, *values])
            lines.append(f"| `{name}` | {option} | {default} | {form(message, name)} | {meaning} |")
    lines += [
        "",
        "## Presets",
        "",
        "`draft`, `good` (which is `default`) and `best` say how far the painting goes: `preset=draft` in Python and in forms,",
        "`--quality draft` or `--preset draft` on the command line, where a number after `--quality` is the file's quality;",
        "`--preset draft --quality 80` is both.",
        "",
        "A preset is plain data. Only the differences from `default` are shown. The learning rates are for",
    ]
    lines += [f"L-BFGS: with `optimizer` adam it is {ADAM_LEARNING_RATE} whatever the preset, unless it is given.", ""]
    lines += ["| preset | parameters |", "|---|---|"]
    for name, parameters in PRESETS.items():
        changed = [
            f"`{field}` {shown(value)}" for field, value in vars(parameters).items() if value != getattr(defaults, field)
        ]
        lines.append(f"| `{name}` | {'; '.join(changed) or 'the defaults above'} |")
    return "\n".join(lines) + "\n"


def values_of(enums: Mapping[str, list[tuple[str, str, str]]], kind: str) -> list[tuple[str, str]]:
    """Return the values of an enum with their meanings; empty for other types."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).upper() + "_"
    values = [(name.removeprefix(prefix), comment) for _, name, comment in enums.get(kind, [])]
    return [(name, comment) for name, comment in values if name != "UNSPECIFIED"]


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
