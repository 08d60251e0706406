#!/usr/bin/env bash
# Writes the option table of the binary into README.md, between its markers; with --check says whether it is there.
# Usage: scripts/readme_table.sh [--check] [BINARY]     (BINARY: build/elaswave)
set -euo pipefail
cd "$(dirname "$0")/.."

check=0
if [ "${1-}" = --check ]; then
  check=1
  shift
fi
binary=${1-build/elaswave}
table=$(mktemp)
trap 'rm -f "$table" "$table.readme"' EXIT
"$binary" help-markdown >"$table"
awk -v table="$table" '
  /^<!-- options:begin -->$/ { while ((getline line < table) > 0) print line; inside = 1 }
  !inside { print }
  /^<!-- options:end -->$/ { inside = 0 }' README.md >"$table.readme"
if [ "$check" = 1 ]; then
  diff -u README.md "$table.readme" || { echo "readme_table: run scripts/readme_table.sh" >&2; exit 1; }
else
  cp "$table.readme" README.md
fi
