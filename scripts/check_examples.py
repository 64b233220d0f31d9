"""Check the types of the Python in the documents and in examples/ with `mypy --strict`. Run by `make lint`.

Each block of a page is a module of its own, so that it can be copied as it is. `await` may stand outside of a function, as in a
notebook.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the line before each block of Python of a page, and the block."""
    text = page.read_text()
    for match in BLOCK.finditer(text):
        yield text.count("\n", 0, match.start(1)), match[1]


def main() -> int:
    """Return mypy's exit code; what it prints names the pages."""
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for page in PAGES:
            for line, block in blocks(page):
                target = Path(folder) / f"block_{len(names)}.py"
                target.write_text("\n" * line + block)  # so that mypy's line numbers are the page's
                names[str(target)] = str(page.relative_to(ROOT))
        examples = [str(path) for path in sorted((ROOT / "examples").rglob("*.py")) if "node_modules" not in path.parts]
        options = ["--strict", "--disable-error-code", "top-level-await", "--config-file", str(ROOT / "pyproject.toml")]
        command = [sys.executable, "-m", "mypy", *options, "--no-error-summary", *names, *examples]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    for target, page_name in names.items():
        said = re.sub(rf"\S*{re.escape(Path(target).name)}", page_name, said)
    print(said, end="")
    print(f"{len(names)} blocks of Python in the documents and {len(examples)} examples were checked")
    return done.returncode if names and examples else 1


if __name__ == "__main__":
    sys.exit(main())
