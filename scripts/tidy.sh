#!/usr/bin/env bash
# clang-tidy with .clang-tidy over the sources of a configured build folder, two at a time.
#   scripts/tidy.sh [--build DIR] [--all | --since REVISION]
# The .cpp files that differ from the last commit, or from REVISION, and those that are new; with --all every file the
# build folder compiles. DIR is build by default and must hold compile_commands.json. Exit 1 when there is a finding.
set -euo pipefail
cd "$(dirname "$0")/.."

build=build scope=changed since=HEAD
while [ $# -gt 0 ]; do
  case $1 in
    --all) scope=all ;;
    --since)
      [ $# -ge 2 ] || { echo "tidy: --since takes a revision" >&2; exit 2; }
      since=$2
      shift
      ;;
    --build)
      [ $# -ge 2 ] || { echo "tidy: --build takes a folder" >&2; exit 2; }
      build=$2
      shift
      ;;
    *)
      echo "usage: scripts/tidy.sh [--build DIR] [--all | --since REVISION]" >&2
      exit 2
      ;;
  esac
  shift
done
if ! [ -f "$build/compile_commands.json" ]; then
  echo "tidy: no $build/compile_commands.json" >&2
  echo "  why: the folder was not configured" >&2
  echo "  fix: cmake --preset cpu-release, or name another folder with --build" >&2
  exit 2
fi

compiled() {  # paths of our own .cpp files that the build knows, relative to the root
  python3 - "$build/compile_commands.json" "$PWD" <<'PYTHON'
import json
import os
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    entries = json.load(file)
root = os.path.realpath(sys.argv[2])
paths = {os.path.realpath(os.path.join(entry["directory"], entry["file"])) for entry in entries}
inside = {os.path.relpath(path, root) for path in paths if path.startswith(root + os.sep) and path.endswith(".cpp")}
print("\n".join(sorted(path for path in inside if path.split("/")[0] in ("app", "elastic", "model", "parallel", "io", "tests"))))
PYTHON
}
changed() {
  { git diff --name-only --diff-filter=d "$since" -- '*.cpp' 2>/dev/null || true
    git ls-files --others --exclude-standard -- '*.cpp'; } | sort -u
}

if [ "$scope" = all ]; then
  mapfile -t files < <(compiled)
else
  mapfile -t files < <(comm -12 <(compiled | sort) <(changed | sort))
fi
if [ ${#files[@]} -eq 0 ] || [ -z "${files[0]}" ]; then
  echo "tidy: nothing to check"
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# clang 14 lacks the builtin that libstdc++'s std::source_location stands on, so there the type is missing.
cat >"$work/source_location.h" <<'HEADER'
#if !__has_builtin(__builtin_source_location)
namespace std {
struct source_location {
  static constexpr source_location current() { return {}; }
  constexpr const char* file_name() const { return ""; }
  constexpr const char* function_name() const { return ""; }
  constexpr unsigned line() const { return 0; }
  constexpr unsigned column() const { return 0; }
};
}  // namespace std
#endif
HEADER
echo "tidy: ${#files[@]} files"
# gcc-only flags and attributes are unknown to clang; what clang cannot judge is not a finding.
printf '%s\0' "${files[@]}" | xargs -0 -n 1 -P 2 clang-tidy -p "$build" --quiet \
  --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-unknown-attributes --extra-arg=-Qunused-arguments \
  --extra-arg=-include"$work/source_location.h" || { echo "tidy: there are findings" >&2; exit 1; }
echo "tidy: no findings"
