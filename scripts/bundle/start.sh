#!/bin/sh
# Starts a program of the bundle, wherever that was unpacked: mpirun, orted or one of libexec, as this file is called. POSIX sh and
# nothing else, since all that a host is sure to have is glibc and a shell. It stands in front of orted as well: that one is
# started by ssh or srun on other hosts, with an environment of theirs.
self=$0
while [ -h "$self" ]; do
  link=$(readlink "$self")
  case $link in
    /*) self=$link ;;
    *) self=${self%/*}/$link ;;
  esac
done
case $self in
  */*) root=${self%/*}/.. ;;
  *) root=.. ;;
esac
[ -f "$root/MANIFEST" ] || root=$root/.. # openmpi/bin/orted
root=$(cd "$root" && pwd -P) || exit 2

# Open MPI and PMIx look for plugins and texts under these instead of where they were compiled for.
export OPAL_PREFIX="$root/openmpi"
export OPAL_SYSCONFDIR="$root/openmpi/etc"
export PMIX_PKGLIBDIR="$root/openmpi/pmix/lib"
export PMIX_PKGDATADIR="$root/openmpi/pmix/share"
export PMIX_DATADIR="$root/openmpi/pmix"
export PMIX_SYSCONFDIR="$root/openmpi/pmix"
PATH="$root/bin${PATH:+:$PATH}" # `elaswave launch` looks for mpirun there

case ${self##*/} in
  mpirun)
    # Without ssh it would end, also when all ranks are on this host: its rsh plugin takes its missing agent for a mistake.
    case "${OMPI_MCA_plm_rsh_agent+set} $*" in
      set* | *plm_rsh_agent*) ;;
      *) command -v ssh >/dev/null || command -v rsh >/dev/null || export OMPI_MCA_plm="${OMPI_MCA_plm:-^rsh}" ;;
    esac
    # By its full path, from which it tells other hosts where their orted is.
    exec "$root/openmpi/bin/mpirun" "$@"
    ;;
  orted) exec "$root/openmpi/libexec/orted" "$@" ;;
  *)
    if [ -f "$root/libexec/${self##*/}" ]; then
      if [ -f "$root/lib/cuda/needed" ]; then . "$root/lib/cuda/find.sh"; fi
      exec "$root/libexec/${self##*/}" "$@"
    fi
    ;;
esac
printf '%s: the bundle has no such program\n' "$self" >&2
exit 2
