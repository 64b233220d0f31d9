"""The short form of the batch that is killed, with workers that count; `make soak-batch` runs the long one with real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.batches import draw_pictures, soak
from tests.soak.crashes import Server


class CountingServer(Server):
    """A server whose worker counts steps: it starts at once."""

    def start(self, failpoint: str = "") -> None:
        assert not failpoint
        settings = json.dumps({"listen": self.address, "data_dir": str(self.folder), "grace_s": 0.0})
        command = [sys.executable, "-m", "tests.integration.contract.fake_server", settings, "0.02"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        self.lives += 1


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_batch_that_is_killed_ends_as_if_it_were_not(tmp_path: Path) -> None:
    """One kill of the client and one of the server; every picture, one line and one job for each."""
    photos, styles = tmp_path / "photos", tmp_path / "styles"
    draw_pictures(photos, styles, 4, 2, 48)
    options = ["--size", "48", "--steps", "20", "--levels", "1"]
    kills = {"client_kills": 1, "server_kills": 1, "seed": 2}
    figures, wrong = soak(photos, styles, tmp_path, options, kind=CountingServer, **kills)
    wrong = [text for text in wrong if "evaluations were done again" not in text]  # eight pictures say little about a share
    assert not wrong
    assert figures.pairs == 8
    assert figures.clients >= 2
