#!/usr/bin/env bash
# Try impasto with every supported Python that is installed: the client with all of them, the server with SERVER (default 3.13), which needs
# torch for it (3 GB of downloads). Called by `make test-pythons`.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=".venv/bin/uv"
venv=.venv-python
server=${SERVER-3.13}

# A Python by its version: from the PATH, else pyenv's.
find_python() {
    for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        "$python" -c 'import sys; print(sys.executable)' 2>/dev/null && return 0
    done
    return 1
}

install() { $uv pip install --quiet --python $venv/bin/python "$@"; }

for version in 3.11 3.12 3.13 3.14; do
    python=$(find_python "$version") || { echo "Python $version: not installed"; continue; }
    $uv venv --quiet --clear --seed --python "$python" $venv
    install --constraint requirements/run.txt .
    $venv/bin/python -W error -c 'import impasto'
    $venv/bin/python -W error -m impasto --help >/dev/null
    $venv/bin/python -W error -m impasto proto --output $venv/protos >/dev/null
    install --constraint requirements/run.txt '.[web,webhooks,heif]' # schemathesis needs some of their libraries
    install --require-hashes --no-deps --requirement requirements/demo.txt --requirement requirements/dev.txt
    install --constraint requirements/run.txt numpy psutil
    if [ "$version" != "$server" ]; then
        echo "Python $version: the client's tests"
        $venv/bin/python -m pytest tests/unit/client -q --numprocesses 2 --dist worksteal -p no:cacheprovider
    else
        install --require-hashes --requirement requirements/run.txt --requirement requirements/torch.txt
        echo "Python $version: the fast tests, the client's among them"
        $venv/bin/python -m pytest tests/unit -q -m "not gpu and not slow" --numprocesses 2 --dist worksteal -p no:cacheprovider
    fi
done
rm -rf $venv
