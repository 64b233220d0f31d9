"""The short form of the crash test; `make soak` runs the long one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.crashes import KINDS, soak


@pytest.mark.long
@pytest.mark.timeout(600)
def test_nothing_is_lost_whatever_is_killed(png: Callable[..., bytes], tmp_path: Path) -> None:
    """Four kills: two at named places of the code, one of the server and one of its worker at random instants."""
    pictures = [png(64, 48, seed) for seed in range(KINDS)]
    done, wrong = soak(pictures, 4, 1, tmp_path, in_flight=2)
    assert not wrong
    assert done["jobs"] >= 2
    assert done["lives of the server"] >= 4
