"""scripts/gpu/stages.py on dummy stages: verdicts, limits, what needs what, going on, and what stands on disk when it is killed."""
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

GPU = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "gpu"
sys.path.insert(0, str(GPU))
import common  # noqa: E402
import match  # noqa: E402
import ranks  # noqa: E402
import ratio  # noqa: E402
import stage_list  # noqa: E402
import stages  # noqa: E402

Stage = stages.Stage


def shell(name, text, **more):
    return Stage(name, f"does {name}", ("/bin/sh", "-c", text), **more)


class Stages(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="elaswave-stages-")
        self.addCleanup(folder.cleanup)
        self.results = pathlib.Path(folder.name) / "results"

    def run_them(self, dummies, *arguments):
        """(exit code, what was printed)."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = stages.main(["--results", str(self.results), *arguments], dummies)
        return code, printed.getvalue()

    def verdicts(self):
        return {name: record["verdict"] for name, record in stages.latest(self.results).items()}

    def summary(self):
        return (self.results / "summary.md").read_text()

    def test_verdicts(self):
        code, _ = self.run_them([
            shell("good", "echo noise; echo '{\"figures\": \"12 | 13\", \"speed\": 5}'"),
            shell("bad", "echo trouble >&2; sleep 0.2; echo out; exit 3"),
            shell("absent", "exit 77"),
            shell("empty", "echo '[  PASSED  ] 4 tests.'; echo '[  SKIPPED ] 5 tests, listed below:'", **stage_list.GTEST),
            shell("kept", "echo drop; echo right 5; echo WRONG 6", keep="^(right|WRONG)"),
            Stage("nowhere", "a program that is not there", ("@no_such_program",)),
            Stage("nothing", "a command that is not there", ("/no/such/command",)),
        ])
        self.assertEqual(code, 1)
        self.assertEqual(self.verdicts(), {"good": "right", "bad": "wrong", "absent": "skipped", "empty": "skipped",
                                           "kept": "right", "nowhere": "skipped", "nothing": "skipped"})
        records = stages.latest(self.results)
        self.assertEqual(records["good"]["said"]["speed"], 5)
        self.assertEqual(records["kept"]["figures"], "right 5; WRONG 6")
        self.assertEqual(records["bad"]["code"], 3)
        self.assertEqual(records["bad"]["figures"], "out")
        log = (self.results / "bad.log").read_text()
        self.assertIn("trouble", log)
        self.assertIn("out", log)
        self.assertIn("| good | right | 0 | 12 \\| 13 |", self.summary())
        archive = self.results.parent / "all.tar.gz"
        self.assertEqual(self.run_them([shell("good", "true")], "--archive", str(archive))[0], 0)
        with tarfile.open(archive) as packed:
            self.assertEqual({"results/good.log", "results/results.jsonl", "results/summary.md"} - set(packed.getnames()), set())

    def test_a_stage_that_takes_too_long_is_ended_with_its_children(self):
        marker = self.results / "late"
        begin = time.monotonic()
        code, _ = self.run_them([shell("slow", f"(sleep 3; touch {marker}) & sleep 60", limit_s=1), shell("next", "true")])
        self.assertLess(time.monotonic() - begin, 30)
        self.assertEqual(code, 1)
        self.assertEqual(self.verdicts(), {"slow": "too long", "next": "right"})
        time.sleep(3)
        self.assertFalse(marker.exists(), "a child of the stage went on")

    def test_needs(self):
        dummies = [shell("first", "exit 1"), shell("second", "true", needs=("first",)), shell("third", "true")]
        self.run_them(dummies)
        self.assertEqual(self.verdicts(), {"first": "wrong", "second": "skipped", "third": "right"})
        # Repeated alone, the first one is right now: the second may run, in another call.
        dummies[0] = shell("first", "true")
        self.run_them(dummies, "--only", "first")
        self.run_them(dummies, "--from", "second")
        self.assertEqual(self.verdicts(), {"first": "right", "second": "right", "third": "right"})

    def test_choice(self):
        count = self.results / "count"
        dummies = [shell(name, f"echo {name} >>{count}") for name in ("a", "b", "c", "d")]
        self.run_them(dummies, "--only", "d,b")
        self.run_them(dummies, "--from", "c")
        self.run_them(dummies, "--from", "b", "--only", "a,b")
        self.assertEqual(count.read_text().split(), ["b", "d", "c", "d", "b"])
        with self.assertRaises(SystemExit):
            self.run_them(dummies, "--only", "e")
        self.assertIn("b: /bin/sh -c", self.run_them(dummies, "--dry-run")[1])
        self.assertIn("at most 120 s  does c", self.run_them(dummies, "--list")[1])
        self.assertEqual(len(count.read_text().split()), 5, "--dry-run or --list ran something")
        self.assertIn("| a | not run |", self.summary())

    def test_budget(self):
        code, printed = self.run_them([shell("a", "true", about_s=1), shell("b", "sleep 60", about_s=2),
                                       shell("c", "true", about_s=50)], "--budget", "4")
        self.assertEqual(code, 1)
        self.assertEqual(self.verdicts(), {"a": "right", "b": "too long"})  # b was given what was left
        self.assertIn("go on with --from c", printed)

    def test_what_is_done_is_on_disk_when_the_runner_dies(self):
        text = ("import sys; sys.path.insert(0, sys.argv[1]); import stages\n"
                "made = lambda name, *command: stages.Stage(name, name, command)\n"
                "stages.main(['--results', sys.argv[2]], [made('a', 'echo', '{\"figures\": \"seven\"}'),\n"
                "  made('b', '/bin/sh', '-c', 'echo started; exec sleep 20')])")
        runner = subprocess.Popen([sys.executable, "-c", text, str(GPU), str(self.results)], stdout=subprocess.DEVNULL)
        log = self.results / "b.log"
        deadline = time.monotonic() + 30
        while not (log.exists() and "\nstarted" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        runner.kill()
        runner.wait()
        self.assertIn("\nstarted", log.read_text())
        self.assertEqual(self.verdicts(), {"a": "right"})
        self.assertIn("seven", self.summary())

    def test_the_real_list(self):
        real = stage_list.stages(Stage)
        names = [stage.name for stage in real]
        self.assertEqual(len(names), len(set(names)))
        for index, stage in enumerate(real):
            self.assertLess(stage.limit_s, stages.LIMIT_S, stage.name)
            self.assertLessEqual(stage.about_s, stage.limit_s, stage.name)
            self.assertTrue(set(stage.needs) <= set(names[:index]), f"{stage.name} needs what comes later")
            self.assertIsInstance(stage.command, tuple, stage.name)
            for word in stage.command:
                if word.startswith("{here}/"):
                    self.assertTrue((GPU / word[len("{here}/"):]).is_file(), word)
        printed = self.run_them(real, "--dry-run", "--device", "cpu", "--small")[1]
        self.assertEqual(len(printed.splitlines()), len(real))

    def test_arithmetic(self):
        """Parameters of the published models; tokens are below the vocabulary and the same every time."""
        self.assertEqual(common.parameters(common.MODELS["gpt2-124m"]), 124_439_808)
        self.assertEqual(common.parameters(common.MODELS["gpt2-1.5b"]), 1_557_611_200)
        self.assertEqual(common.flops_per_token(common.MODELS["gpt2-124m"]), 6 * 124_439_808 + 12 * 12 * 768 * 1024)
        self.results.mkdir()
        written = []
        for name in ("one", "two"):
            common.write_tokens(self.results / name, 1000, 300)
            written.append((self.results / name).read_bytes())
        self.assertEqual(written[0], written[1])
        self.assertEqual(len(written[0]), 2000)
        self.assertLess(max(int.from_bytes(written[0][i:i + 2], "little") for i in range(0, 2000, 2)), 300)

    def test_match_refuses_what_is_out_of_tolerance(self):
        judge = [{"loss": 2.0, "norm": 1.0}, {"loss": 1.9, "norm": 0.9}]
        torch = {"f64": judge, "f32": [{"loss_rms": 1e-6, "gradient_error": 1e-5}, {"loss_rms": 3e-6, "gradient_error": 2e-5}]}
        good = [(2.0 + 1.9e-6, 1.0 - 1.9e-5), (1.9 - 5.9e-6, 0.9 + 3.9e-5)]
        self.assertTrue(match.compare("same", good, torch, "f32")[0])
        nan = float("nan")
        for step, value in [(0, (2.0 + 2.1e-6, 1.0)), (1, (1.9, 0.9 + 4.1e-5)), (0, (nan, 1.0)), (1, (1.9, nan))]:
            other = [value if i == step else pair for i, pair in enumerate(good)]
            self.assertFalse(match.compare("other", other, torch, "f32")[0])
        self.assertFalse(match.compare("shorter", good[:1], torch, "f32")[0])

    def test_ranks_sees_any_difference(self):
        steps = [{"step": number, **{key: number for key in ranks.EQUAL}} for number in (1, 2, 3)]
        self.assertIsNone(ranks.differences(steps, [dict(step) for step in steps]))
        for key in ranks.EQUAL:
            other = [dict(step) for step in steps]
            other[2][key] = 9
            self.assertIn(f"step 3: {key}", ranks.differences(other, steps))
            del other[2][key]
            self.assertIsNotNone(ranks.differences(other, steps))
        self.assertIsNotNone(ranks.differences(steps[:2], steps))

    def test_ratio_wants_the_same_batch(self):
        self.results.mkdir()
        batch = {"micro_batch": 4, "micro_batches": 2, "context": 64}

        def write(theirs):
            ours = {**batch, "variants": {"": {"tokens_per_s": 300.0, "mfu": 0.3}}}
            theirs = {**batch, "tokens_per_s": 200.0, "mfu": 0.2, **theirs}
            records = [{"stage": "speed-124m", "verdict": "right", "said": ours},
                       {"stage": "pytorch-124m", "verdict": "right", "said": theirs}]
            (self.results / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
            return list(ratio.rows(self.results))

        self.assertEqual([row["ratio"] for row in write({})], [1.5])
        with self.assertRaises(ValueError):
            write({"micro_batch": 8})


if __name__ == "__main__":
    os.environ.pop("ELASWAVE_BIN", None)
    unittest.main()
