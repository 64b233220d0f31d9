"""The short form of the batch that is killed; `make soak-batch` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.batches import draw_pictures, soak


@pytest.mark.timeout(280)
def test_a_batch_that_is_killed_ends_as_if_it_were_not(tmp_path: Path) -> None:
    """One kill of the client and one of the server; every picture bit for bit, one line and one job for each."""
    photos, styles = tmp_path / "photos", tmp_path / "styles"
    draw_pictures(photos, styles, 3, 2, 48)
    options = ["--size", "48", "--steps", "40", "--levels", "1"]
    figures, wrong = soak(photos, styles, tmp_path, options, client_kills=1, server_kills=1, seed=2)
    wrong = [text for text in wrong if "evaluations were done again" not in text]  # six pictures say little about a share
    assert not wrong
    assert figures.pairs == 6
