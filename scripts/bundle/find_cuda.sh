# Read by start.sh: finds the CUDA libraries that the bundle leaves to the host, and checks their versions. Each line of
# lib/cuda/needed is a library's name and the full version that elaswave was built with, `-` when its file does not tell.
# ELASWAVE_CUDA_PATH: directories, `:` between them; else lib/cuda/path, which scripts/bundle.sh --cuda wrote; else what the
# loader knows by itself. Words are lines of this format, and no file name has blanks in it.
cuda_path=${ELASWAVE_CUDA_PATH-}
if [ -z "$cuda_path" ]; then read -r cuda_path <"$root/lib/cuda/path" || :; fi

# older A B: version A lies before B; a part that is missing counts as 0.
older() {
  a=$1. b=$2.
  while [ -n "$a$b" ]; do
    x=${a%%.*} y=${b%%.*} a=${a#*.} b=${b#*.}
    [ "${x:-0}" -lt "${y:-0}" ] && return 0
    [ "${x:-0}" -gt "${y:-0}" ] && return 1
  done
  return 1
}

# cuda_version FILE: what stands behind .so. in the longest name of the file, `-` when that is only the major version.
cuda_version() {
  for longer in "$1".*; do
    case $longer in
      *.so.*[!0-9.]*) ;;
      *) if [ -f "$longer" ]; then printf '%s' "${longer##*.so.}" && return; fi ;;
    esac
  done
  printf '%s' -
}

if [ -n "$cuda_path" ]; then
  found='' trouble=''
  while read -r name wanted; do
    file='' rest=$cuda_path:
    while [ -n "$rest" ]; do
      [ -n "$file" ] || ! [ -f "${rest%%:*}/$name" ] || file=${rest%%:*}/$name
      rest=${rest#*:}
    done
    if [ -z "$file" ]; then
      trouble="$trouble, $name is not there"
      continue
    fi
    version=$(cuda_version "$file")
    found="$found, $name $version (built with $wanted)"
    case $version:$wanted in
      -:* | *:-) ;;
      *) if older "$version" "$wanted"; then trouble="$trouble, $name is $version, older than $wanted"; fi ;;
    esac
  done <"$root/lib/cuda/needed"
  if [ -n "$trouble" ]; then
    printf 'elaswave: CUDA libraries in %s: %s; set ELASWAVE_CUDA_PATH to where they are\n' "$cuda_path" "${trouble#, }" >&2
    exit 2
  fi
  [ "${1-}" != --version ] || printf 'cuda in %s: %s\n' "$cuda_path" "${found#, }"
  export LD_LIBRARY_PATH="$cuda_path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
