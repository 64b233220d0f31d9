"""Write the locked requirements in requirements/: exact versions with hashes, for every supported Python. Run by `make update`.

build.txt has what installs the rest, run.txt all libraries except torch, torch.txt torch with CUDA, demo.txt the photographs
of the demo, dev.txt the developers' tools, ray.txt Ray for servers with a cluster, lowest.txt the oldest versions that
pyproject.toml admits, for `make test-lowest`. torch is apart because builds for the CPU come from elsewhere, with other
hashes. uv resolves; pip's constraints are respected.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
EXTRAS = ("server", "weights", "load", "webhooks", "heif", "web", "otel")
BUILD = ("pip", "hatchling>=1.24", "editables")
PYTHON = "3.11"
"""The oldest supported Python; newer ones get their own lines where they need other versions."""
HEAD = "# Written by `make update`; do not edit. {}\n"
TITLES = {
    "build.txt": "pip, and what builds impasto itself.",
    "run.txt": "All libraries except torch.",
    "torch.txt": "torch and torchvision with CUDA, for Linux.",
    "demo.txt": "The photographs of `make demo`.",
    "lowest.txt": "The oldest versions that pyproject.toml admits, with torch.",
    "ray.txt": "Ray, for servers with a cluster and for `make test-ray`.",
    "dev.txt": "Tools of developers and of `make test`.",
}
_OF_TORCH = re.compile(r"(torch|torchvision|triton|cuda-.*|nvidia-(?!ml-py).*)==")


def main() -> None:
    """Write all files."""
    constraints = _constraints()
    sources = [str(ROOT / "pyproject.toml"), *(part for extra in EXTRAS for part in ("--extra", extra))]
    run = _resolved(sources, constraints)
    demo = _resolved([*sources, *_group("demo")], constraints, run)
    ray = _resolved([*sources, "--extra", "ray"], constraints, demo)
    both = {block.partition("==")[0]: block for block in (*demo, *ray)}
    dev = _resolved([*sources, *_group("dev")], constraints, list(both.values()))
    with tempfile.NamedTemporaryFile("w", suffix=".in") as wanted:
        wanted.write("\n".join(BUILD))
        wanted.flush()
        build = _resolved([wanted.name], constraints)
    _write("build.txt", build)
    _write("lowest.txt", _resolved(sources, constraints, lowest=True))
    _write("run.txt", [block for block in run if not _OF_TORCH.match(block)])
    _write("torch.txt", [block for block in run if _OF_TORCH.match(block)])
    _write("demo.txt", _added(demo, run))
    _write("dev.txt", _added(dev, demo))
    _write("ray.txt", _added(ray, run))


def _group(name: str) -> tuple[str, str]:
    return "--group", f"{ROOT / 'pyproject.toml'}:{name}"


def _added(blocks: list[str], before: list[str]) -> list[str]:
    known = {block.partition("==")[0] for block in before}
    return [block for block in blocks if block.partition("==")[0] not in known]


def _constraints() -> list[str]:
    """Return pip's constraint files of this machine."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [path for value in re.findall(r"^\S+\.constraint='(.*)'$", listed, re.MULTILINE) for path in value.split()]


def _resolved(
    sources: list[str], constraints: list[str], pinned: list[str] | None = None, *, lowest: bool = False
) -> list[str]:
    """Return a block for each package: its name, version and marker, and a line for each hash. Pinned versions stay."""
    options = ["--universal", "--python-version", PYTHON, "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
    if lowest:
        options = ["--resolution", "lowest-direct", "--python-version", PYTHON, *options[3:]]
    limits = [part for path in constraints for part in ("--constraint", path)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
        kept.write("\n".join(block.partition(" \\\n")[0] for block in pinned or ()))
        kept.flush()
        command = [sys.executable, "-m", "uv", "pip", "compile", *sources, *options, *limits, "--constraint", kept.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return re.split(r"\n(?=[a-z0-9])", done.stdout.strip())


def _write(name: str, blocks: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / name).write_text(HEAD.format(TITLES[name]) + "\n".join(blocks) + "\n")
    print(f"{FOLDER / name}: {len(blocks)} packages")


if __name__ == "__main__":
    main()
