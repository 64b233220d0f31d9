#!/usr/bin/env bash
# Checks the files of deploy/ with their own tools. Those that pip installs always run; kubectl, compose and promtool where they
# are.
set -euo pipefail
cd "$(dirname "$0")/../deploy"
"$BIN/check-jsonschema" --quiet --builtin-schema vendor.compose-spec compose.yml compose.gpu.yml
"$BIN/kubernetes-validate" --quiet --strict kubernetes/cpu/impasto.yaml kubernetes/cpu/networkpolicy.yaml \
  ray/networkpolicy.yaml ray/poddisruptionbudget.yaml
checked="compose-spec's schema, Kubernetes' schemas"
if command -v kubectl >/dev/null; then
  rendered=$(mktemp)
  trap 'rm -f "$rendered"' EXIT
  for variant in kubernetes/cpu kubernetes/gpu ray; do
    kubectl kustomize "$variant" | sed '/^apiVersion: ray.io/,$d' >"$rendered" # no schema for KubeRay's kind, which comes last
    "$BIN/kubernetes-validate" --quiet --strict "$rendered"
  done
  checked+=", kustomize"
fi
for compose in "docker compose" docker-compose; do
  if $compose version >/dev/null 2>&1; then
    $compose -f compose.yml -f compose.gpu.yml config --quiet
    checked+=", $compose"
  fi
done
if command -v promtool >/dev/null; then
  promtool check rules --lint-fatal prometheus/alerts.yml >/dev/null
  checked+=", promtool"
fi
echo "deploy/ is sound: $checked"
