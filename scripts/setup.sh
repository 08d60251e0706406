#!/usr/bin/env bash
# Installs everything elaswave needs to build and test on Debian 12. Idempotent: what is there already is left alone.
# Needs root or sudo. On any other system it prints the package list and stops.
set -euo pipefail

packages=(
  build-essential g++ cmake ninja-build ccache git pkg-config     # compiler and build
  libopenmpi-dev openmpi-bin                                      # transport between ranks
  libhdf5-dev                                                     # state dumps and checkpoints (C API)
  libdnnl-dev                                                     # oneDNN: matrix products on the CPU
  libcli11-dev libspdlog-dev libfmt-dev                           # command line, log
  libtomlplusplus-dev nlohmann-json3-dev                          # configuration files, JSONL
  libexpected-dev libasio-dev                                     # Result<T>, control links
  libgtest-dev libgmock-dev librapidcheck-dev                     # tests
  clang-format clang-tidy                                         # lint
  python3 python3-h5py python3-numpy                              # checks from outside, tests only
)

say() { printf 'setup: %s\n' "$*"; }

if ! [ -r /etc/os-release ] || ! grep -q '^ID=debian' /etc/os-release || ! grep -q '^VERSION_ID="12"' /etc/os-release; then
  say "this is not Debian 12; install the equivalents of these packages, then run cmake:"
  printf '  %s\n' "${packages[@]}"
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  say "all ${#packages[@]} packages are installed"
else
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { say "needs root or sudo to install: ${missing[*]}"; exit 1; }
    as_root=(sudo)
  fi
  say "installing ${#missing[@]} packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  say "CUDA toolkit found: the CUDA backend can be built"
else
  say "no CUDA toolkit found (nvcc): the CPU backend is built alone"
fi
