"""Finds the ranks of running jobs and sends them signals. Shared by the scripts beside it; Linux, standard library only.

A rank is a process whose command line is `.../elaswave train ...`. Its world rank is in its environment
(OMPI_COMM_WORLD_RANK or PMIX_RANK; 0 when it was started alone). Which job it belongs to is told by --dir (log.dir of the
job, as on its command line or in its environment, or the pids in the last "start" of DIR/events.jsonl) or by --parent
(a process above it: `elaswave launch`, mpirun, a shell). Without either there must be exactly one job."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import time


class Trouble(Exception):
    """What a person has to be told; exit code 2."""


@dataclasses.dataclass(frozen=True)
class Rank:
    pid: int
    world_rank: int
    started: int   # in clock ticks since boot: with the pid, one process and no other
    parent: int
    job: str       # equal for the ranks of one mpirun
    directory: str  # log.dir as the process was told, absolute; empty: not told
    domain: str    # of its environment; empty: not told there
    stopped: bool


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def stat_fields(pid):
    """The fields after the command's name: state, ppid, ..."""
    return read_bytes(f"/proc/{pid}/stat").rsplit(b")", 1)[1].split()


def option(arguments, environment, key):
    """The value of --section.key, from the command line or else the environment."""
    for index, argument in enumerate(arguments):
        if argument.startswith(f"--{key}="):
            return argument.split("=", 1)[1]
        if argument == f"--{key}" and index + 1 < len(arguments):
            return arguments[index + 1]
    return environment.get("ELASWAVE_" + key.upper().replace(".", "_"), "")


def rank_of(pid):
    """The rank that this process is, or None."""
    try:
        arguments = read_bytes(f"/proc/{pid}/cmdline").decode(errors="replace").split("\0")
        if len(arguments) < 2 or os.path.basename(arguments[0]) != "elaswave" or arguments[1] != "train":
            return None
        environment = dict(word.split("=", 1) for word in
                           read_bytes(f"/proc/{pid}/environ").decode(errors="replace").split("\0") if "=" in word)
        fields = stat_fields(pid)
        state, directory = fields[0], option(arguments, environment, "log.dir")
        if directory:
            directory = os.path.realpath(os.path.join(os.readlink(f"/proc/{pid}/cwd"), directory))
    except OSError:  # gone, or somebody else's
        return None
    if state in (b"Z", b"X"):
        return None
    world_rank = environment.get("OMPI_COMM_WORLD_RANK", environment.get("PMIX_RANK", "0"))
    job = environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid") or f"pid {pid}"
    return Rank(pid, int(world_rank), int(fields[19]), int(fields[1]), job, directory,
                option(arguments, environment, "elastic.domain"), state in (b"T", b"t"))


def all_ranks():
    found = [rank_of(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    return [rank for rank in found if rank]


def ancestors(pid):
    while pid > 0:
        yield pid
        try:
            pid = int(stat_fields(pid)[1])
        except OSError:
            return


def events(directory):
    """The events of a run, a torn last line left out."""
    try:
        text = read_bytes(os.path.join(directory, "events.jsonl")).decode()
    except OSError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def places(directory):
    """pid -> what the last start says of it."""
    starts = [event for event in events(directory) if event["event"] == "start"]
    return {place["pid"]: place for place in starts[-1]["ranks"]} if starts else {}


class Job:
    """One running job; asks the system anew every time."""

    def __init__(self, directory=None, parent=None):
        self.directory = os.path.realpath(directory) if directory else None
        self.parent = parent
        self.name = None
        ranks = self.ranks()
        if not ranks:
            raise Trouble("no running rank of that job" if directory or parent else "no running job")
        names = sorted({rank.job for rank in ranks})
        if len(names) > 1:
            raise Trouble("several jobs are running, name one with --dir or --parent: " + ", ".join(
                f"{name} ({next(rank.directory for rank in ranks if rank.job == name) or 'no log.dir'})" for name in names))
        self.name = names[0]
        self.directory = self.directory or ranks[0].directory or None

    def matches(self, rank, started):
        if self.name is not None and rank.job != self.name:
            return False
        if self.parent is not None and self.parent not in ancestors(rank.parent):
            return False
        if self.directory is None:
            return True
        if rank.directory:
            return rank.directory == self.directory
        # log.dir stands in a configuration file: the run itself says who it is.
        return rank.pid in started and started[rank.pid]["rank"] == rank.world_rank

    def ranks(self):
        """By world rank."""
        started = places(self.directory) if self.directory else {}
        return sorted((rank for rank in all_ranks() if self.matches(rank, started)), key=lambda rank: rank.world_rank)

    def rank(self, wish):
        """'3', 'random' or 'reporter' (the lowest one that runs)."""
        ranks = self.ranks()
        awake = [rank for rank in ranks if not rank.stopped] or ranks
        if not ranks:
            raise Trouble("the job has ended")
        if wish == "random":
            return random.choice(awake)
        if wish == "reporter":
            return awake[0]
        for rank in ranks:
            if str(rank.world_rank) == str(wish):
                return rank
        raise Trouble(f"rank {wish} is not running; running: {', '.join(str(rank.world_rank) for rank in ranks)}")

    def in_domain(self, name):
        started = places(self.directory) if self.directory else {}
        domain = {pid: place["domain"] for pid, place in started.items()}
        return [rank for rank in self.ranks() if domain.get(rank.pid, rank.domain) == name]

    def events(self):
        if not self.directory:
            raise Trouble("the job has no log.dir that could be found; give --dir")
        return events(self.directory)


def send(rank, number):
    """Exactly to this process or to nobody: a pid may have been given to another one meanwhile. True when it was sent."""
    now = time.monotonic_ns()
    try:
        handle = os.pidfd_open(rank.pid)
    except ProcessLookupError:
        return False
    try:
        again = rank_of(rank.pid)
        if again is None or again.started != rank.started:
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    utc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{utc} monotonic_ns={now} {signal.Signals(number).name} rank={rank.world_rank} pid={rank.pid}", flush=True)
    return True


def wait_redundant(job, lost, since_ns, limit_s):
    """Until the run says that it got over the loss of these ranks and every block has its copies again. `since_ns` on the
    monotonic clock: what was said before is of earlier failures. The ranks must run on this host."""
    deadline = time.monotonic() + limit_s
    while True:
        said = [event for event in job.events() if event.get("at_ns", 0) >= since_ns]
        over = [event["generation"] for event in said if event["event"] == "recovery" and set(lost) <= set(event["lost"])]
        if over and any(event["event"] == "redundancy" and event["generation"] >= over[0] for event in said):
            return
        if time.monotonic() > deadline:
            raise Trouble(f"no redundancy {limit_s:g} s after the loss of {sorted(lost)}")
        if not job.ranks():
            raise Trouble("the job has ended")
        time.sleep(0.02)


def arguments(parser):
    """The job, as every script takes it."""
    parser.add_argument("--dir", metavar="DIR", help="log.dir of the job")
    parser.add_argument("--parent", metavar="PID", type=int, help="a process above its ranks")


def main(parser, act):
    """Runs act(job, arguments) with troubles as one line."""
    arguments(parser)
    given = parser.parse_args()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            act(Job(given.dir, given.parent), given)
    except Trouble as trouble:
        print(f"{parser.prog}: {trouble}", file=sys.stderr)
        return 2
    return 0
