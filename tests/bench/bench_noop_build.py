"""A no-op `kdbuild build` against `dvc repro`, and `kdbuild --help` against `dvc --version`: `python tests/bench/bench_noop_build.py`.

CPU time (user and system, of the process and its children), as the median ratio of interleaved pairs. The project is really built first,
with the fake teacher: 25 specs of four stages (compile, elicit, select, report) and the structure stage, 101 stages; that takes some
minutes. `--plan` also times `kdbuild plan` on it. Exits with 1 where a limit is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NUM_SPECS, NUM_SEEDS, NUM_PAIRS = 25, 8, 7
MAX_NOOP, MAX_HELP = 1 / 5, 0.7
TOOLS = Path(sys.executable).parent
ENV = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

PARAMS = "teachers:\n  asked: {kind: fake}\n"
SPEC = """\
target: {{skill: testing}}
teacher: asked
seeds: {{kind: dataset, path: specs/seeds/s{i}.jsonl}}
phases:
  sft:
    elicit: [{{kind: label, max_new_tokens: 12, system: "Answer as number {i}."}}]
    select: [{{kind: exact-dedup}}]
"""


def start(root: Path) -> int:
    """Build the project; return its number of stages."""
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "config", "core.analytics", "false"]):
        subprocess.run(command, cwd=root, env=ENV, check=True)
    (root / "specs/seeds").mkdir(parents=True)
    (root / "params.yaml").write_text(PARAMS)
    for i in range(NUM_SPECS):
        (root / f"specs/t{i:02d}.yaml").write_text(SPEC.format(i=i))
        rows = [{"id": f"s{n}", "prompt": f"Say {n} and {i}."} for n in range(NUM_SEEDS)]
        (root / f"specs/seeds/s{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subprocess.run(["kdbuild", "build"], cwd=root, env=ENV, check=True, stdout=subprocess.DEVNULL)
    return sum(line.startswith("  ") and not line.startswith("   ") for line in (root / "dvc.yaml").read_text().splitlines())


def cpu_s(command: list[str], root: Path) -> float:
    """Return the CPU seconds of a command that must succeed."""
    process = subprocess.Popen(command, cwd=root, env=ENV, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_utime + usage.ru_stime


def compare(ours: list[str], theirs: list[str], root: Path, limit: float) -> bool:
    """Print the median ratio of interleaved pairs; return whether it is within the limit."""
    cpu_s(ours, root), cpu_s(theirs, root)
    pairs = [(cpu_s(ours, root), cpu_s(theirs, root)) for _ in range(NUM_PAIRS)]
    ratio = statistics.median(a / b for a, b in pairs)
    a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
    verdict = "ok" if ratio <= limit else "MISSED"
    print(f"{' '.join(ours)}: {a:.3f} s; {' '.join(theirs)}: {b:.3f} s; ratio {ratio:.3f} (at most {limit:.2f}) {verdict}", flush=True)
    return ratio <= limit


def main() -> int:
    """Run both comparisons."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        good = compare(["kdbuild", "--help"], ["dvc", "--version"], root, MAX_HELP)
        print(f"{start(root)} stages, {NUM_PAIRS} pairs", flush=True)
        good &= compare(["kdbuild", "build"], ["dvc", "repro"], root, MAX_NOOP)
        if "--plan" in sys.argv:
            compare(["kdbuild", "plan"], ["dvc", "status"], root, 1.0)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
