#!/usr/bin/env bash
# Sets up, builds and runs every test: the release build, then the in-process tests under AddressSanitizer and
# UndefinedBehaviorSanitizer, then the threaded parts under ThreadSanitizer, then the CUDA backend on an emulator. Ends with ctest's summaries and the campaign
# counts. Usage: scripts/test.sh [--long]   (--long adds the checks that CI cannot afford: the simulation campaign against
# every mutant, its long form, kills by the hundred, fuzzing)
set -euo pipefail
cd "$(dirname "$0")/.."

long=0
for argument in "$@"; do
  case "$argument" in
    --long) long=1 ;;
    *) printf 'usage: scripts/test.sh [--long]\n' >&2; exit 2 ;;
  esac
done

scripts/setup.sh
jobs=$(nproc)
mkdir -p build/logs
failed=0
summaries=()

# run_suite NAME PRESET TARGET CTEST_ARGUMENTS...: builds the target of the preset, runs tests, keeps the summary.
run_suite() {
  local name=$1 preset=$2 target=$3
  shift 3
  local folder=build
  [ "$preset" = cpu-release ] || folder=build/$preset
  printf '\n== %s\n' "$name"
  cmake --preset "$preset" >"build/logs/$preset.configure.log" 2>&1 || { cat "build/logs/$preset.configure.log"; return 1; }
  cmake --build "$folder" -j "$jobs" --target "$target" >"build/logs/$preset.build.log" 2>&1 || { tail -n 60 "build/logs/$preset.build.log"; return 1; }
  local status=0
  ctest --test-dir "$folder" -j "$jobs" --output-on-failure --no-tests=error "$@" 2>&1 | tee "build/logs/$preset.ctest.log" || status=1
  cp -f "$folder/Testing/Temporary/LastTest.log" "build/logs/$preset.output.log"
  summaries+=("$(printf '%-12s %s' "$name" "$(grep 'tests passed' "build/logs/$preset.ctest.log" || printf 'no summary')")")
  return "$status"
}

long_pattern=()
[ "$long" = 1 ] || long_pattern=(-LE long)
run_suite release cpu-release all "${long_pattern[@]}" || failed=1
run_suite asan+ubsan cpu-asan in_process_tests -L 'unit|reference|property' -LE long || failed=1
run_suite tsan cpu-tsan threaded_tests -L tsan || failed=1
# CUDA needs its compiler and no GPU: kernels run on an emulator, attention is planned for sm_90.
if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  run_suite cuda cuda-release cuda_tests -L cuda || failed=1
else
  summaries+=("$(printf '%-12s %s' cuda 'skipped: no nvcc')")
fi
[ "$long" = 0 ] || run_suite mutants cpu-mutants mutants_test -L mutants || failed=1
[ "$long" = 0 ] || run_suite fuzz cpu-fuzz fuzz_targets -L fuzz || failed=1

printf '\n== campaigns\n'
for preset in cpu-release cpu-asan cpu-tsan cuda-release cpu-mutants cpu-fuzz; do
  [ -r "build/logs/$preset.output.log" ] || continue
  # A test prints its counts as "campaign: ..." lines.
  sed -n "s/^.*campaign: /  $preset: /p" "build/logs/$preset.output.log" | sort -u
done
printf '\n== bundles\n'
sed -nE 's/^(bundle: |(skipped: no bare root))/  \2/p' build/logs/cpu-release.output.log
printf '\n== summary\n'
printf '  %s\n' "${summaries[@]}"
exit "$failed"
