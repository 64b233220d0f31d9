#!/usr/bin/env bash
# Are the committed stubs what the contract makes, does buf like the contract, and does it break nothing that has landed?
set -euo pipefail
stubs=client/impasto/v1
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp -r "$stubs" "$before/"
"$MAKE" --no-print-directory proto >/dev/null
if ! diff -r --exclude=__pycache__ "$before/v1" "$stubs"; then
  echo "the stubs were not up to date; they are now: commit them" >&2
  exit 1
fi
echo "stubs up to date"
if ! command -v npm >/dev/null; then
  echo "no npm here: buf was not run"
  exit 0
fi
"$MAKE" --no-print-directory "$NODE_DIR/node_modules/.installed"
buf="$NODE_DIR/node_modules/.bin/buf"
"$buf" lint
if [ -n "${BASE:-}" ] && git cat-file -e "$BASE:proto/impasto/v1/style_transfer.proto" 2>/dev/null; then
  "$buf" breaking --against ".git#ref=$BASE"
  echo "contract breaks nothing since $BASE"
fi
