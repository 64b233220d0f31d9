"""The cache of filters as files: where it is, and what is there. Does not import torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from impasto_engine.architectures import ARCHITECTURES, DEFAULT, random_seed, split

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Valid names of filters."""
AUTOMATIC = ("imagenet", "imagenet-v1", "imagenet-wheel")
"""``auto`` resolves to the first of these that is in the cache, else to the built-in filters."""
_SUFFIX = ".safetensors"


class WeightsError(Exception):
    """The requested filters are missing, damaged or of the wrong shape. The message says what to do."""


def resolve(choice: str) -> str:
    """Resolve ``auto`` to the best published weights in the cache, or to the built-in ones if none is cached.

    Any other choice is returned unchanged.
    """
    if choice != "auto":
        return choice
    return next((name for name in AUTOMATIC if is_cached(name)), "builtin")


def cache_dir() -> Path:
    """Return the cache folder: ``$IMPASTO_CACHE``, else the system's usual one (on Linux by the XDG rules)."""
    if own := os.environ.get("IMPASTO_CACHE"):
        return Path(own)
    try:
        if not os.environ.get("XDG_CACHE_HOME"):
            Path.home()  # platformdirs does not say that there is none
        return platformdirs.user_cache_path("impasto", appauthor=False)
    except RuntimeError:  # containers may run as users without a passwd entry
        raise WeightsError("no home folder for the cache; set IMPASTO_CACHE to a folder") from None


def cached_file(name: str) -> Path:
    """Return the cache path of the filters ``[ARCHITECTURE:]NAME``, whether or not they are cached."""
    architecture, weights = split(name)
    return cache_dir() / f"{architecture}-{weights}{_SUFFIX}"


def is_cached(name: str) -> bool:
    """Whether filters are in the cache. Their record may still be missing or unreadable, which `read` reports."""
    if NAME.fullmatch(split(name)[1]) is None:
        return False  # a path, for example
    try:
        return cached_file(name).is_file()
    except (WeightsError, OSError):  # no home folder, or no read permission: nothing is cached
        return False


def cached_names() -> Iterator[str]:
    """Yield the names ``ARCHITECTURE:NAME`` of all cached filters, sorted, whether or not their records are readable."""
    try:
        folder = cache_dir()
    except WeightsError:
        return
    for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else ():
        architecture, separator, name = path.stem.partition("-")
        if separator and architecture in ARCHITECTURES and NAME.fullmatch(name):
            yield f"{architecture}:{name}"


def exist(choice: str) -> bool:
    """Whether ``[ARCHITECTURE:]WEIGHTS`` can be loaded, as far as that is known without reading any file.

    Raises:
        ValueError: If the architecture is unknown.
    """
    architecture, name = split(resolve(choice))
    builtin = name == "builtin" and architecture == DEFAULT
    return builtin or random_seed(name) is not None or is_cached(f"{architecture}:{name}") or Path(name).is_file()
