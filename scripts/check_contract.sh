#!/usr/bin/env bash
# Checks that the committed stubs match the contract, that buf lint accepts it, and that it breaks nothing in $BASE.
set -euo pipefail
stubs=(client/impasto/v1 client/impasto/worker)
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp -r "${stubs[@]}" "$before/"
"$MAKE" --no-print-directory proto >/dev/null
for folder in "${stubs[@]}"; do
  if ! diff -r --exclude=__pycache__ "$before/$(basename "$folder")" "$folder"; then
    echo "the stubs were out of date and have been regenerated: commit them" >&2
    exit 1
  fi
done
echo "stubs up to date"
if ! command -v npm >/dev/null; then
  echo "npm is not installed: skipping buf"
  exit 0
fi
"$MAKE" --no-print-directory "$NODE_DIR/node_modules/.installed"
buf="$NODE_DIR/node_modules/.bin/buf"
"$buf" lint
if [ -n "${BASE:-}" ] && git cat-file -e "$BASE:proto/impasto/v1/style_transfer.proto" 2>/dev/null; then
  "$buf" breaking --against ".git#ref=$BASE"
  echo "no breaking changes in the contract since $BASE"
fi
