"""Where a network's filters come from: the package, a cache filled on request, or a file. Never chosen in silence."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights, VGG19_Weights, WeightsEnum

from impasto_engine.architectures import DEFAULT, random_seed, split
from impasto_engine.networks import Network, WeightsInfo, empty_trunk, random_trunk

BUILTIN_FILE = "vgg16_builtin.safetensors"
_CHUNK_BYTES = 1 << 20


class WeightsError(Exception):
    """The filters asked for are missing, damaged or of the wrong shape. The message says what to do."""


@dataclass(frozen=True)
class ImageNetWeights:
    """Published filters that can be downloaded.

    Attributes:
        name: What users call them, without the network's name.
        entry: torchvision's description, which holds the address and the input normalization.
        sha256: Hash of the published file, or as many leading digits of it as its publisher states.
        unit: See :class:`~impasto_engine.networks.WeightsInfo`.
        architecture: Whose filters they are.
    """

    name: str
    entry: WeightsEnum
    sha256: str
    unit: float = 1.0
    architecture: str = DEFAULT

    @property
    def url(self) -> str:
        """Address of the published file."""
        return str(self.entry.url)

    def info(self, sha256: str) -> WeightsInfo:
        """Return what results will say about these filters."""
        transforms = self.entry.transforms()
        mean, std = transforms.mean, transforms.std
        return WeightsInfo(self.name, sha256, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), self.unit)


IMAGENET: Mapping[str, ImageNetWeights] = {
    # The original Caffe filters that the papers used, made for pixels from 0 to 255. torchvision states the first
    # eight digits of the hash, in the file's name.
    "imagenet": ImageNetWeights("imagenet", VGG16_Weights.IMAGENET1K_FEATURES, "88682ab5", 57.6),
    "imagenet-v1": ImageNetWeights(
        "imagenet-v1",
        VGG16_Weights.IMAGENET1K_V1,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    # Of the other networks torchvision states the first eight digits too.
    "vgg19:imagenet-v1": ImageNetWeights("imagenet-v1", VGG19_Weights.IMAGENET1K_V1, "dcbb9e9d", architecture="vgg19"),
    "alexnet:imagenet-v1": ImageNetWeights("imagenet-v1", AlexNet_Weights.IMAGENET1K_V1, "7be5be79", architecture="alexnet"),
    "squeezenet1_1:imagenet-v1": ImageNetWeights(
        "imagenet-v1", SqueezeNet1_1_Weights.IMAGENET1K_V1, "b8a52dc0", architecture="squeezenet1_1"
    ),
}
"""``imagenet`` are the papers' filters, ``imagenet-v1`` torchvision's own training; VGG16's go without the network's name."""


def cache_dir() -> Path:
    """Return where downloaded weights are kept: ``$IMPASTO_CACHE``, else ``impasto`` in the XDG cache folder."""
    if own := os.environ.get("IMPASTO_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "impasto"


def cached_file(name: str) -> Path:
    """Return where the filters of a downloadable network lie once downloaded."""
    architecture, weights = split(name)
    return cache_dir() / f"{architecture}-{weights}.safetensors"


def download(
    name: str,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    source: ImageNetWeights | None = None,
) -> Path:
    """Fetch published filters, check their hash, and keep the convolutions (59 MB of the 553) in the cache.

    Args:
        name: A key of :data:`IMAGENET`.
        progress: Called with bytes done and in total (0 if the sender does not say).
        source: Another description of the file, for mirrors and tests.

    Raises:
        WeightsError: If the name is unknown, the address cannot be reached, or the hash is wrong; the cache keeps what it
            had.
    """
    source = source or _published(name)
    target = cached_file(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".download")
    try:
        digest = _fetch(source.url, partial, progress)
        if not digest.startswith(source.sha256):
            raise WeightsError(f"{source.url}: SHA-256 is {digest}, expected {source.sha256}; nothing was kept")
        features = _features_of(source.architecture, _read(partial, torch_format=True), str(partial))
        _write_cached(target, features, source_sha256=digest)
    finally:
        partial.unlink(missing_ok=True)
    return target


def verify(name: str) -> str:
    """Return the SHA-256 of a cached file after checking it against the one recorded when it was written.

    Raises:
        WeightsError: If it is not there, or not what was written.
    """
    target = cached_file(name)
    if not target.exists():
        raise WeightsError(f"{name} is not in the cache ({target}); run: impasto weights download {name}")
    recorded = json.loads(target.with_suffix(".json").read_text())["sha256"]
    actual = _sha256(target)
    if actual != recorded:
        raise WeightsError(f"{target}: SHA-256 is {actual}, recorded was {recorded}; run: impasto weights download {name}")
    return actual


def resolve(choice: str) -> str:
    """Return the weights that ``auto`` stands for: the papers' filters if cached, then torchvision's, else the built-in.

    Any other choice is returned as it is.
    """
    if choice != "auto":
        return choice
    cached = (name for name, source in IMAGENET.items() if source.architecture == DEFAULT and cached_file(name).exists())
    return next(cached, "builtin")


def available() -> tuple[str, ...]:
    """Return the full names, ``ARCHITECTURE:WEIGHTS``, of the networks that can be loaded here by name.

    Random weights, ``ARCHITECTURE:random-SEED``, can always be had and are not listed.
    """
    cached = (":".join((IMAGENET[name].architecture, IMAGENET[name].name)) for name in IMAGENET if cached_file(name).exists())
    return (f"{DEFAULT}:builtin", *cached)


def load_network(choice: str, device: torch.device) -> Network:
    """Load a network with the chosen filters onto a device.

    Args:
        choice: ``[ARCHITECTURE:]WEIGHTS``, where the architecture is VGG16 if none is given, and the weights are ``auto``,
            ``builtin`` (VGG16 only), ``imagenet``, ``imagenet-v1``, ``random-SEED``, or the path of a state dict in
            torchvision's naming (``.safetensors``, ``.pth`` or ``.pt``).
        device: Where the filters will be resident.

    Raises:
        WeightsError: If they are missing, damaged, or of the wrong shape.
    """
    architecture, name = split(resolve(choice))
    published = name if architecture == DEFAULT else f"{architecture}:{name}"
    seed = random_seed(name)
    if seed is not None:
        features = random_trunk(architecture, seed)
        return Network(features, WeightsInfo(f"random-{seed}", _fingerprint(features)), device, architecture)
    if name == "builtin" and architecture == DEFAULT:
        state, info = _builtin()
    elif published in IMAGENET:
        digest = verify(published)
        state, info = _read(cached_file(published)), IMAGENET[published].info(digest)
    else:
        path = Path(name)
        if not name or not path.is_file():
            known = ", ".join(("auto", "builtin", "random-SEED", *IMAGENET))
            raise WeightsError(f"weights {choice!r}: no such file, and none of {known}")
        state, info = _read(path), WeightsInfo(path.name, _sha256(path))
    return Network(_features_of(architecture, state, name), info, device, architecture)


def _fingerprint(features: nn.Sequential) -> str:
    digest = hashlib.sha256()
    for value in features.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _published(name: str) -> ImageNetWeights:
    if name not in IMAGENET:
        raise WeightsError(f"cannot download {name!r}: choose one of {', '.join(IMAGENET)}")
    return IMAGENET[name]


def _builtin() -> tuple[dict[str, Tensor], WeightsInfo]:
    with importlib.resources.as_file(importlib.resources.files("impasto_engine.builtin") / BUILTIN_FILE) as path:
        stored = load_file(path)
        digest = _sha256(path)
    state = {key: value for key, value in stored.items() if key.endswith(".bias")}
    for key, bits in stored.items():
        if key.endswith(".weight"):
            scale = stored[key.replace(".weight", ".scale")]
            state[key] = bits.float() * scale.view(-1, 1, 1, 1)
    return state, WeightsInfo("builtin", digest)


def _read(path: Path, *, torch_format: bool = False) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors" and not torch_format:
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path}: not a readable state dict ({type(error).__name__})") from error
    except Exception as error:  # torch raises pickle.UnpicklingError and, for some files, bare errors of its own
        raise WeightsError(f"{path}: not a safe state dict ({type(error).__name__})") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path}: holds no state dict of tensors")
    return loaded


def _features_of(architecture: str, state: Mapping[str, Tensor], origin: str) -> nn.Sequential:
    """Return a trunk's convolutions filled from a state dict; keys may start with ``features.`` or with the index."""
    features = empty_trunk(architecture)
    wanted = features.state_dict()
    filled: dict[str, Tensor] = {}
    for key, empty in wanted.items():
        value = state.get(f"features.{key}", state.get(key))
        if value is None:
            raise WeightsError(f"{origin}: has no features.{key}; it is no {architecture} in torchvision's naming")
        if value.shape != empty.shape:
            mismatch = f"features.{key} has shape {list(value.shape)}, {architecture} has {list(empty.shape)}"
            raise WeightsError(f"{origin}: {mismatch}")
        if not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{origin}: features.{key} holds values that are not finite")
        filled[key] = value.float()
    features.load_state_dict(filled, assign=True)
    return features.requires_grad_(False)


def _write_cached(target: Path, features: nn.Sequential, source_sha256: str) -> None:
    fresh = target.with_suffix(".writing")
    save_file({f"features.{key}": value for key, value in features.state_dict().items()}, fresh)
    record = {"sha256": _sha256(fresh), "source_sha256": source_sha256}
    target.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    fresh.chmod(0o644)  # a cache filled by one user serves others
    fresh.replace(target)


def _fetch(url: str, target: Path, progress: Callable[[int, int], None]) -> str:
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=30) as response, target.open("wb") as out:  # noqa: S310 - fixed addresses
            total = int(response.headers.get("Content-Length") or 0)
            done = 0
            while chunk := response.read(_CHUNK_BYTES):
                out.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(done, total)
    except OSError as error:
        raise WeightsError(f"cannot download {url}: {error}") from error
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
