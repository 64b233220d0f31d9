"""Loads a network by the name of its filters. The filters that ``auto`` resolves to are always reported."""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from impasto_engine.architectures import ARCHITECTURES, DEFAULT, random_seed, split
from impasto_engine.cache import WeightsError, cached_file, is_cached, resolve
from impasto_engine.networks import Network, WeightsInfo, random_trunk
from impasto_engine.weights import records
from impasto_engine.weights.convolutions import FINDABLE
from impasto_engine.weights.files import read_state
from impasto_engine.weights.obtain import fill, read_vgg
from impasto_engine.weights.published import NAMES
from impasto_engine.weights.records import sha256_of

BUILTIN_FILE = "vgg16_builtin.safetensors"


def available() -> tuple[str, ...]:
    """Return the full names, ``ARCHITECTURE:WEIGHTS``, of the networks that can be loaded by name.

    Random weights, ``ARCHITECTURE:random-SEED``, are always available and not listed.
    """
    return (f"{DEFAULT}:builtin", *(f"{record.architecture}:{record.name}" for record in records.cached()))


def load_network(choice: str, device: torch.device) -> Network:
    """Load a network with the chosen filters onto a device.

    Args:
        choice: ``[ARCHITECTURE:]WEIGHTS``. The default architecture is VGG16. The weights are ``auto``, ``builtin`` (VGG16
            only), the name of cached filters, ``random-SEED``, or the path of a file that ``impasto weights import`` can read.
        device: Device for the filters.

    Raises:
        WeightsError: If the weights are missing, damaged, or of the wrong shape.
    """
    architecture, name = split(resolve(choice))
    full = f"{architecture}:{name}"
    seed = random_seed(name)
    if seed is not None:
        features = random_trunk(architecture, seed)
        return Network(features, WeightsInfo(f"random-{seed}", _fingerprint(features)), device, architecture)
    if name == "builtin" and architecture == DEFAULT:
        state, info = _builtin()
    elif is_cached(full):
        info = records.verify(full).info
        state = read_state(cached_file(full))
    elif Path(name).is_file():
        state, info = _file(architecture, Path(name))
    else:
        raise missing(choice)
    return Network(fill(architecture, state, name), info, device, architecture)


def _file(architecture: str, path: Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Return the filters of a file and their description."""
    if architecture not in FINDABLE:
        return read_state(path), WeightsInfo(path.name, sha256_of(path))
    vgg = read_vgg(path, path.name)
    if vgg.architecture != architecture:
        raise WeightsError(f"{path}: contains {vgg.architecture}; use {vgg.architecture}:{path}")
    record = vgg.record
    return dict(vgg.state), WeightsInfo(path.name, record.source_sha256, record.mean, record.std, record.unit)


NETWORK_NAME = re.compile(r"[A-Za-z0-9_]{2,}")
"""What stands before the colon of ARCHITECTURE:WEIGHTS, known or not; a single letter is a drive of Windows."""


def missing(choice: str) -> WeightsError:
    """Return the error for filters that are neither cached nor a file: what to do, or what there is."""
    architecture, weights = split(resolve(choice))
    before, separator, _ = choice.partition(":")
    if separator and before not in ARCHITECTURES and NETWORK_NAME.fullmatch(before):
        text = f"no such file, and there is no network {before!r}; the networks are {', '.join(ARCHITECTURES)}"
        return WeightsError(f"weights {choice!r}: {text}")
    cached = [record.id for record in records.cached()]
    if weights in ("", "builtin"):
        there = [f"{architecture}:random-SEED", *(name for name in (*NAMES, *cached) if name.startswith(f"{architecture}:"))]
        text = f"the built-in filters are those of {DEFAULT}" if weights else "no filters are named"
        return WeightsError(f"weights {choice!r}: {text}; for {architecture} there are {', '.join(dict.fromkeys(there))}")
    known = f"{architecture}:{weights}".removeprefix(f"{DEFAULT}:")
    if known in NAMES:
        return WeightsError(f"weights {choice!r} are not in the cache; run: impasto weights download {known}")
    names = ", ".join(dict.fromkeys(("auto", "builtin", "random-SEED", *NAMES, *cached)))
    return WeightsError(f"weights {choice!r}: no such file, and not one of {names}")


def _fingerprint(features: nn.Sequential) -> str:
    digest = hashlib.sha256()
    for value in features.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _builtin() -> tuple[dict[str, Tensor], WeightsInfo]:
    with importlib.resources.as_file(importlib.resources.files("impasto_engine.builtin") / BUILTIN_FILE) as path:
        stored = load_file(path)
        digest = sha256_of(path)
    state = {key: value for key, value in stored.items() if key.endswith(".bias")}
    for key, bits in stored.items():
        if key.endswith(".weight"):
            scale = stored[key.replace(".weight", ".scale")]
            state[key] = bits.float() * scale.view(-1, 1, 1, 1)
    return state, WeightsInfo("builtin", digest)
