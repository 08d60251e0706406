#!/usr/bin/env bash
# clang-format over every C++ file of the tree, tracked or new.
#   scripts/format.sh            rewrites what differs, names it
#   scripts/format.sh --check    changes nothing; names what differs and exits 1
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-write}
case $mode in
  write | --check) ;;
  *)
    echo "usage: scripts/format.sh [--check]" >&2
    exit 2
    ;;
esac
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  list() { git ls-files -z --cached --others --exclude-standard -- '*.h' '*.cpp' '*.cu' '*.cuh'; }
else
  list() { find app elastic model parallel io tests -regex '.*\.\(h\|cpp\|cu\|cuh\)' -print0; }
fi

files=() different=()
while IFS= read -r -d '' file; do
  [ -f "$file" ] && files+=("$file")  # a deleted file is still listed
done < <(list | sort -zu)
[ ${#files[@]} -gt 0 ] || { echo "format: no C++ files"; exit 0; }
while IFS= read -r line; do
  different+=("${line%%:*}")
done < <(printf '%s\0' "${files[@]}" | xargs -0 -n 16 -P 2 clang-format --dry-run -Werror 2>&1 |
  sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: error: .*/\1:/p' | sort -u)

if [ ${#different[@]} -eq 0 ]; then
  echo "format: ${#files[@]} files, all as clang-format writes them"
elif [ "$mode" = --check ]; then
  printf 'format: differs: %s\n' "${different[@]}"
  echo "format: ${#different[@]} of ${#files[@]} files differ; run scripts/format.sh"
  exit 1
else
  clang-format -i "${different[@]}"
  printf 'format: rewrote %s\n' "${different[@]}"
fi
