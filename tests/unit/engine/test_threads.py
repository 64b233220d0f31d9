"""The wait policy of threads is set before torch is loaded, in every process that computes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from impasto_engine.threads import WAITING, share_cores


def test_what_the_user_chose_stands() -> None:
    """Unset variables are set, a user's value is kept, and with OMP_WAIT_POLICY nothing is set."""
    environment = {"GOMP_SPINCOUNT": "7"}
    share_cores(environment)
    assert environment == {**WAITING, "GOMP_SPINCOUNT": "7"}
    environment = {"OMP_WAIT_POLICY": "active"}
    share_cores(environment)
    assert environment == {"OMP_WAIT_POLICY": "active"}


@pytest.mark.parametrize("module", ["impasto_engine", "impasto_server.workers.process"])
def test_it_is_set_before_torch(module: str) -> None:
    """By the engine's package and by the module that starts workers, which inherit its environment. Neither imports torch."""
    bare = {name: value for name, value in os.environ.items() if name not in WAITING}
    code = f"import {module}, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=bare, check=True)
    assert done.stdout.split() == ["1000", "False"]
