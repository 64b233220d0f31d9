#!/usr/bin/env bash
# Collects in .gpu/wheels what a bare machine with torch for CUDA lacks: impasto itself and the libraries and test tools in the
# locked versions, as wheels for its Python. Such a machine has no package index; scripts/gpu_check.sh installs them there.
# GPU_PYTHON: the machine's Python version; GPU_MACHINE: its processor.
set -euo pipefail
python="${BIN:-.venv/bin}/python"
version="${GPU_PYTHON:-3.12}" machine="${GPU_MACHINE:-x86_64}"
names=(grpcio grpcio-status grpcio-health-checking grpcio-reflection protobuf googleapis-common-protos platformdirs msgspec
    simplejpeg cryptography cffi pycparser click rich markdown-it-py mdurl pygments jaxtyping wadler-lindig psutil
    prometheus-client nvidia-ml-py safetensors pillow typing-extensions
    beartype pytest pytest-asyncio pytest-timeout pluggy iniconfig packaging hypothesis sortedcontainers)
locked=()
for name in "${names[@]}"; do
    found=$(cat requirements/run.txt requirements/torch.txt requirements/demo.txt requirements/dev.txt |
        grep -iE "^${name}==" | head -1 | grep -oE '^[^ ;\\]+' || true)
    [ -n "$found" ] || { echo "$name is in no file of requirements/" >&2; exit 1; }
    locked+=("$found")
done
rm -rf .gpu/wheels
mkdir -p .gpu/wheels
platforms=()
for glibc in 39 35 34 31 28 27 26 24 17 12 5; do platforms+=(--platform "manylinux_2_${glibc}_${machine}"); done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
    "${platforms[@]}" --platform "manylinux2014_${machine}" --platform "manylinux2010_${machine}" --platform "manylinux1_${machine}" \
    --dest .gpu/wheels "${locked[@]}"
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir .gpu/wheels .
du -sh .gpu/wheels
