"""scripts/chaos against dummy processes that look like ranks: the right ones are hit, nobody else is."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "chaos"
# What a dummy runs: `elaswave train` with Python as elaswave and this file as train.
DUMMY = "import time\nprint('up', flush=True)\ntime.sleep(300)\n"


def monotonic_of(line):
    return int(line.split("monotonic_ns=")[1].split()[0])


class Chaos(unittest.TestCase):
    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="elaswave-chaos-"))
        self.addCleanup(self.stack.close)
        pathlib.Path(self.folder, "train").write_text(DUMMY)

    def dummy(self, rank, job, *arguments, command="train", program="elaswave", **environment):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "ELASWAVE_"))}
        pathlib.Path(self.folder, command).write_text(DUMMY)
        process = subprocess.Popen([f"/opt/bin/{program}", command, *arguments], executable=sys.executable, cwd=self.folder,
                                   env={**kept, "OMPI_COMM_WORLD_RANK": str(rank), "PMIX_NAMESPACE": job, **environment},
                                   stdout=subprocess.PIPE, text=True)
        self.stack.callback(process.communicate)
        self.stack.callback(process.kill)
        self.assertEqual(process.stdout.readline(), "up\n")
        return process

    def job(self, name, count, *arguments):
        return [self.dummy(rank, name, *arguments) for rank in range(count)]

    def run_script(self, script, *arguments, code=0):
        done = subprocess.run([sys.executable, str(SCRIPTS / script), *map(str, arguments)], capture_output=True, text=True,
                              check=False, timeout=60, cwd=self.folder)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def assert_killed(self, processes, indices):
        for index in indices:
            processes[index].wait(timeout=10)
        self.assertEqual([process.poll() for process in processes],
                         [-signal.SIGKILL if index in indices else None for index in range(len(processes))])

    def test_one_job_needs_no_name(self):
        ranks = self.job("one", 3)
        decoys = [self.dummy(0, "x", command="launch"), self.dummy(1, "y", program="elaswave2")]
        before = time.monotonic_ns()
        out = self.run_script("kill_rank", "--parent", os.getpid(), 1).stdout
        self.assert_killed(ranks, {1})
        self.assert_killed(decoys, set())
        self.assertIn(f"SIGKILL rank=1 pid={ranks[1].pid}", out)
        self.assertTrue(before < monotonic_of(out) < time.monotonic_ns())
        self.run_script("kill_rank", "--parent", os.getpid(), "reporter")
        self.assert_killed(ranks, {0, 1})
        self.assertIn("running: 2", self.run_script("kill_rank", "--parent", os.getpid(), 1, code=2).stderr)
        self.run_script("kill_rank", "--parent", os.getpid(), "random")
        self.assert_killed(ranks, {0, 1, 2})
        self.assertIn("no running rank", self.run_script("kill_rank", "--parent", os.getpid(), 0, code=2).stderr)

    def test_jobs_are_told_apart(self):
        a = self.job("a", 2, "--log.dir=runs/a")
        b = [self.dummy(rank, "b", "--log.dir", os.path.join(self.folder, "runs/b")) for rank in range(2)]
        c = [self.dummy(0, "c", ELASWAVE_LOG_DIR="runs/c")]
        self.assertIn("several jobs", self.run_script("kill_rank", "--parent", os.getpid(), 0, code=2).stderr)
        self.run_script("kill_rank", "--dir", "runs/b", 0)
        self.run_script("kill_rank", "--dir", os.path.join(self.folder, "runs", "c"), 0)
        self.run_script("kill_rank", "--dir", "runs/nothing", 0, code=2)
        self.assert_killed(a, set())
        self.assert_killed(b, {0})
        self.assert_killed(c, {0})

    def events(self, directory, *events):
        os.makedirs(os.path.join(self.folder, directory), exist_ok=True)
        with open(os.path.join(self.folder, directory, "events.jsonl"), "a") as file:
            for event in events:
                file.write(json.dumps(event) + "\n")

    def start_event(self, processes, domains):
        return {"event": "start", "ranks": [{"rank": rank, "pid": process.pid, "host": "h", "domain": domain}
                                            for rank, (process, domain) in enumerate(zip(processes, domains))]}

    def test_a_directory_from_a_configuration_file(self):
        ranks, others = self.job("a", 2, "--config=a.toml"), self.job("b", 2, "--config=b.toml")
        self.events("runs/a", {"event": "start", "ranks": [{"rank": 0, "pid": others[0].pid, "host": "h", "domain": "h"}]},
                    self.start_event(ranks, "hh"))
        self.run_script("kill_rank", "--dir", "runs/a", 0)
        self.assert_killed(ranks, {0})
        self.assert_killed(others, set())

    def test_domains(self):
        ranks = self.job("a", 4, "--log.dir=runs/a")
        self.events("runs/a", self.start_event(ranks, "xyxy"))
        self.run_script("kill_domain", "--dir", "runs/a", "z", code=2)
        self.run_script("kill_domain", "--dir", "runs/a", "y")
        self.assert_killed(ranks, {1, 3})
        self.run_script("kill_domain", "--dir", "runs/a", "--ranks", "2,0")
        self.assert_killed(ranks, {0, 1, 2, 3})

    def state(self, process):
        with open(f"/proc/{process.pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]

    def test_stop_and_wake(self):
        ranks = self.job("a", 2, "--log.dir=runs/a")
        self.run_script("stop_rank", "--dir", "runs/a", 0)
        self.assertEqual(self.state(ranks[0]), "T")
        self.run_script("stop_rank", "--dir", "runs/a", 0, "--wake")
        self.assertNotEqual(self.state(ranks[0]), "T")
        out = self.run_script("stop_rank", "--dir", "runs/a", "reporter", "--for", 0.3).stdout.splitlines()
        self.assertIn("SIGSTOP rank=0", out[0])
        self.assertIn("SIGCONT rank=0", out[1])
        self.assertGreater(monotonic_of(out[1]) - monotonic_of(out[0]), 0.3e9)
        self.assertNotEqual(self.state(ranks[0]), "T")

    def test_one_by_one_waits_for_redundancy(self):
        ranks = self.job("a", 4, "--log.dir=runs/a")
        earlier = [{"event": "recovery", "generation": 1, "lost": [1, 2, 3], "at_ns": 1},
                   {"event": "redundancy", "generation": 9, "at_ns": 1}]  # of other failures
        self.events("runs/a", self.start_event(ranks, "hhhh"), *earlier)
        violations = []

        def pretend():
            """The run: says after a while that it got over each loss."""
            gone = set()
            while len(gone) < 3:
                dead = {index for index, process in enumerate(ranks) if process.poll() is not None}
                if len(dead - gone) > 1:
                    violations.append(dead - gone)
                for index in dead - gone:
                    time.sleep(0.1)
                    self.events("runs/a", {"event": "recovery", "generation": len(gone) + 2, "lost": [index],
                                           "at_ns": time.monotonic_ns()})
                    time.sleep(0.2)
                    if any(process.poll() is not None for i, process in enumerate(ranks) if i not in dead):
                        violations.append("killed before redundancy")
                    self.events("runs/a", {"event": "redundancy", "generation": len(gone) + 2, "at_ns": time.monotonic_ns()})
                    gone.add(index)
                time.sleep(0.01)

        thread = threading.Thread(target=pretend)
        thread.start()
        out = self.run_script("one_by_one", "--dir", "runs/a", "--left", 1, "--order", "down").stdout
        thread.join(timeout=30)
        self.assertEqual(violations, [])
        self.assert_killed(ranks, {1, 2, 3})
        self.assertEqual(out.count("SIGKILL"), 3)
        self.assertEqual(out.count("redundant again"), 3)

    def test_one_by_one_needs_events_and_has_a_limit(self):
        ranks = self.job("a", 2)
        self.run_script("one_by_one", "--parent", os.getpid(), code=2)
        self.assert_killed(ranks, set())
        others = self.job("b", 2, "--log.dir=runs/b")
        self.assertIn("no redundancy", self.run_script("one_by_one", "--dir", "runs/b", "--limit", 0.5, code=2).stderr)
        self.assertEqual(sum(process.poll() is not None for process in others), 1)

    def test_kill_loop(self):
        ranks = self.job("a", 4, "--log.dir=runs/a")
        out = self.run_script("kill_loop", "--dir", "runs/a", "--mean", 0.02, "--left", 2).stdout
        self.assertEqual(out.count("SIGKILL"), 2)
        time.sleep(0.05)
        self.assertEqual(sum(process.poll() is None for process in ranks), 2)


class SameSteps(unittest.TestCase):
    """scripts/same_steps.py against runs made up."""

    def compare(self, change=lambda run, again, recovery: None):
        def steps(first, last):
            return [{"step": step, "loss": 1 / step, "grad_norm": 0.5, "lr": 1e-3, "tokens": step, "samples": step,
                     "sample_hash": "a", **({"digest": f"{step:016x}"} if step % 5 == 0 else {})} for step in range(first, last + 1)]
        run, again = steps(1, 30), steps(11, 20)
        recovery = {"event": "recovery", "generation": 1, "step": 13, "lost": [2], "members": [0, 1, 3], "interrupted": "log",
                    "total_us": 5000}
        change(run, again, recovery)
        with tempfile.TemporaryDirectory() as folder:
            for name, lines, events in (("run", run, [recovery]), ("again", again, [{"event": "start"}])):
                os.mkdir(os.path.join(folder, name))
                for file, what in (("metrics.jsonl", lines), ("events.jsonl", events)):
                    pathlib.Path(folder, name, file).write_text("".join(json.dumps(line) + "\n" for line in what))
            done = subprocess.run([sys.executable, str(SCRIPTS.parent / "same_steps.py"), "run", "again"], cwd=folder, timeout=60,
                                  capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def test_equal(self):
        # Steps 10 (not run again), 15 and 20 have digests: before the loss there is one when the loss is after step 15.
        code, text = self.compare(lambda run, again, recovery: recovery.update(step=15))
        self.assertEqual(code, 0, text)
        self.assertIn("changed nothing", text)

    def test_whatever_differs_is_seen(self):
        changes = {
            "digest": lambda run, again, recovery: run[14].update(digest="0"),
            "loss": lambda run, again, recovery: again[3].update(loss=2.0),
            "sample_hash": lambda run, again, recovery: run[11].update(sample_hash="b"),
            "twice": lambda run, again, recovery: run.insert(20, run[20]),
            "missing": lambda run, again, recovery: run.pop(25),
            "no digests": lambda run, again, recovery: recovery.update(step=21),
            "no rank was lost": lambda run, again, recovery: recovery.update(event="view"),
        }
        for word, change in changes.items():
            def both(run, again, recovery, change=change):
                recovery.update(step=15)
                change(run, again, recovery)
            code, text = self.compare(both)
            self.assertEqual(code, 1, f"{word}: {text}")
            self.assertIn(word, text)


if __name__ == "__main__":
    unittest.main()
