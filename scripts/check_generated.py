"""Check that the generated files are up to date. Run by `make lint`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main() -> int:
    """Return 1 if any generated file is out of date, and print its name."""
    stale = []
    for name in ("parameters", "errors", "commands", "dashboard", "api"):
        module = importlib.import_module(name)
        target: Path = getattr(module, "PAGE", None) or module.TARGET
        if target.read_text() != module.page():
            stale.append(str(target))
    for path in stale:
        print(f"{path} is out of date: run make generate", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
