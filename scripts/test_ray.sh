#!/usr/bin/env bash
# Run the tests with real Ray clusters on loopback. Ray writes below HOME and RAY_TMPDIR, whose paths must be short: they hold Unix sockets.
set -euo pipefail
folder=$(mktemp -d /tmp/impasto-ray.XXXXXX)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/home" "$folder/ray"
export HOME=$folder/home RAY_TMPDIR=$folder/ray
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_USAGE_STATS_ENABLED=0 # 127.0.0.1 only; no reports
.venv/bin/pytest -m ray tests/integration/test_ray.py --timeout 300 "$@"
