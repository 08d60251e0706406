#!/usr/bin/env python3
"""All that is to be run on a host with a GPU, as a list of stages (stage_list.py): each under eight minutes, its log and result on
disk before the next one starts, to be repeated alone or gone on from anywhere.

    stages.py --list                              the stages, with their limits
    stages.py [--results DIR] [--only A,B] [--from NAME] [--budget SECONDS] [--archive FILE] [--device cuda|cpu] [--small]
        [--dry-run]

DIR (gpu-results) gets NAME.log, a line of results.jsonl for each run of a stage, and summary.md, written anew after each stage;
results of earlier calls stay and count, for the stages that need another and in the summary. A stage that fails stops nobody but
those that need it. --budget: no stage is started that takes longer than what is left of it; the last line says how to go on.
--archive: all of DIR as one .tar.gz, written anew after each stage, for hosts that give few files back.
--device cpu --small tries the stages themselves where there is no GPU.

A stage's command ends with 0 (right), 77 (cannot run here) or anything else (wrong); its last line on stdout may be a JSON object,
of which `figures` stands in the summary. Exit code: 0, or 1 when a stage went wrong."""
import argparse
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time

import common

LIMIT_S = 480
GRACE_S = 10  # between TERM and KILL


@dataclasses.dataclass(frozen=True)
class Stage:
    """`command` is a list of words in which {here} is this folder, {results}, {device} and {size} what they are called, {python}
    this interpreter, and a word `@NAME` the path of a program."""
    name: str
    what: str
    command: tuple
    limit_s: int = 120
    about_s: int = 30  # what it is expected to take
    needs: tuple = ()
    keep: str = ""  # lines of stdout for the summary, when there is no JSON: a regular expression
    skipped: str = ""  # a line of stdout that says that nothing was tried
    variables: tuple = ()  # "NAME=VALUE", added to the environment


class Unavailable(Exception):
    pass


def fill(stage, options):
    """The words of the command. Raises Unavailable when a program is not there."""
    words = []
    values = {"here": os.path.dirname(os.path.abspath(__file__)), "results": str(options.results), "device": options.device,
              "size": "small" if options.small else "full", "python": sys.executable}
    for word in stage.command:
        if word.startswith("@"):
            path = common.program(word[1:])
            if path is None:
                raise Unavailable(f"there is no program {word[1:]}")
            words.append(path)
            continue
        for name, value in values.items():
            word = word.replace("{" + name + "}", value)
        words.append(word)
    return words


def end(process):
    """TERM for the stage's process group, KILL when that was not enough."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGKILL:
            return


def run_command(words, variables, log_path, limit_s):
    """Output goes to the log as it comes. Returns (exit code or None when it took too long, stdout)."""
    environment = common.environment(**dict(entry.split("=", 1) for entry in variables))
    with open(log_path, "wb") as log:
        log.write(("+ " + " ".join(words) + "\n").encode())
        log.flush()
        try:
            process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                       start_new_session=True)
        except OSError as error:
            raise Unavailable(str(error)) from error
        output = []

        def copy():
            for line in process.stdout:
                output.append(line)
                log.write(line)
                log.flush()

        reader = threading.Thread(target=copy, daemon=True)
        reader.start()
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        end(process)  # also what it left behind
        reader.join(GRACE_S)
        if not reader.is_alive():
            process.stdout.close()
    return code, b"".join(output).decode(errors="replace")


def last_object(text):
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except ValueError:
                return {}
    return {}


def judge(stage, code, output):
    """(verdict, figures, what the command said as JSON)."""
    said = last_object(output)
    figures = said.get("figures", "")
    if not figures and stage.keep:
        figures = "; ".join(line.strip() for line in output.splitlines() if re.search(stage.keep, line))
    if code is None:
        return "too long", figures, said
    if code == common.SKIPPED or (stage.skipped and re.search(stage.skipped, output, re.MULTILINE)):
        return "skipped", figures, said
    return ("right" if code == 0 else "wrong"), figures, said


def last_line(path):
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def latest(results):
    """The newest record of each stage."""
    return {record["stage"]: record for record in common.json_lines(results / "results.jsonl")}


def write_summary(options, stages):
    records = latest(options.results)
    lines = ["| stage | verdict | seconds | |", "|---|---|---|---|"]
    for stage in stages:
        record = records.get(stage.name)
        if record is None:
            lines.append(f"| {stage.name} | not run | | {stage.what} |")
            continue
        figures = str(record["figures"]).replace("|", "\\|").replace("\n", "<br>")
        tried = " (tried: " + record["device"] + ", small)" if record["small"] else ""
        lines.append(f"| {stage.name} | {record['verdict']}{tried} | {record['seconds']:.0f} | {figures} |")
    tables = [record["said"]["table"] for stage in stages
              if (record := records.get(stage.name)) and record["said"].get("table")]
    text = "\n".join(lines) + "\n" + "".join(f"\n{table}\n" for table in tables)
    path = options.results / "summary.md"
    path.with_suffix(".part").write_text(text, encoding="utf-8")
    os.replace(path.with_suffix(".part"), path)
    return text


def write_archive(options):
    part = options.archive.with_suffix(".part")
    with tarfile.open(part, "w:gz") as archive:
        archive.add(options.results, arcname=options.results.name)
    os.replace(part, options.archive)


def run_stage(stage, options):
    begin = time.monotonic()
    record = {"stage": stage.name, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "device": options.device,
              "small": options.small, "command": list(stage.command), "code": None, "figures": "", "said": {}}
    records = latest(options.results)
    missing = [name for name in stage.needs if records.get(name, {}).get("verdict") != "right"]
    try:
        if missing:
            raise Unavailable("needs " + ", ".join(missing))
        words = fill(stage, options)
        code, output = run_command(words, stage.variables, options.results / f"{stage.name}.log", stage.limit_s)
        verdict, figures, said = judge(stage, code, output)
        if verdict not in ("right", "skipped") and not figures:
            figures = last_line(options.results / f"{stage.name}.log")
        record.update(command=words, code=code, verdict=verdict, figures=figures, said=said)
    except Unavailable as reason:
        record.update(verdict="skipped", figures=str(reason))
    record["seconds"] = round(time.monotonic() - begin, 1)
    with open(options.results / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())
    print(f"{stage.name}: {record['verdict']} after {record['seconds']:.0f} s. {record['figures']}", flush=True)
    return record["verdict"]


def choose(stages, options):
    """Those asked for, in the order of the list."""
    names = [stage.name for stage in stages]
    wanted = options.only.split(",") if options.only else names
    unknown = [name for name in [*wanted, *([options.from_] if options.from_ else [])] if name not in names]
    if unknown:
        raise SystemExit(f"there is no stage {', '.join(unknown)}; there are {', '.join(names)}")
    chosen = [stage for stage in stages if stage.name in wanted]
    return [stage for stage in chosen if not options.from_ or names.index(stage.name) >= names.index(options.from_)]


def run_stages(stages, options):
    options.results.mkdir(parents=True, exist_ok=True)
    begin, wrong = time.monotonic(), False
    for stage in choose(stages, options):
        left = options.budget - (time.monotonic() - begin) if options.budget else LIMIT_S
        if stage.about_s > left:
            print(f"budget spent; go on with --from {stage.name}", flush=True)
            break
        if options.budget:
            stage = dataclasses.replace(stage, limit_s=int(min(stage.limit_s, left)))
        wrong = run_stage(stage, options) not in ("right", "skipped") or wrong
        write_summary(options, stages)
        if options.archive:
            write_archive(options)
    print(write_summary(options, stages), end="", flush=True)
    return 1 if wrong else 0


def main(arguments, stages):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("gpu-results"))
    parser.add_argument("--only", default="", metavar="A,B")
    parser.add_argument("--from", dest="from_", default="", metavar="NAME")
    parser.add_argument("--budget", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--archive", type=pathlib.Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)
    options.results = options.results.resolve()
    if options.list:
        for stage in stages:
            needs = f" (needs {', '.join(stage.needs)})" if stage.needs else ""
            print(f"{stage.name:16} {stage.about_s:4} s, at most {stage.limit_s:3} s  {stage.what}{needs}")
        return 0
    if options.dry_run:
        for stage in choose(stages, options):
            try:
                print(f"{stage.name}: {' '.join([*stage.variables, *fill(stage, options)])}")
            except Unavailable as reason:
                print(f"{stage.name}: skipped, {reason}")
        return 0
    return run_stages(stages, options)


if __name__ == "__main__":
    import stage_list
    sys.exit(main(sys.argv[1:], stage_list.stages(Stage)))
