"""Temporary folders do not pile up when their processes are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from impasto_server.scratch import scratch_folder

HOLD = "import sys, time; from pathlib import Path; from impasto_server.scratch import scratch_folder\n"
HOLD += "with scratch_folder('impasto-test-', Path(sys.argv[1])) as folder: print(folder, flush=True); time.sleep(60)"


def test_a_folder_is_removed_with_its_block(tmp_path: Path) -> None:
    with scratch_folder("impasto-test-", tmp_path) as folder:
        (folder / "picture").write_bytes(b"x")
        assert folder.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.iterdir())


def test_a_killed_processs_folder_is_removed_by_the_next_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """Nor are folders of other programs."""
    (tmp_path / "impasto-test-of-others").mkdir()
    (tmp_path / "other").mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        theirs = Path(process.stdout.readline().strip())
        with scratch_folder("impasto-test-", tmp_path):
            assert theirs.is_dir()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert theirs.is_dir()
    with scratch_folder("impasto-test-", tmp_path) as ours:
        assert {path.name for path in tmp_path.iterdir()} == {ours.name, "other", "impasto-test-of-others"}
