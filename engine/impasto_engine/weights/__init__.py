"""Filters of a network: built in, from the cache (downloaded or imported), or from a file."""

from impasto_engine.cache import WeightsError, cache_dir, cached_file, cached_names, is_cached, resolve
from impasto_engine.weights.errors import MissingPackageError
from impasto_engine.weights.inputs import Given
from impasto_engine.weights.loading import BUILTIN_FILE, available, load_network, missing
from impasto_engine.weights.obtain import download, import_file
from impasto_engine.weights.published import FILES, NAMES, WHEELS, PublishedFile, PublishedWheel
from impasto_engine.weights.records import Record, cached, verify

__all__ = [
    "BUILTIN_FILE",
    "FILES",
    "NAMES",
    "WHEELS",
    "Given",
    "MissingPackageError",
    "PublishedFile",
    "PublishedWheel",
    "Record",
    "WeightsError",
    "available",
    "cache_dir",
    "cached",
    "cached_file",
    "cached_names",
    "download",
    "import_file",
    "is_cached",
    "load_network",
    "missing",
    "resolve",
    "verify",
]
