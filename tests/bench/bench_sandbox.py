"""The sandbox against a bare, unconfined `python -I -S -c` a program, in one run: `python tests/bench/bench_sandbox.py`.

200 short programs, as `pot` has them; both run as many at once as there are cores. The sandbox confines each and runs each twice. The
median of the paired time ratios decides; exits with 1 where the limit is missed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kdbuild import sandbox
from kdbuild.sandbox import Program, _pool

NUM_PROGRAMS, NUM_PAIRS, MIN_TIMES = 200, 7, 0.5


def programs(turn: int) -> list[str]:
    """Return programs that were not run before."""
    return [f"bags = {i}\napples = {turn}\ntotal = sum(bags for _ in range(apples))\nanswer = total" for i in range(NUM_PROGRAMS)]


def by_sandbox(texts: list[str]) -> list[str | None]:
    """Run each confined, twice."""
    return [outcome.value for outcome in sandbox.run([Program(text) for text in texts])]


def by_process(texts: list[str]) -> list[str | None]:
    """Run each in a new Python, confined by nothing."""

    def one(text: str) -> str:
        command = [sys.executable, "-I", "-S", "-c", f"{text}\nprint(answer)"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(one, texts))


def seconds(run: Callable[[list[str]], list[str | None]], texts: list[str]) -> tuple[float, list[str | None]]:
    """Return how long a way of running takes, and its results."""
    begin = time.perf_counter()
    found = run(texts)
    return time.perf_counter() - begin, found


def main() -> int:
    """Compare; return the exit code."""
    by_sandbox(programs(0)), by_process(programs(0)[:8])
    ratios = []
    for turn in range(1, NUM_PAIRS + 1):
        ways = [by_sandbox, by_process] if turn % 2 else [by_process, by_sandbox]
        took = {way.__name__: seconds(way, programs(turn)) for way in ways}
        assert took["by_sandbox"][1] == took["by_process"][1]
        ours, theirs = took["by_sandbox"][0], took["by_process"][0]
        ratios.append(theirs / ours)
        print(f"sandbox {ours / NUM_PROGRAMS * 1e3:6.2f} ms a program, bare process {theirs / NUM_PROGRAMS * 1e3:6.2f} ms", flush=True)
    _pool.close()
    ratio = statistics.median(ratios)
    print(f"the sandbox runs programs {ratio:.2f} times as fast as a bare process each (at least {MIN_TIMES} wanted)")
    return 0 if ratio >= MIN_TIMES else 1


if __name__ == "__main__":
    sys.exit(main())
