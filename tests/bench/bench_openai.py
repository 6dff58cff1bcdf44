"""The `openai` teacher against a local server in a process of its own: how full it keeps the server's slots, and what a call costs here.

Slot use: 256 slots, lognormal latency (sigma 0.6), 20,000 rows; the share of the slots' time that is work, without and with limits that
tell which answers are long. Ahead: rows a second against gathering 50 calls at a time from the same server. CPU: seconds of this process
a call, row key and durable write of the answer included, against a bare aiohttp loop and against the openai SDK, in interleaved pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVERS = Path(__file__).parents[1] / "teachers" / "servers.py"
sys.path.insert(0, str(SERVERS.parent))
import servers  # noqa: E402

SLOTS, SIGMA, MEDIAN_S = 256, 0.6, 0.4
NUM_ROWS, NUM_BARRIER_ROWS = 20_000, 1_500
NUM_CALLS, AT_A_TIME, NUM_PAIRS = 3_000, 64, 5
LEAST_USE, LEAST_USE_WITH_HINT, LEAST_AHEAD = 0.93, 0.98, 5.0
MOST_OF_BARE, MOST_OF_SDK = 2.0, 1 / 8
FILLER = "Say in a few sentences what a person should know about this subject, and give an example. " * 11


def prompt(i: int) -> str:
    """Return a prompt of about 1 kB."""
    return f"Subject {i}. {FILLER}"


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """Run a server; yield its URL."""
    process = subprocess.Popen([sys.executable, str(SERVERS), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


def stats(url: str) -> dict:
    """Return what the server has counted."""
    import urllib.request

    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats", timeout=60) as page:
        return json.load(page)


# --- one measurement, in a fresh process ------------------------------------------------------------------------------------


def kdbuild(url: str, num_rows: int, at_a_time: int, hint: bool) -> None:
    """Ask through the teacher, and store every answer durably under its key."""
    from kdbuild.records import Message
    from kdbuild.rows.store import Store
    from kdbuild.teachers import Ask, row_key
    from kdbuild.teachers.openai import Openai

    limits = [int(1000 * servers.latency_of(prompt(i), MEDIAN_S, SIGMA)) if hint else 4000 for i in range(num_rows)]
    asks = [Ask(f"row-{i}", (Message("user", prompt(i)),), limits[i]) for i in range(num_rows)]
    teacher = Openai(model=servers.MODEL, endpoints=(url,), concurrency={"start": at_a_time, "most": at_a_time})
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder)) as store, teacher.open(Path(), None) as session:
        identity = teacher.answer_identity(Path())
        with clock(num_rows):
            for index, answer in session.generate(asks):
                store.put(row_key(identity, asks[index]), asks[index].max_new_tokens, answer, row=asks[index].row)
            store.flush()
        assert store.num_answers() == num_rows


def bare(url: str, num_rows: int, at_a_time: int, barrier: bool) -> None:
    """Ask with aiohttp and orjson and nothing else: a window, or one gather after the other."""
    import aiohttp
    import orjson
    import uvloop

    async def ask(http: aiohttp.ClientSession, i: int) -> str:
        body = {"model": servers.MODEL, "messages": [{"role": "user", "content": prompt(i)}], "max_tokens": 4000, "temperature": 0.0}
        async with http.post(f"{url}/chat/completions", data=orjson.dumps(body), headers={"Content-Type": "application/json"}) as response:
            return orjson.loads(await response.read())["choices"][0]["message"]["content"]

    async def run() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            with clock(num_rows):
                if barrier:
                    for start in range(0, num_rows, at_a_time):
                        await asyncio.gather(*(ask(http, i) for i in range(start, min(start + at_a_time, num_rows))))
                else:
                    await window(lambda i: ask(http, i), num_rows, at_a_time)

    uvloop.run(run())


def sdk(url: str, num_rows: int, at_a_time: int, barrier: bool) -> None:
    """Ask with `openai.AsyncOpenAI`."""
    import openai
    import uvloop

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:

            async def ask(i: int) -> str:
                messages = [{"role": "user", "content": prompt(i)}]
                found = await client.chat.completions.create(model=servers.MODEL, messages=messages, max_tokens=4000, temperature=0.0)
                return found.choices[0].message.content

            with clock(num_rows):
                await window(ask, num_rows, at_a_time)

    uvloop.run(run())


async def window(ask, num_rows: int, at_a_time: int) -> None:
    """Ask everything, so many at a time."""
    left = iter(range(num_rows))

    async def work() -> None:
        for i in left:
            await ask(i)

    await asyncio.gather(*(work() for _ in range(at_a_time)))


@contextmanager
def clock(num_rows: int) -> Iterator[None]:
    """Print the wall and CPU seconds of what is done."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    yield
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"wall_s": wall_s, "cpu_us": 1e6 * cpu_s / num_rows}))


KINDS = {"kdbuild": kdbuild, "bare": bare, "sdk": sdk}


def measure(kind: str, url: str, num_rows: int, at_a_time: int, option: bool = False) -> dict:
    """Run one measurement in a fresh process."""
    command = [sys.executable, __file__, "--one", kind, url, str(num_rows), str(at_a_time), str(int(option))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- the comparisons --------------------------------------------------------------------------------------------------------


def say(what: str, value: float, limit: float, *, at_most: bool = False) -> bool:
    """Print a value against its limit; return whether it holds."""
    good = value <= limit if at_most else value >= limit
    print(f"{what}: {value:.3f} (at {'most' if at_most else 'least'} {limit:.3f}) {'ok' if good else 'MISSED'}", flush=True)
    return good


def slot_use() -> bool:
    """Keep 256 slots full, and compare with a barrier of 50."""
    settings = ("--slots", str(SLOTS), "--median-s", str(MEDIAN_S), "--sigma", str(SIGMA))
    good, rates = True, {}
    for hint, least in ((False, LEAST_USE), (True, LEAST_USE_WITH_HINT)):
        with server(*settings) as url:
            found = measure("kdbuild", url, NUM_ROWS, 2 * SLOTS, hint)
            use = stats(url)["busy_s"] / (SLOTS * found["wall_s"])
        rates[hint] = NUM_ROWS / found["wall_s"]
        print(f"{NUM_ROWS} rows in {found['wall_s']:.1f} s, {rates[hint]:.0f} rows/s, {found['cpu_us']:.0f} us of CPU a row")
        good &= say(f"slot use {'with' if hint else 'without'} a length hint", use, least)
    with server(*settings) as url:
        barrier = NUM_BARRIER_ROWS / measure("bare", url, NUM_BARRIER_ROWS, 50, True)["wall_s"]
    print(f"gather of 50: {barrier:.0f} rows/s")
    return good & say("rows a second against gather of 50", rates[False] / barrier, LEAST_AHEAD)


def cpu() -> bool:
    """Compare CPU a call in interleaved pairs."""
    ratios: dict[str, list[float]] = {"bare": [], "sdk": []}
    costs: dict[str, list[float]] = {"kdbuild": [], "bare": [], "sdk": []}
    with server() as url:
        for kind in costs:
            measure(kind, url, 200, AT_A_TIME)
        for _ in range(NUM_PAIRS):
            for kind in costs:
                costs[kind].append(measure(kind, url, NUM_CALLS if kind != "sdk" else NUM_CALLS // 5, AT_A_TIME)["cpu_us"])
            for kind, found in ratios.items():
                found.append(costs["kdbuild"][-1] / costs[kind][-1])
    print(f"us of CPU a call (medians): { ({kind: round(statistics.median(found)) for kind, found in costs.items()}) }")
    good = say("CPU a call against a bare aiohttp loop", statistics.median(ratios["bare"]), MOST_OF_BARE, at_most=True)
    return good & say("CPU a call against AsyncOpenAI", statistics.median(ratios["sdk"]), MOST_OF_SDK, at_most=True)


def main() -> int:
    """Run the comparisons, or one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=5)
    parser.add_argument("--only", choices=["slots", "cpu"])
    given = parser.parse_args()
    if given.one:
        kind, url, num_rows, at_a_time, option = given.one
        KINDS[kind](url, int(num_rows), int(at_a_time), bool(int(option)))
        return 0
    good = [part() for name, part in (("cpu", cpu), ("slots", slot_use)) if given.only in (None, name)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
