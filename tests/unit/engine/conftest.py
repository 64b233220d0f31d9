"""Fixtures: the built-in network and a seeded random generator."""

from __future__ import annotations

import pytest
import torch

from impasto_engine.networks import Network
from impasto_engine.weights import load_network

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 4e-2}


@pytest.fixture(scope="session")
def network() -> Network:
    """Return the built-in VGG16 on the CPU."""
    return load_network("builtin", torch.device("cpu"))


@pytest.fixture
def generator() -> torch.Generator:
    """Return a random generator with a fixed seed."""
    return torch.Generator().manual_seed(7)
