#!/bin/sh
# simd_symbols.sh NM OBJECT...: objects built for one instruction set may define nothing for the linker to share. Weak,
# unique and common symbols (inline functions, templates, their statics) are refused, and so is any global whose name does
# not end its instruction set. See model/kernels/simd.h.
set -eu
nm=$1
shift
[ $# -gt 0 ] || { echo "no objects given" >&2; exit 2; }
status=0
for object in "$@"; do
  case $object in
    *avx512*) isa=avx512 ;;
    *avx2*) isa=avx2 ;;
    *) echo "$object: not an object of one instruction set" >&2; exit 2 ;;
  esac
  symbols=$("$nm" --defined-only --extern-only --format=posix "$object")
  [ -n "$symbols" ] || { echo "$object: exports nothing" >&2; status=1; }
  bad=$(printf '%s\n' "$symbols" | awk -v isa="_$isa" '$2 !~ /^[TDRB]$/ || index($1, isa) == 0 { print "  " $1 " (" $2 ")" }')
  if [ -n "$bad" ]; then
    printf '%s: symbols another machine could end up with:\n%s\n' "$object" "$bad" >&2
    status=1
  fi
done
exit $status
