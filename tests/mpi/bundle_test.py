#!/usr/bin/env python3
"""scripts/bundle.sh from outside: its archive is unpacked into a root that has glibc, a shell, /proc and /dev, and trains there.

Usage: bundle_test.py BINARY SOURCE_DIR C_COMPILER CASE      CASE: thin, cuda
Exit code 77: this machine does not let us make such a root."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

from end_to_end import PROSE, Failure, expect

TIMEOUT_S = 240
SKIPPED = 77
GLIBC = ["libc.so.6", "libm.so.6", "libmvec.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2",
         "libutil.so.1", "libnss_files.so.2", "libnss_dns.so.2"]
# ROOT COMMAND [FOLDER...]: folders of CUDA libraries appear as /cuda0, /cuda1. Private mounts: they end with the process, whatever
# becomes of the test.
ENTER = """command=$1 count=0
shift
mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" || exit 1
for folder; do
  mkdir -p "$0/cuda$count" && mount --bind "$folder" "$0/cuda$count" || exit 1
  count=$((count + 1))
done
exec chroot "$0" /bin/sh -c "$command"
"""
TRAIN = "--config=/configs/tiny.toml --train.steps=8 --train.global_batch=4 --device.threads=1 --device.isa=avx2 --data.train=/work/train.tok"


def call(command, code=0, **more):
    done = subprocess.run(command, timeout=TIMEOUT_S, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, **more)
    expect(done.returncode == code, f"{command}\n  exit code {done.returncode}, expected {code}\n--- stdout\n"
                                    f"{done.stdout[-3000:]}\n--- stderr\n{done.stderr[-3000:]}")
    return done


def bundle(source, kind, folder, *options):
    """Makes a bundle; returns what the script said."""
    done = call([os.path.join(source, "scripts/bundle.sh"), f"--{kind}", folder, *options])
    print(done.stdout, end="", flush=True)
    return done.stdout


class BareRoot:
    """A root with nothing but what every system with glibc has."""

    def __init__(self, folder):
        self.folder, self.cuda = folder, []
        for name in ("proc", "dev", "tmp", "bin", "etc", "work", "configs", "opt"):
            os.makedirs(os.path.join(folder, name))
        listing = call(["ldd", "/bin/sh"]).stdout
        loader = re.search(r"^\s*(/\S*ld-linux\S*)", listing, re.MULTILINE).group(1)
        libraries = os.path.dirname(re.search(r"libc\.so\.6 => (\S+)", listing).group(1))
        self.copy(loader, loader)
        self.copy("/bin/sh", "/bin/sh")
        for name in GLIBC:
            if os.path.exists(os.path.join(libraries, name)):
                self.copy(os.path.join(libraries, name), os.path.join(libraries, name))
        with open(os.path.join(folder, "etc/passwd"), "w") as file:
            file.write("root:x:0:0:root:/work:/bin/sh\n")

    def copy(self, source, target):
        target = self.folder + target
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(source, target)

    def run(self, command, code=0):
        environment = {"PATH": os.environ["PATH"], "HOME": "/work"}
        if self.cuda:
            environment["ELASWAVE_CUDA_PATH"] = ":".join(f"/cuda{index}" for index in range(len(self.cuda)))
        own_users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        return call(["unshare", *own_users, "--mount", "--propagation", "private", "/bin/sh", "-c", ENTER, self.folder, command,
                     *self.cuda], code, env=environment)

    def possible(self):
        try:
            self.run("exit 0")
        except (Failure, OSError) as error:
            print(f"skipped: no bare root can be entered here (that takes mounts: root, or user namespaces)\n{error}")
            return False
        return True


def digests(text, what):
    """The digest of the last line; what a run must not change."""
    found = re.search(r"^done step=8 loss=\S+ digest=([0-9a-f]{16})$", text, re.MULTILINE)
    expect(found, f"{what} did not get to its end:\n{text[-2000:]}")
    print(f"{what}: {found.group(1)}", flush=True)
    return found.group(1)


def cuda_folders(list_file, binary):
    """Where this machine has the CUDA libraries that the bundle leaves to it."""
    if not os.path.exists(list_file):
        return []
    with open(list_file) as file:
        names = {line.split()[0] for line in file}
    found = re.findall(r"^\s*(\S+) => (/\S+)/[^/\s]+ \(", call(["ldd", binary]).stdout, re.MULTILINE)
    return sorted({folder for name, folder in found if name in names})


def thin(binary, source, _, scratch):
    root = BareRoot(os.path.join(scratch, "root"))
    if not root.possible():
        return SKIPPED
    said = bundle(source, "thin", os.path.join(scratch, "made"), "--binary", binary)
    expect("MiB, unpacked" in said, "the sizes are not told")
    # Unpacked elsewhere than it was made, and what it was made from is not in sight.
    call(["tar", "-xzf", os.path.join(scratch, "made.tar.gz"), "-C", root.folder + "/opt"])
    os.rename(root.folder + "/opt/made", root.folder + "/opt/moved")
    call(["sha256sum", "-c", "--quiet", "MANIFEST"], cwd=root.folder + "/opt/moved")
    root.cuda = cuda_folders(root.folder + "/opt/moved/lib/cuda/needed", binary)
    shutil.copy(os.path.join(source, "configs/tiny.toml"), root.folder + "/configs")
    with open(root.folder + "/work/prose.txt", "w") as file:
        file.write(PROSE)
    elaswave = "/opt/moved/bin/elaswave"

    # Positive control: without the bundle's search path the binary must not start here.
    os.makedirs(root.folder + "/alone")
    shutil.copy(root.folder + "/opt/moved/libexec/elaswave", root.folder + "/alone/elaswave")
    alone = root.run("/alone/elaswave --version", code=127).stderr
    expect("error while loading shared libraries" in alone, f"the root is not empty: {alone}")

    versions = root.run(f"{elaswave} --version").stdout
    expect("Open MPI v4.1" in versions and "onednn" in versions, versions)
    root.run(f"{elaswave} data prepare --input /work/prose.txt --output /work/train.tok")

    want = digests(root.run(f"{elaswave} train {TRAIN}").stdout, "one rank")
    launched = root.run(f"{elaswave} launch -n 2 -- train {TRAIN}")
    expect(digests(launched.stdout, "launch -n 2") == want, "another digest")
    killed = root.run(f"{elaswave} launch -n 2 -- train {TRAIN} --log.dir=/work/killed --chaos.kill=rank=1,step=5")
    expect(digests(killed.stdout, "launch -n 2, one killed") == want, "another digest")
    with open(root.folder + "/work/killed/events.jsonl") as file:
        expect("recover" in file.read(), "no rank was lost")
    mpirun = "/opt/moved/bin/mpirun --allow-run-as-root --oversubscribe"
    expect(digests(root.run(f"{mpirun} -n 2 {elaswave} train {TRAIN}").stdout, "mpirun -n 2") == want, "another digest")
    told = root.run(f"{mpirun} -n 1 /work/missing; exit 0").stderr
    expect("could not access" in told.replace("\n", " "), f"mpirun's help files are not found: {told}")
    other_hosts(root, mpirun, elaswave, want)
    return 0


def other_hosts(root, mpirun, elaswave, want):
    """orted as ssh would start it: a shell with an environment of its own, which knows nothing of the bundle."""
    agent = root.folder + "/bin/agent"
    with open(agent, "w") as file:
        file.write('#!/bin/sh\nshift\nfor name in OPAL_PREFIX OPAL_SYSCONFDIR PMIX_PKGLIBDIR PMIX_PKGDATADIR PMIX_DATADIR '
                   'PMIX_SYSCONFDIR PATH LD_LIBRARY_PATH; do unset $name; done\nprintf "%s\\n" "$*" >>/work/agent.log\n'
                   'exec /bin/sh -c "$*"\n')
    os.chmod(agent, 0o755)
    text = root.run(f"{mpirun} --mca plm_rsh_agent /bin/agent --host one:1,two:1 -n 2 {elaswave} train {TRAIN}").stdout
    expect(digests(text, "mpirun, two pretended hosts") == want, "another digest")
    with open(root.folder + "/work/agent.log") as file:
        expect(file.read().count("/opt/moved/openmpi/bin/orted") >= 2, "orted was not started by the agent")


def cuda(_, source, compiler, scratch):
    """What becomes of a binary that needs CUDA libraries, with a library and a binary of the test's own."""
    at = lambda name: os.path.join(scratch, name)  # noqa: E731

    def library(folder, *names):
        os.makedirs(at(folder))
        first = os.path.join(at(folder), names[0])
        with open(at("library.c"), "w") as file:
            file.write("int cublasLtGetVersion(void) { return 130002; }\n")
        call([compiler, "-shared", "-fPIC", "-Wl,-soname,libcublasLt.so.13", "-o", first, at("library.c")])
        for name in names[1:]:
            os.symlink(names[0], os.path.join(at(folder), name))

    library("build", "libcublasLt.so.13.0.2", "libcublasLt.so.13")
    library("newer", "libcublasLt.so.13.1.0", "libcublasLt.so.13")
    library("older", "libcublasLt.so.13.0.1.9", "libcublasLt.so.13")
    library("unknown", "libcublasLt.so.13")
    library("other", "libcublasLt.so.12")
    with open(at("program.c"), "w") as file:
        file.write('#include <stdio.h>\nint cublasLtGetVersion(void);\n'
                   'int main(void) { printf("started %d\\n", cublasLtGetVersion()); return 0; }\n')
    call([compiler, "-o", at("program"), at("program.c"), os.path.join(at("build"), "libcublasLt.so.13"),
          f"-Wl,-rpath,{at('build')}"])

    shutil.copy(at("program"), at("other_program"))
    said = bundle(source, "thin", at("thin"), "--binary", at("program"), "--cuda", at("build"), "--programs", at("other_program"))
    expect("CUDA libraries: libcublasLt.so.13 on the host" in said, said)
    expect(not os.path.exists(at("thin/lib/libcublasLt.so.13")), "the thin bundle has a CUDA library")

    def start(kind, path, *arguments, code=0, program="elaswave"):
        environment = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "ELASWAVE_CUDA_PATH")}
        if path:
            environment["ELASWAVE_CUDA_PATH"] = path
        return call([at(f"{kind}/bin/{program}"), *arguments], code, env=environment)

    os.rename(at("build"), at("gone"))
    line = start("thin", None, code=2).stderr
    expect(line.count("\n") == 1 and "libcublasLt.so.13 is not there" in line, line)
    expect("not there" in start("thin", at("other"), code=2).stderr, "another major version was accepted")
    line = start("thin", at("older"), code=2).stderr
    expect(line.count("\n") == 1 and "is 13.0.1.9, older than 13.0.2" in line, line)
    expect(start("thin", f"{at('other')}:{at('newer')}").stdout == "started 130002\n", "does not start with a newer one")
    expect(start("thin", at("unknown")).stdout == "started 130002\n", "does not start when the file tells no version")
    text = start("thin", at("newer"), "--version").stdout
    expect("libcublasLt.so.13 13.1.0 (built with 13.0.2)" in text, text)
    os.rename(at("gone"), at("build"))
    expect(start("thin", None).stdout == "started 130002\n", "does not start with the path of --cuda")
    # Programs beside elaswave, and the scripts that run them.
    expect(start("thin", at("newer"), program="other_program").stdout == "started 130002\n", "another program does not start")
    expect("not there" in start("thin", at("other"), code=2, program="other_program").stderr, "its libraries are not looked for")
    call(["sha256sum", "-c", "--quiet", "MANIFEST"], cwd=at("thin"))
    stages = call([sys.executable, "-B", at("thin/scripts/gpu/stages.py"), "--dry-run", "--only", "host,speed-124m"]).stdout
    expect(stages.count(at("thin/scripts/gpu/")) == 2, stages)
    expect(not os.path.exists(at("thin/bin/step_repeat")), "a program that nobody asked for")

    bundle(source, "full", at("full"), "--binary", at("program"), "--cuda", at("build"))
    os.rename(at("build"), at("gone"))
    expect(start("full", None).stdout == "started 130002\n", "the full bundle does not start by itself")
    return 0


def main(arguments):
    if len(arguments) != 4 or arguments[3] not in ("thin", "cuda"):
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="elaswave-bundle-") as scratch:
        try:
            return {"thin": thin, "cuda": cuda}[arguments[3]](*arguments[:3], scratch)
        except Failure as failure:
            print(f"FAILED {arguments[3]}: {failure}")
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
