#!/usr/bin/env bash
# Puts elaswave and everything that it needs into a folder and an archive of it (DIR.tar.gz) for clusters without packages: any
# Linux with glibc of this machine's version or newer and /bin/sh. The host's Open MPI is taken along, with launcher and plugins.
# Usage: scripts/bundle.sh --thin|--full DIR [--binary FILE] [--programs FILES] [--cuda DIRS]
#   --thin         leaves CUDA libraries to the host; at most 50 MiB to carry
#   --full         brings the CUDA libraries that the binary needs; the driver always is the host's
#   --binary FILE  instead of build/elaswave
#   --programs FILES  tests and benchmarks as well, `:` between them, and the scripts that run them where there is a GPU
#   --cuda DIRS    where CUDA libraries are, `:` between directories: on the hosts (thin), on this machine (full)
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)

readonly kThinLimit=$((50 * 1024 * 1024))
# Every system with glibc has these, and they work only with each other.
readonly kGlibc='^(ld-linux.*|(libc|libm|libmvec|libdl|librt|libpthread|libresolv|libutil|libnsl|libanl|libnss_.*)\.so\..*)$'
readonly kCuda='^lib(cuda|cudart|cublas|cublasLt|cudnn.*|nccl|nvrtc.*|nvJitLink|nvToolsExt|nvidia-ml)\.so'
readonly kDriver='^lib(cuda|nvidia-ml)\.so'
# Plugins that stay here: OpenSHMEM and MPI-IO, which we never call, and fabrics, which Debian's configuration turns off and whose
# behaviour after a failure nobody tried. Messages travel through shared memory and TCP.
readonly kDropped='^mca_((atomic|memheap|scoll|spml|sshmem|fbtl|fcoll|fs|io|sharedfp|mtl)_.*|.*_(ucx|ofi|openib|monitoring|flux|jsm))\.so$'
# Compiled into the binary, so no shared library leads to their licences.
readonly kCompiledIn=(libcli11-dev libexpected-dev libasio-dev nlohmann-json3-dev libtomlplusplus-dev libspdlog-dev libfmt-dev)

die() { printf 'bundle: %s\n' "$*" >&2; exit 1; }
say() { printf 'bundle: %s\n' "$*"; }
usage() { sed -n '4,9s/^# //p' "$0" >&2; exit 2; }

mode='' target='' binary=$scripts/../build/elaswave programs='' cuda=''
while [ $# -gt 0 ]; do
  case $1 in
    --thin | --full) mode=${1#--}; target=${2-}; shift ;;
    --binary) binary=${2-}; shift ;;
    --programs) programs=${2-}; shift ;;
    --cuda) cuda=${2-}; shift ;;
    *) usage ;;
  esac
  shift || usage
done
if [ -z "$mode" ] || [ -z "$target" ]; then usage; fi
[ -x "$binary" ] || die "there is no $binary: build elaswave first, or name it with --binary"
[ ! -e "$target" ] || [ -z "$(ls -A "$target")" ] || die "$target is not empty: choose another folder or remove it"
mkdir -p "$target"
target=$(cd "$target" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/origins" # "SOURCE TARGET" of each file taken from this system
: >"$work/cuda"    # "NAME SOURCE" of each CUDA library; SOURCE is - when it is not on this machine

# put SOURCE TARGET [MODE]: one file of this system into the bundle.
put() {
  install -D -m "${3:-644}" "$1" "$target/$2"
  printf '%s %s\n' "$(readlink -f "$1")" "$2" >>"$work/origins"
}

# take_libraries FILE...: all shared libraries that the files lead to, except those of the host.
take_libraries() {
  local name path
  while read -r name path; do
    if [[ $name =~ $kGlibc || $name == linux-vdso* ]]; then continue; fi
    if [[ $name =~ $kCuda ]]; then
      printf '%s %s\n' "$name" "$(cuda_file "$name" "$path")" >>"$work/cuda"
    elif [ "$path" = - ]; then
      die "$name is needed, but not on this machine"
    elif [ ! -e "$target/lib/$name" ]; then
      put "$path" "lib/$name"
    fi
  done < <(ldd "$@" | sed -nE 's/^\s*(\S+) => not found$/\1 -/p; s/^\s*(\S+) => (\S+) \(.*$/\1 \2/p' | sort -u)
}

# cuda_file NAME PATH: where the library is on this machine; the folders of --cuda come first.
cuda_file() {
  local folder
  while read -r -d : folder; do
    if [ -f "$folder/$1" ]; then printf '%s\n' "$folder/$1"; return; fi
  done <<<"${cuda:+$cuda:}"
  printf '%s\n' "$2"
}

# take_program FILE NAME
take_program() {
  put "$1" "libexec/$2" 755
  take_libraries "$1"
  strip --strip-unneeded "$target/libexec/$2"
  "$scripts/bundle/set_rpath.py" "\$ORIGIN/../lib" "$target/libexec/$2"
  install -D -m 755 "$scripts/bundle/start.sh" "$target/bin/$2"
}

take_programs() {
  local name program
  take_program "$binary" elaswave
  for name in bin/mpirun bin/orted openmpi/bin/orted; do
    install -D -m 755 "$scripts/bundle/start.sh" "$target/$name"
  done
  [ -n "$programs" ] || return 0
  while read -r -d : program; do
    [ -n "$program" ] || continue
    [ -x "$program" ] || die "there is no $program: build it first"
    [ ! -e "$target/libexec/${program##*/}" ] || die "two programs are called ${program##*/}"
    take_program "$program" "${program##*/}"
  done <<<"$programs:"
  # All of Python's standard library, so they need nothing of the bundle's.
  for name in "$scripts"/gpu/*.py "$scripts"/bench_pytorch.py "$scripts"/same_steps.py; do
    install -D -m 755 "$name" "$target/scripts/${name#"$scripts"/}"
  done
}

take_openmpi() {
  local version prefix plugins texts plugin
  version=$(mpirun --version | sed -n '1s/^.*(Open MPI) //p') || true
  [[ $version == 4.1.* ]] || die "needs Open MPI 4.1, this machine has '${version:-none}'"
  prefix=$(ompi_info --parsable --path prefix | cut -d: -f3)
  plugins=$(ompi_info --parsable --path pkglibdir | cut -d: -f3)
  texts=$(ompi_info --parsable --path pkgdatadir | cut -d: -f3)
  put "$(readlink -f "$(command -v mpirun)")" openmpi/bin/mpirun 755
  put "$(readlink -f "$(command -v orted)")" openmpi/libexec/orted 755
  "$scripts/bundle/set_rpath.py" "\$ORIGIN/../../lib" "$target/openmpi/bin/mpirun" "$target/openmpi/libexec/orted"
  # Where OPAL_PREFIX will look for them: same place below the prefix.
  local taken=()
  for plugin in "$plugins"/mca_*.so; do
    if [[ ${plugin##*/} =~ $kDropped ]]; then continue; fi
    put "$plugin" "openmpi${plugins#"$prefix"}/${plugin##*/}"
    taken+=("$plugin")
  done
  take_libraries "$(command -v mpirun)" "$(command -v orted)" "${taken[@]}"
  put_texts "$texts" "openmpi${texts#"$prefix"}"
  put "$(ompi_info --parsable --path sysconfdir | cut -d: -f3)/openmpi-mca-params.conf" openmpi/etc/openmpi-mca-params.conf
  take_pmix
}

# put_texts FOLDER TARGET: what Open MPI's programs say when something is wrong.
put_texts() {
  local text
  for text in "$1"/help-*.txt; do put "$text" "$2/${text##*/}"; done
}

take_pmix() {
  local folder plugin
  folder=$(dirname "$(readlink -f "$(sed -n 's|^\(\S*\) lib/libpmix\.so\.2$|\1|p' "$work/origins")")")
  for plugin in "$folder"/pmix/*.so; do put "$plugin" "openmpi/pmix/lib/${plugin##*/}"; done
  take_libraries "$folder"/pmix/*.so
  put_texts "$folder/../share/pmix" openmpi/pmix/share
}

# full_version FILE: what stands behind .so. in the library's real name, `-` when that is only the major version.
full_version() {
  local version
  version=$(readlink -f "$1")
  version=${version##*.so.}
  [[ $version =~ ^[0-9]+(\.[0-9]+)+$ ]] || version=-
  printf '%s\n' "$version"
}

# The binary's own needs are known from its file. cuDNN loads its parts by name, as it and cuBLASLt do with the run-time compiler.
take_cuda() {
  local name file part
  sort -u "$work/cuda" -o "$work/cuda"
  if ! grep -vqE "$kDriver" "$work/cuda"; then
    cuda_line="none: the binary has no CUDA backend, so thin and full are the same"
    return
  fi
  cuda_line="$(cut -d' ' -f1 "$work/cuda" | tr '\n' ' ')$([ "$mode" = full ] && printf 'included' || printf 'on the host')"
  mkdir -p "$target/lib/cuda"
  while read -r name file; do
    if [[ $name =~ $kDriver ]]; then continue; fi
    if [ "$mode" = thin ]; then
      printf '%s %s\n' "$name" "$(full_version "$file")" >>"$target/lib/cuda/needed"
      continue
    fi
    [ "$file" != - ] || die "$name is not on this machine: name its folder with --cuda"
    put "$file" "lib/$name"
    # NVIDIA's packages for Python keep the run-time compiler beside cuBLASLt, the toolkit keeps all in one folder.
    for part in "$(dirname "$file")"/lib{cudnn_*,nvrtc,nvrtc-builtins}.so.*; do
      if [[ $name == lib@(cudnn|cublasLt).so.* && -f $part && ! -e $target/lib/${part##*/} ]]; then
        put "$part" "lib/${part##*/}"
      fi
    done
  done <"$work/cuda"
  if compgen -G "$target/lib/libcudnn_graph.so.*" >/dev/null && ! compgen -G "$target/lib/libnvrtc.so.*" >/dev/null; then
    die "cuDNN compiles attention with libnvrtc.so, which lies beside neither cuDNN nor cuBLASLt"
  fi
  if [ "$mode" = full ]; then
    say "NVIDIA's licence allows to pass on its libraries under conditions; its text is not in the bundle"
    return
  fi
  printf '%s\n' "$cuda" >"$target/lib/cuda/path"
  install -m 644 "$scripts/bundle/find_cuda.sh" "$target/lib/cuda/find.sh"
}

# A search path in a library would switch off that of the program. CUDA libraries stay as NVIDIA made them.
clear_search_paths() {
  local file ours=()
  while read -r file; do
    [[ ${file##*/} =~ $kCuda ]] || ours+=("$file")
  done < <(find "$target/lib" "$target/openmpi" -name '*.so*' -type f)
  "$scripts/bundle/set_rpath.py" '' "${ours[@]}"
}

# Debian's copyright file of every package that something comes from, and the licences which they refer to.
take_licences() {
  local package
  # /lib is /usr/lib, and dpkg knows each file under one of the two names.
  cut -d' ' -f1 "$work/origins" | sort -u | sed 'p; s|^/usr/lib/|/lib/|; s|^/usr/bin/|/bin/|' | sort -u |
    xargs dpkg -S 2>/dev/null | sed 's/: .*$//' | tr ',' '\n' | sed 's/^ *//' | sort -u >"$work/packages" || true
  for package in "${kCompiledIn[@]}"; do dpkg-query -W -f='${binary:Package}\n' "$package"; done >>"$work/packages" 2>/dev/null || true
  sort -u "$work/packages" -o "$work/packages"
  mkdir -p "$target/licences"
  while read -r package; do
    install -m 644 "/usr/share/doc/${package%:*}/copyright" "$target/licences/${package%:*}.copyright"
  done <"$work/packages"
  find /usr/share/common-licenses -type f -exec install -m 644 {} "$target/licences/" \;
}

# In the format of sha256sum, which skips lines that begin with #.
write_manifest() {
  local package glibc
  glibc=$(find "$target" -type f \( -name '*.so*' -o -path '*/libexec/*' -o -path '*/openmpi/bin/mpirun' \) -exec readelf -V {} + |
    grep -oE '\bGLIBC_[0-9.]+' | sort -uV | tail -n 1)
  : >"$target/MANIFEST" # start.sh knows the bundle's folder by it
  {
    printf '# elaswave, %s bundle; check it with: sha256sum -c --quiet MANIFEST\n' "$mode"
    printf '# needs: Linux on %s, glibc %s or newer, /bin/sh\n' "$(uname -m)" "${glibc#GLIBC_}"
    printf '# CUDA libraries: %s\n' "$cuda_line"
    # Without the numeric class, which is one of the machine that asks.
    env ${cuda:+LD_LIBRARY_PATH="$cuda"} "$binary" --version | sed '/numeric class/d; s/^/# /'
    while read -r package; do
      dpkg-query -W -f='# ${binary:Package} ${Version}\n' "$package"
    done <"$work/packages"
    (cd "$target" && find . -type f ! -name MANIFEST -printf '%P\0' | sort -z | xargs -0 sha256sum)
  } >"$work/manifest"
  install -m 644 "$work/manifest" "$target/MANIFEST"
}

mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }

take_programs
take_openmpi
take_cuda
clear_search_paths
take_licences
write_manifest
# Neither times nor users of this machine: the same files give the same archive.
tar -C "$(dirname "$target")" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf - "$(basename "$target")" |
  gzip -n >"$target.tar.gz"

archive_bytes=$(stat -c %s "$target.tar.gz")
say "CUDA libraries: $cuda_line"
sed -n 's/^# needs: /bundle: needs /p' "$target/MANIFEST"
say "$target.tar.gz: $(mib "$archive_bytes"), unpacked $(mib "$(du -sb "$target" | cut -f1)") in $(find "$target" -type f | wc -l) files"
if [ "$mode" = thin ] && [ "$archive_bytes" -gt "$kThinLimit" ]; then
  die "that is more than the $(mib "$kThinLimit") of a thin bundle"
fi
