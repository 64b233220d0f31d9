#!/usr/bin/env bash
# Run the fast tests with the oldest versions of the libraries that pyproject.toml admits. Called by `make test-lowest`.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=".venv/bin/uv"
venv=.venv-lowest
$uv venv --quiet --clear --seed --python "$(.venv/bin/python -c 'import sys; print(sys.executable)')" $venv
$uv pip install --quiet --python $venv/bin/python --require-hashes --requirement requirements/lowest.txt
$uv pip install --quiet --python $venv/bin/python --no-deps --require-hashes --requirement requirements/demo.txt --requirement requirements/dev.txt
$uv pip install --quiet --python $venv/bin/python --no-deps .
# Every module is imported once with warnings as errors.
$venv/bin/python -W error -c 'import impasto, impasto.cli.main, impasto.cli.load, impasto.cli.web, impasto_engine.painting, impasto_server.app, impasto_server.cli, impasto_server.weights_cli'
$venv/bin/python -m pytest tests/unit -m "not gpu and not slow" --numprocesses 2 --dist worksteal -p no:cacheprovider "$@"
rm -rf $venv
