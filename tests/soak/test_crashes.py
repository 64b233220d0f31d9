"""The short form of the crash test; `make soak` runs the long one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.crashes import KINDS, soak


@pytest.mark.timeout(280)
def test_nothing_is_lost_whatever_is_killed(png: Callable[..., bytes], tmp_path: Path) -> None:
    """Six kills: three at failpoints, two of the server and one of its worker at random times."""
    pictures = [png(64, 48, seed) for seed in range(KINDS)]
    done, wrong = soak(pictures, 6, 1, tmp_path)
    assert not wrong
    assert done["jobs"] >= 3
    assert done["lives of the server"] >= 5
