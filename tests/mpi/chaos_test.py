#!/usr/bin/env python3
"""Failures of real processes: ranks of a running job are killed and stopped, from outside at any moment and by themselves at
named points. What every case demands of a run is in chaos_bench.py, Run.finish(). Python's standard library only.

Usage: chaos_test.py BINARY SOURCE_DIR CASE[=N] [CASE[=N] ...]     (no CASE: lists them)
N: rounds of `kills`, seconds of `busy`."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from chaos_bench import PHASES, RECOVERY_POINTS, STEP_POINTS, ChaosBench, Tally
from end_to_end import TIMEOUT_S, Failure, expect, wait_gone


def kill_each(bench, ranks, tally, number):
    for victim in range(ranks):
        with bench.job(f"victim{number}.{victim}", ranks) as run:
            run.begin(2)
            bench.moment()
            run.kill(victim)
            run.wait_over(victim)
            run.check_survivors()
            run.stop()
            tally.add(run)


def case_kills(bench, rounds=1):
    """Kills of each rank in turn at random moments, the reporter included, on 4 x 2 and on 2 x 2 x 2; then at every point of a
    step, and of a second rank at every point of a recovery. No phase may have gone without a kill."""
    tally = Tally()
    for number in range(rounds):
        bench.set_shape("--parallel.pp=2")
        kill_each(bench, 8, tally, number)
        bench.set_shape("--parallel.tp=2", "--parallel.pp=2")
        kill_each(bench, 8, tally, f"t{number}")
    outside = rounds * 16
    bench.set_shape("--parallel.pp=2")
    for number, point in enumerate(STEP_POINTS):
        victim = number % 4
        end_by_itself(bench, point, 4, {victim: point}, f"--chaos.kill=rank={victim},step=4,point={point}", tally=tally)
    # Two at a time need two copies.
    for number, point in enumerate(RECOVERY_POINTS):
        victim = number % 6 if number % 6 != 3 else 6
        end_by_itself(bench, point, 8, {3: "after_reduce", victim: point}, "--elastic.copies=2",
                      "--chaos.kill=rank=3,step=4,point=after_reduce", f"--chaos.kill=rank={victim},step=any,point={point}",
                      tally=tally)
    print(f"campaign: {outside} runs with a rank killed from outside, {len(STEP_POINTS)} with one killed at a point of a step, "
          f"{len(RECOVERY_POINTS)} with a second one killed at a point of the recovery, every digest equal: {tally.text()}")
    expect(sum(tally.outside.values()) >= outside, f"{outside} kills from outside, told of {tally.outside}")
    empty = [phase for phase in PHASES if not tally.outside[phase] + tally.within[phase]]
    expect(not empty, f"no kill hit {empty}: {tally.text()}")


def case_sequence(bench):
    """Seven kills, one after the other, as soon as the copies are there again; the last rank finishes the run."""
    bench.set_shape("--parallel.pp=2")
    with bench.job("sequence", 8) as run:
        run.begin(1)
        run.one_by_one(left=1, seed=3)
        expect(len(run.killed) == 7, f"killed {run.killed}")
        run.check_survivors()
        run.stop()
        tally = Tally()
        tally.add(run)
        print(f"campaign: seven kills in sequence {list(run.killed)}: {tally.text()}")


def case_last_group(bench):
    """2 x 2 x 2 down to one tensor group, with the steps of an undisturbed one; without it the run ends with 6, and says why."""
    bench.set_shape("--parallel.tp=2", "--parallel.pp=2")
    with bench.job("group", 8) as run:
        run.begin(1)
        run.one_by_one(left=2, seed=4)
        expect(len(run.killed) == 6, f"killed {run.killed}")
        run.check_survivors()
        before = run.step()
        run.wait(lambda: run.step() > before + 3, "steps of one tensor group")
        run.kill(min(run.survivors()))
        out, err = run.process.communicate(timeout=TIMEOUT_S)
        context = f"exit code {run.process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
        expect(run.process.returncode == 6, context)
        expect(all(word in err for word in ("error: ", "why: ", "fix: ")), f"no reason is given: {context}")
        run.check_steps(run.step(), context)
        expect(not run.events("end"), f"it says that it came to its end: {context}")
    print(f"campaign: six kills in sequence {list(run.killed)[:-1]} down to one tensor group, a seventh ends the run with 6")


def case_loop(bench):
    """Kills at random times, at a mean of half a second."""
    bench.set_shape("--parallel.pp=2")
    with bench.job("loop", 8) as run:
        run.begin(1)
        out = bench.script("kill_loop", "--dir", bench.path("loop"), "--mean", 0.5, "--left", 4, "--wait", "--seed", 8)
        run.killed = {int(rank): None for rank in re.findall(r"SIGKILL rank=(\d+)", out)}
        run.check_survivors()
        run.stop()


def case_node(bench):
    """Two pretended nodes of four ranks: one goes as a whole, the copies are on the other."""
    bench.set_shape("--parallel.pp=2", "--elastic.domain=node{rank/4}")
    for name in ("node1", "node0"):
        with bench.job(name, 8) as run:
            run.begin(2)
            expect({place["domain"] for place in run.events("start")[0]["ranks"]} == {"node0", "node1"}, "no two domains")
            bench.script("kill_domain", "--dir", bench.path(name), name)
            run.killed = {rank: None for rank in range(8) if f"node{rank // 4}" == name}
            run.wait_over(*run.killed)
            run.check_survivors()
            run.stop()


def sleep_and_wake(bench, victim):
    bench.set_shape("--parallel.pp=2", "--elastic.heartbeat_ms=50", "--elastic.silence_ms=1500")
    with bench.job("sleep", 4) as run:
        run.begin(2)
        os.kill(run.pids[victim], signal.SIGSTOP)
        try:
            run.fenced = {victim}
            run.wait_over(victim)
            before = run.step()
            run.wait(lambda: run.step() > before, "a step without the one that sleeps")
        finally:
            os.kill(run.pids[victim], signal.SIGCONT)
        wait_gone([run.pids[victim]])
        before = run.step()
        run.wait(lambda: run.step() > before + 1, "steps after it woke up")
        run.check_survivors()
        _, err = run.stop()
    expect(re.search(rf"rank {victim} left with code 7", err), f"rank {victim} did not leave with 7:\n{err[-3000:]}")


def case_sleep(bench):
    """A rank that sleeps too long is voted out, wakes up and leaves with code 7."""
    sleep_and_wake(bench, 2)


def case_sleeping_reporter(bench):
    """The same of the reporter: what it writes when it wakes up is seen by nobody."""
    sleep_and_wake(bench, 0)


def end_by_itself(bench, name, ranks, victims, *more, steps=8, tally=None):
    """A run whose faults come from within: `victims`, each at its point."""
    with bench.job(name, ranks, *more, steps=steps) as run:
        run.killed = {rank: None for rank in victims}
        _, err = run.finish()
        for rank, point in victims.items():
            at_point = re.search(rf"chaos\.\w+=.*: rank {rank} at {point}\b", err)
            expect(at_point, f"{name}: rank {rank} never was at {point}\n{err}")
        if tally:
            tally.add(run, err)
        return run


def case_around_commit(bench):
    """A record in the log of some is rolled forward by all, whoever dies around the commit."""
    bench.set_shape("--parallel.pp=2")
    for victim in range(4):
        for point in ("before_commit", "after_commit"):
            end_by_itself(bench, f"{point}{victim}", 4, {victim: point}, f"--chaos.kill=rank={victim},step=4,point={point}")
    print("campaign: each of 4 ranks killed before and after the commit")


def case_kinds(bench):
    """A process that leaves by itself is a lost rank too; two faults in one run."""
    bench.set_shape("--parallel.pp=2")
    end_by_itself(bench, "exit", 4, {2: "after_forward"}, "--chaos.exit=rank=2,step=3,point=after_forward,code=70")
    end_by_itself(bench, "two", 8, {1: "step_begin", 4: "after_reduce"},
                  "--chaos.kill=rank=1,step=3;rank=4,step=20,point=after_reduce", steps=24)


def case_bf16(bench):
    """Ranks that die in a run in bf16, at points and from outside, leave the digest of an undisturbed one."""
    tally = Tally()
    bench.set_shape("--parallel.pp=2", "--train.precision=bf16")
    for victim, point in ((1, "after_forward"), (2, "after_log"), (3, "during_apply")):
        end_by_itself(bench, point, 4, {victim: point}, f"--chaos.kill=rank={victim},step=4,point={point}", tally=tally)
    kill_each(bench, 4, tally, 0)
    bench.set_shape("--parallel.tp=2", "--train.precision=bf16")
    end_by_itself(bench, "slice", 4, {1: "after_backward"}, "--chaos.kill=rank=1,step=4,point=after_backward", tally=tally)
    bench.set_shape()
    expect(bench.good(2)[0]["digest"] != bench.trace("after_log")[0]["digest"], "bf16 left the digest of f32")
    print(f"campaign: runs in bf16, every digest equal: {tally.text()}")


def case_hang(bench):
    """A rank whose compute thread or communication thread never comes back ends itself; the others go on."""
    bench.set_shape("--parallel.pp=2", "--elastic.hang_ms=4000")
    for victim, point, thread in ((3, "after_forward", "compute"), (0, "during_apply", "compute"), (4, "receive_chunk", "communication")):
        with bench.job(f"hang-{point}", 8, f"--chaos.hang=rank={victim},step=4,point={point}", steps=8) as run:
            run.fenced = {victim}  # it leaves by itself
            _, err = run.finish()
            for said in (rf"chaos\.hang=.*: rank {victim} at {point}\b", rf"rank {victim}\b.*this process hangs: its {thread} thread",
                         rf"rank {victim} left with code 70"):
                expect(re.search(said, err), f"{point}: nobody said {said}\n{err}")
            lost = [event["lost"] for event in run.events("recovery")]
            expect(lost == [[victim]], f"{point}: lost {lost}")
    print("campaign: hangs of the compute thread in a forward and in apply and of the communication thread: each time that rank "
          "ended itself and the others went on, every digest equal")


def case_random(bench):
    """Any rank, drawn from the seed."""
    bench.set_shape("--parallel.pp=2")
    for seed in range(3):
        with bench.job(f"any{seed}", 4, f"--chaos.kill=rank=any,seed={seed},step=3,point=after_backward", steps=8) as run:
            run.finish()
            expect(len(run.events("recovery")[0]["lost"]) == 1, "not one rank was lost")


def left_with(err, ranks, code):
    """Whether the launcher saw these ranks, and no others, leave with this code."""
    said = re.findall(rf"ranks? ([\d, ]+) left with code {code}\n", err)
    expect(said and {int(rank) for rank in said[0].split(",")} == set(ranks), f"not {sorted(ranks)} left with {code}:\n{err[-3000:]}")


# A cut lasts longer than silence, and a side without a quorum does not wait for long.
CUT = ["--elastic.heartbeat_ms=50", "--elastic.silence_ms=1500", "--elastic.patience_ms=4000"]


def cut_off(bench, name, ranks, *more, expected=None, cut=None):
    """One side of a cut goes on as if nothing had happened; the other fences itself and writes nothing more."""
    with bench.job(name, ranks, *CUT, *more, steps=12) as run:
        # Whoever was fenced is seen lost by the others; finish() looks for each step's one line, and for one end.
        run.fenced = set(expected or ())
        _, err = run.finish()
        lost = {rank for event in run.events("recovery") for rank in event["lost"]}
        expect(len(run.events("recovery")) == 1, f"{name}: more than one view: {run.events('view')}")
        expect(expected is None or lost == set(expected), f"{name}: lost {lost}, not {expected}")
        told = set(re.findall(r"chaos\.cut=.*: at rank (\d+) from step 5 on", err))
        expect(told == {str(rank) for rank in cut or range(ranks)}, f"{name}: cut off were {told}:\n{err[-3000:]}")
        left_with(err, lost, 7)
        return run, lost


def case_cut_half(bench):
    """Half against half, each with all of the state: the claim in the run directory lets one go on, whichever it is."""
    bench.set_shape("--parallel.pp=2", "--elastic.domain=node{rank/4}")
    run, lost = cut_off(bench, "half", 8, "--chaos.cut=a=0+1+2+3,b=4+5+6+7,step=5")
    expect(lost in ({0, 1, 2, 3}, {4, 5, 6, 7}), f"lost {lost}")
    claims = [name for name in os.listdir(bench.path("half", "views")) if name.startswith("view-1-")]
    expect(len(claims) == 1, f"claims {claims}")
    print(f"campaign: of two halves without a way between them the one with rank {0 if 4 in lost else 4} went on")


def case_cut_one(bench):
    """One rank, the reporter too, is cut off from all others."""
    bench.set_shape("--parallel.pp=2")
    for victim in (0, 5):
        others = "+".join(str(rank) for rank in range(8) if rank != victim)
        cut_off(bench, f"one{victim}", 8, f"--chaos.cut=a={victim},b={others},step=5", expected={victim})


def case_cut_pair(bench):
    """Two ranks do not reach each other while the others reach both: whoever waits asks, and the higher of the two has to go."""
    bench.set_shape("--parallel.pp=2", "--elastic.hang_ms=1000")
    for low, high in ((1, 2), (0, 4)):  # of one stage; of one pipeline
        cut_off(bench, f"pair{low}{high}", 8, f"--chaos.cut=a={low},b={high},step=5", expected={high}, cut={low, high})
    print("campaign: two pairs cut: each time the higher rank left and the others went on, every digest equal")


def case_cut_heals(bench):
    """A cut that heals before anybody's silence is long enough: everything held back arrives, nobody is voted out."""
    bench.set_shape("--parallel.pp=2")
    with bench.job("heals", 8, "--elastic.silence_ms=10000", "--chaos.cut=a=0+1+2+3,b=4+5+6+7,step=5,ms=2000", steps=8) as run:
        _, err = run.finish(expect_recovery=False)
        expect(not run.events("view") and not run.events("recovery"), f"a view came: {run.events('view')}")
        expect(len(re.findall(r"chaos\.cut=.*: at rank \d+ from step 5 on", err)) == 8, f"not everybody was cut off:\n{err}")
        # Half of it: ranks do not begin a step at the same moment.
        times = {line["step"]: line["ms"] for line in run.lines("metrics.jsonl")}
        expect(times[5] > 1000, f"no step waited for the cut to heal: {times}")


def case_corrupt_message(bench):
    """Whoever gets a message with a wrong bit notices, says from whom and which, and leaves; the others go on without it."""
    bench.set_shape("--parallel.pp=2")
    for sender, at in ((0, 1), (1, 4), (3, 9)):
        fault = f"--chaos.corrupt=what=message,rank={sender},step=4,at={at}"
        with bench.job(f"message{sender}", 4, "--comm.checksum=true", fault, steps=8) as run:
            out, err = run.finish()
            found = re.search(rf"rank (\d+): error: rank \1 received damaged bytes from rank {sender}\n +where: .*channel \w+, message \d+", err)
            expect(found, f"nobody says what was damaged:\n{err[-3000:]}")
            left_with(err, {int(found[1])}, 9)
            lost = {rank for event in run.events("recovery") for rank in event["lost"]}
            expect(lost == {int(found[1])}, f"lost {lost}, found by {found[1]}")
    refused = bench.run(["launch", "-n", "4", "--", *bench.train_arguments("refused", "--chaos.corrupt=what=message,rank=0,step=1")],
                        code=2)
    expect("comm.checksum" in refused.stderr and not os.path.exists(bench.path("refused")), refused.stderr)


def case_corrupt_copy(bench):
    """A bit flips in the memory of a copy: found by comparison, and all go back to a checkpoint from before, in place. Without one
    they leave, and say so."""
    bench.set_shape("--parallel.pp=2", "--elastic.scrub_steps=2")
    fault = "--chaos.corrupt=what=copy,rank=2,step=7,at=3"
    with bench.job("copy", 4, "--checkpoint.every=2", "--checkpoint.keep=9", fault, steps=12) as run:
        _, err = run.finish()
        expect("rank 2 spoils a copy in step 7" in err, f"nothing was spoiled:\n{err[-3000:]}")
        recoveries = run.events("recovery")
        expect(len(recoveries) == 1 and recoveries[0]["copies_differed"] and recoveries[0]["from_checkpoint"] and
               not recoveries[0]["lost"] and recoveries[0]["step"] in (2, 4), f"recoveries {recoveries}\n{err[-3000:]}")
    with bench.job("no_copy", 4, fault, steps=12) as run:
        out, err = run.process.communicate(timeout=TIMEOUT_S)
        context = f"exit code {run.process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
        expect(run.process.returncode == 9 and "no checkpoint is of step" in err, context)
        run.check_steps(run.step(), context)
        expect(run.step() in (6, 7) and not run.events("end"), context)


def case_busy(bench, seconds=600):
    """Eight ranks beside four busy loops: nobody is taken for dead with default settings."""
    bench.set_shape("--parallel.pp=2")
    with bench.job("busy", 8) as run:
        run.begin(1)
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                stack.callback(loop.wait)
                stack.callback(loop.kill)
            end, longest, before, seen = time.monotonic() + seconds, 0.0, run.size(), time.monotonic()
            while time.monotonic() < end:
                time.sleep(0.05)
                expect(run.process.poll() is None, "the run ended")
                if run.size() != before:
                    longest, before, seen = max(longest, time.monotonic() - seen), run.size(), time.monotonic()
        run.check_survivors()
        steps = run.step()
        run.stop(expect_recovery=False)
        evicted = run.events("view") + run.events("recovery")
        expect(not evicted, f"evicted: {evicted}")
    print(f"campaign: {seconds} s of 8 ranks beside four busy loops: no eviction, {steps} steps, the longest pause between two "
          f"{longest * 1e3:.0f} ms")


CASES = {name[5:]: function for name, function in globals().items() if name.startswith("case_")}


def main():
    if len(sys.argv) < 4:
        print("\n".join(CASES))
        return 2
    binary, source = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    for word in sys.argv[3:]:
        name, _, number = word.partition("=")
        with tempfile.TemporaryDirectory(prefix="elaswave-chaos-") as folder:
            try:
                CASES[name](ChaosBench(binary, source, folder), *([int(number)] if number else []))
            except (Failure, subprocess.TimeoutExpired) as problem:
                print(f"{name}: FAILED\n{problem}")
                return 1
        print(f"{name}: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
