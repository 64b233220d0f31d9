#!/usr/bin/env bash
# Runs a part or a call of benchmarks/gpu.py on a machine with a GPU, from the repository's root:
#
#     bash scripts/gpu_check.sh first FOLDER
#
# Where .gpu/wheels lies beside the sources, they are installed into a temporary folder first (make gpu-check collects them);
# torch, numpy and scikit-image are the machine's own. Otherwise .venv is used.
set -euo pipefail
what="${1:-first}" out="${2:-benchmarks/results}"
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}" PYTHONUNBUFFERED=1
if [ -d .gpu/wheels ]; then
    site=$(mktemp -d)
    python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" .gpu/wheels/*.whl
    export PYTHONPATH="$site:$PWD"
    python=python3
else
    python=.venv/bin/python
fi
nvidia-smi --query-gpu=name,uuid,driver_version,memory.total,clocks.sm,clocks.mem --format=csv || true
"$python" -c "import sys, torch; print(sys.version.split()[0], torch.__version__, torch.cuda.is_available())"
command -v cc gcc nvcc || echo "no compiler: nothing here may need Triton or torch.compile"
"$python" benchmarks/gpu.py "$what" --out "$out"
