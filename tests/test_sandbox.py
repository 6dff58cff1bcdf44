"""Programs that mean harm: each is stopped with a reason and harms nothing, by every means of confining that this machine has."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from kdbuild import sandbox
from kdbuild.errors import StageError
from kdbuild.sandbox import Call, Limits, Outcome, Program, _pool
from kdbuild.sandbox._pool import Worker, clean

SECRET = "sk-4f1c9a7b2d"
LIMITS = Limits(cpu_s=1, wall_s=3, memory_mib=256, disk_mib=16, output_chars=2000)
MEANS = {"all": (), "landlock alone": ("namespaces",), "namespaces alone": ("landlock",)}

LIBC = "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
RAW = LIBC + "def raw(number, *rest): return libc.syscall(number, *rest)\n"

HOSTILE: dict[str, tuple[str, set[str]]] = {
    # --- taking the machine's time, memory and disk
    "fork bomb": ("import os\nwhile True: os.fork()", {sandbox.PROCESS}),
    "fork bomb below the hook": (LIBC + "while True: libc.fork()", {sandbox.SYSTEM}),
    "endless loop": ("while True: pass", {sandbox.TIME}),
    "endless sleep": ("import time\ntime.sleep(1000)", {sandbox.TIME}),
    "loop in C": ("print(len(str(7 ** (10 ** 9))))", {sandbox.TIME, sandbox.MEMORY}),
    "memory": ("a = []\nwhile True: a.append(bytearray(1 << 20))", {sandbox.MEMORY}),
    "memory mapped": ("import mmap\nmaps = [mmap.mmap(-1, 64 << 20) for _ in range(1000)]", {sandbox.MEMORY, "raised OSError"}),
    "zip bomb": (
        "import zlib\nsmall = zlib.compress(bytes(100 << 20), 9)\nprint(len(zlib.decompress(small)) + len(zlib.decompress(small)) * 9)\n"
        "x = [zlib.decompress(small) for _ in range(9)]",
        {sandbox.MEMORY, sandbox.TIME},
    ),
    "one large file": ("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", {sandbox.DISK}),
    "many files": ("for i in range(10**6):\n    open(str(i), 'wb').write(bytes(1 << 16))", {sandbox.DISK}),
    "many folders": ("import os\nfor i in range(10**6): os.mkdir(str(i))", {sandbox.DISK}),
    "deep folders": (
        "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')",
        {sandbox.DISK, sandbox.TIME, "raised FileNotFoundError"},
    ),
    "output flood": ("while True: print('flood' * 1000)", {sandbox.OUTPUT}),
    "error flood": ("import sys\nwhile True: sys.stderr.write('flood' * 1000)", {sandbox.OUTPUT}),
    "value flood": ("answer = 'x' * 10**6", {sandbox.OUTPUT}),
    "deep recursion": ("def f(n): return f(n + 1)\nprint(f(0))", {"raised RecursionError"}),
    "recursion without a limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return repr([f(n + 1)])\nf(0)",
        {sandbox.CRASHED, sandbox.MEMORY, sandbox.TIME},
    ),
    "a number too long to write": ("answer = 10 ** 100000", {"raised ValueError"}),
    "threads": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
        {"raised RuntimeError", sandbox.MEMORY},
    ),
    "locks up its end": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\nraise SystemExit(3)",
        {sandbox.CODE},
    ),
    "folders that cannot be listed": (
        "import os\nfor i in range(5000):\n    os.mkdir(str(i), 0o300)\n    open(str(i) + '/x', 'wb').write(bytes(1 << 16))",
        {sandbox.DISK},
    ),
    # --- reaching the network
    "TCP": ("import socket\nsocket.create_connection(('127.0.0.1', {port})).sendall(b'x')", {sandbox.NETWORK}),
    "TCP below the hook": (LIBC + "print(libc.socket(2, 1, 0))", {sandbox.SYSTEM}),
    "UDP": ("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))", {sandbox.NETWORK}),
    "DNS": ("import socket\nprint(socket.gethostbyname('localhost.example'))", {sandbox.NETWORK}),
    "DNS below the hook": (LIBC + "print(libc.getaddrinfo(b'a.example', None, None, ctypes.byref(ctypes.c_void_p())))", {sandbox.SYSTEM}),
    "HTTP": ("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/')", {sandbox.NETWORK}),
    "unix socket": ("import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({unix!r})\ns.sendall(b'x')", {sandbox.NETWORK}),
    "abstract socket": (LIBC + "fd = libc.socket(1, 1, 0)\nprint(fd)", {sandbox.SYSTEM}),
    "datagrams of a pair": (
        "import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.sendto(b'x', {unix!r})",
        {sandbox.SYSTEM, sandbox.NETWORK},
    ),
    "io_uring": (RAW + "print(raw(425, 8, ctypes.create_string_buffer(120)))", {sandbox.SYSTEM}),
    # --- reading
    "a key of the environment": ("import os\nprint(os.environ['TEST_API_KEY'])", {"raised KeyError"}),
    "the parent's environment": ("print(open('/proc/{pid}/environ').read())", {sandbox.FILES}),
    "its first environment": (LIBC + "fd = libc.open(b'/proc/self/environ', 0)\nprint(os.read(fd, 9999))", {"raised OSError"}),
    "the parent's memory": (LIBC + "fd = libc.open(b'/proc/{pid}/mem', 0)\nassert fd >= 0, ctypes.get_errno()", {"raised AssertionError"}),
    "the parent's memory by a call": (RAW + "print(raw(310, {pid}, None, 0, None, 0, 0))", {sandbox.SYSTEM}),
    "a secret file": ("print(open({secret!r}).read())", {sandbox.FILES}),
    "a secret file below the hook": (
        LIBC + "fd = libc.open({secret!r}.encode(), 0)\nassert fd >= 0\nprint(os.read(fd, 99))",
        {"raised AssertionError"},
    ),
    "a secret file by a link": ("import os\nos.symlink({secret!r}, 'link')\nprint(open('link').read())", {sandbox.FILES}),
    "a secret file by a link below the hook": (
        LIBC + "libc.symlink({secret!r}.encode(), b'link')\nfd = libc.open(b'link', 0)\nassert fd >= 0\nprint(os.read(fd, 99))",
        {"raised AssertionError"},
    ),
    "a secret file by a hard link": (
        LIBC + "assert libc.link({secret!r}.encode(), b'mine') == 0\nprint(open('mine').read())",
        {"raised AssertionError"},
    ),
    "passwords": (LIBC + "fd = libc.open(b'/etc/shadow', 0)\nassert fd >= 0\nprint(os.read(fd, 99))", {"raised AssertionError"}),
    "a listing": ("import os\nprint(os.listdir({outside!r}))", {sandbox.FILES}),
    "standard input": ("print(input('password: '))", {sandbox.INPUT}),
    "standard input to the end": ("import sys\nassert sys.stdin.read()", {"raised AssertionError"}),
    # --- writing
    "a file outside": ("open({outside!r} + '/new', 'w').write('x')", {sandbox.FILES}),
    "a file outside below the hook": (
        LIBC + "fd = libc.open({outside!r}.encode() + b'/new', 65, 0o666)\nassert fd >= 0",
        {"raised AssertionError"},
    ),
    "a file outside by a folder's link": (
        LIBC + "libc.symlink({outside!r}.encode(), b'd')\nfd = libc.open(b'd/new', 65, 0o666)\nassert fd >= 0",
        {"raised AssertionError"},
    ),
    "removing": (LIBC + "assert libc.unlink({secret!r}.encode()) == 0", {"raised AssertionError"}),
    "emptying": (LIBC + "assert libc.truncate({secret!r}.encode(), 0) == 0", {"raised AssertionError"}),
    "renaming": (LIBC + "assert libc.rename({secret!r}.encode(), b'mine') == 0", {"raised AssertionError"}),
    "poisoning Python's own files": (LIBC + "fd = libc.open(os.__file__.encode(), 1)\nassert fd >= 0", {"raised AssertionError"}),
    "permissions": ("import os\nos.chmod({secret!r}, 0o777)", {sandbox.RIGHTS}),
    "permissions below the hook": (LIBC + "print(libc.chmod({secret!r}.encode(), 0o777))", {sandbox.SYSTEM}),
    # --- reaching other processes
    "a signal to the parent": ("import os, signal\nos.kill({pid}, signal.SIGKILL)", {sandbox.SIGNAL}),
    "a signal to its own parent": (LIBC + "print(libc.kill(os.getppid(), 9))", {sandbox.SYSTEM}),
    "a signal to everyone": (LIBC + "print(libc.kill(-1, 9))", {sandbox.SYSTEM}),
    "a signal by a file's owner": (
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\nprint('set')",
        {sandbox.SYSTEM},
    ),
    "ptrace": (LIBC + "print(libc.ptrace(16, {pid}, 0, 0))", {sandbox.SYSTEM}),
    "others' limits": ("import resource\nresource.prlimit({pid}, resource.RLIMIT_CPU, (1, 1))", {sandbox.SYSTEM}),
    "a child that outlives": (
        "import os, subprocess\nsubprocess.Popen(['sleep', '{mark}'], start_new_session=True)",
        {sandbox.PROCESS},
    ),
    "a daemon": ("import os\nif os.fork() == 0:\n    os.setsid()\n    os.execv('/bin/sleep', ['sleep', '{mark}'])", {sandbox.PROCESS}),
    "another program in its place": (
        LIBC + "libc.execv(b'/bin/sleep', (ctypes.c_char_p * 3)(b'sleep', b'{mark}', None))",
        {sandbox.SYSTEM},
    ),
    "a shell": ("import os\nos.system('sleep {mark}')", {sandbox.PROCESS}),
    "multiprocessing": ("import multiprocessing\nmultiprocessing.Process(target=print).start()", {sandbox.PROCESS}),
    "a pool of processes": (
        "import concurrent.futures as c\nwith c.ProcessPoolExecutor() as pool: print(list(pool.map(abs, [1])))",
        {sandbox.PROCESS, "raised PermissionError", "raised OSError", "raised FileNotFoundError"},
    ),
    "leaving the group": (LIBC + "print(libc.setpgid(0, 0))", {sandbox.SYSTEM}),
    # --- becoming more
    "root": ("import os\nos.setuid(0)\nprint(os.getuid())", {sandbox.SYSTEM}),
    "namespaces": (LIBC + "print(libc.unshare(0x10000000))", {sandbox.SYSTEM}),
    "mounting": (LIBC + "print(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))", {sandbox.SYSTEM}),
    "another root": ("import os\nos.chroot('.')", {sandbox.SYSTEM}),
    "more limits": ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))", {"raised ValueError"}),
    "the filter again": (LIBC + "assert libc.prctl(22, 0, 0, 0, 0) == 0", {"raised AssertionError"}),
    "the other interface of the kernel": (RAW + "print(raw(0x40000000 + 41, 2, 1, 0))", {sandbox.SYSTEM}),
    # --- not ending
    "deaf to signals": (
        "from signal import *\nfor s in (SIGTERM, SIGALRM, SIGINT, SIGHUP, SIGXCPU): signal(s, SIG_IGN)\nwhile True: pass",
        {sandbox.TIME},
    ),
    "catches everything": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", {sandbox.TIME}),
    "an exit code": ("raise SystemExit(7)", {sandbox.CODE}),
    "an exit message": ("import sys\nsys.exit('no')", {sandbox.CODE}),
    "a hard exit": ("import os\nprint(42, flush=True)\nos._exit(0)", {sandbox.SILENT}),
    "a signal to itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", {sandbox.ENDED}),
    "a crash": ("import ctypes\nctypes.string_at(0)", {sandbox.CRASHED}),
    "closed outputs": (
        "import os, time\nfor fd in range(256):\n    try: os.close(fd)\n    except OSError: pass\ntime.sleep(99)",
        {sandbox.TIME},
    ),
    "a forged report": ('import os\nos.write(3, b\'{{"done": true, "value": [[[\')\nos._exit(0)', {sandbox.SILENT}),
    "a forged reason": ('import os\nos.write(3, b\'{{"reason": "' + SECRET[:3] + " made up\"}}')\nos._exit(1)", {sandbox.SILENT}),
    "a report of brackets": ("import os\nos.write(3, b'[' * 9000)\nos._exit(0)", {sandbox.SILENT}),
    "not a program": ("The answer is 42.", {sandbox.SYNTAX}),
    "a program with a NUL": ("print(1)\0", {sandbox.SYNTAX}),
    "brackets": ("(" * 5000, {sandbox.SYNTAX, sandbox.MEMORY}),
}


@dataclass
class Surroundings:
    """What a program could reach, and what of it was reached."""

    folder: Path
    secret: Path
    tcp: socket.socket
    udp: socket.socket
    unix: socket.socket

    @property
    def values(self) -> dict[str, object]:
        port = self.tcp.getsockname()[1]
        return {
            "port": port,
            "unix": str(self.folder / "unix"),
            "pid": os.getpid(),
            "secret": str(self.secret),
            "outside": str(self.folder / "outside"),
            "mark": 86400 + os.getpid(),
        }


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    for place in (folder, folder / "outside", folder / ".ssh"):
        place.mkdir(exist_ok=True)
        place.chmod(0o777)
    secret = folder / ".ssh" / "id"
    secret.write_text(SECRET)
    secret.chmod(0o666)
    tcp, udp = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
    tcp.bind(("127.0.0.1", 0))
    udp.bind(("127.0.0.1", tcp.getsockname()[1]))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(folder / "unix"))
    (folder / "unix").chmod(0o777)
    for one in (tcp, unix):
        one.listen()
    for one in (tcp, udp, unix):
        one.setblocking(False)
    yield Surroundings(folder, secret, tcp, udp, unix)
    for one in (tcp, udp, unix):
        one.close()


@pytest.fixture(scope="module", params=["all", *(pytest.param(name, marks=pytest.mark.slow) for name in list(MEANS)[1:])])
def worker(request):
    os.environ["TEST_API_KEY"] = SECRET
    try:
        one = Worker(packages=False, without=MEANS[request.param])
    except StageError as error:
        pytest.skip(f"{request.param}: {error.message}")
    yield one
    one.close()
    del os.environ["TEST_API_KEY"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_gets_nothing_but_a_reason(worker, surroundings, name):
    text, reasons = HOSTILE[name]
    code = text.format(**surroundings.values) if "{" in text else text
    outcome = worker.run(Program(code), LIMITS)
    assert outcome.reason in reasons, outcome
    assert outcome.value is None
    assert SECRET not in str(outcome)
    assert surroundings.secret.read_text() == SECRET
    assert surroundings.secret.stat().st_mode & 0o777 == 0o666
    assert list((surroundings.folder / "outside").iterdir()) == []
    for one in (surroundings.tcp, surroundings.unix):
        with pytest.raises(BlockingIOError):
            one.accept()
    with pytest.raises(BlockingIOError):
        surroundings.udp.recv(1)
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(surroundings.values["mark"]) in (p.info["cmdline"] or ())]
    # and the process that ran it is as it was
    assert worker.run(Program("answer = 6 * 7"), LIMITS) == Outcome("42", "", "", 0, None)


# --- what is not hostile -------------------------------------------------------------------------------------------------

HONEST = {
    "a variable": ("answer = 6 * 7", "42"),
    "a function": ("def solution():\n    return sum(range(10))", "45"),
    "the first of the two": ("answer = 1\ndef solution(): return 2", "1"),
    "a fraction": ("from fractions import Fraction\nanswer = Fraction(1, 3) + Fraction(1, 6)", "1/2"),
    "standard modules": ("import heapq, hashlib, zoneinfo, xml.dom\nanswer = hashlib.sha256(b'').hexdigest()[:4]", "e3b0"),
    "an event loop": ("import asyncio\nasync def f(): return 7\nanswer = asyncio.run(f())", "7"),
    "a thread": ("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\nanswer = 3", "3"),
    "its own files": ("import os\nopen('a', 'w').write('x')\nos.rename('a', 'b')\nanswer = os.listdir()", "['b']"),
    "a temporary file": ("import tempfile\nwith tempfile.TemporaryFile() as f: answer = f.write(b'abc')", "3"),
    "text of any language": ("answer = 'žluť 日本 🌳'", "žluť 日本 🌳"),
    "half a character": ("answer = '\\ud800'", "?"),
    "a dataclass": ("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nanswer = A(2)", "A(x=2)"),
    "main": ("if __name__ == '__main__':\n    answer = 'yes'", "yes"),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_gives_its_value(worker, name):
    text, value = HONEST[name]
    outcome = worker.run(Program(text), LIMITS)
    assert (outcome.value, outcome.reason) == (value, None), outcome


def test_what_it_prints_is_kept_and_an_error_names_its_line(worker):
    assert worker.run(Program("print('a')\nimport sys\nprint('b', file=sys.stderr)"), LIMITS) == Outcome(None, "a\n", "b\n", 0, None)
    outcome = worker.run(Program("def f(x):\n    return 1 / x\nprint('before')\nf(0)"), LIMITS)
    assert outcome.stdout == "before\n"
    assert outcome.reason == "raised ZeroDivisionError"
    assert outcome.stderr == (
        'File "program.py", line 4, in <module>\n    f(0)\nFile "program.py", line 2, in f\n    return 1 / x\n'
        "ZeroDivisionError: division by zero"
    )
    assert worker.run(Program("x = = 1"), LIMITS).stderr == "line 1: SyntaxError: invalid syntax"
    assert worker.run(Program("class Mine(Exception): pass\nraise Mine('x')"), LIMITS).reason == "raised an error"


def test_nothing_stays_for_the_next_program(worker):
    assert worker.run(Program("import math\nmath.pi = 3\nopen('left', 'w').write('x')\nanswer = 1"), LIMITS).value == "1"
    assert worker.run(Program("import math, os\nanswer = (math.pi > 3.1, os.listdir())"), LIMITS).value == "(True, [])"


def test_every_means_gives_the_same_outcome():
    programs = [Program(text) for text, _ in HONEST.values()] + [Program("import os\nos.mkdir('/x/y')"), Program("open('no')")]
    found = []
    for without in MEANS.values():
        try:
            one = Worker(packages=False, without=without)
        except StageError:
            continue
        found.append([one.run(program, LIMITS) for program in programs])
        one.close()
    assert all(outcomes == found[0] for outcomes in found)
    assert len(found[0]) == len(programs)


def test_texts_are_cleaned():
    assert clean("a\x1b[31mred\x1b[0m\x00\x07b\r\n<f at 0x7f00aa11bb22>\ud800") == "ared" + "b\n<f at 0x0>?"
    assert clean(f"{sys.prefix}/lib/x.py and /tmp/kdbuild-1/f", "/tmp/kdbuild-1") == "/python/lib/x.py and /program/f"
    assert clean("0xff is 255") == "0xff is 255"


# --- many, and the same each time ------------------------------------------------------------------------------------------


def test_outcomes_come_in_order_and_repeat():
    programs = [Program(f"answer = {i} ** 2") for i in range(20)] + [Program("answer = 1 ** 2")]
    assert [outcome.value for outcome in sandbox.run(programs)] == [*(str(i * i) for i in range(20)), "1"]
    text = "import random\nanswer = (hash('a'), random.random(), {'x', 'y', 'z'}, object())"
    first = sandbox.run([Program(text)])
    _pool.close()
    _pool._outcomes.clear()
    assert sandbox.run([Program(text)]) == first
    assert first[0].reason is None


@pytest.mark.parametrize(
    "text",
    [
        "import time\nanswer = time.time_ns()",
        "import uuid\nanswer = uuid.uuid4()",
        "import os\nanswer = os.urandom(8)",
        "import os\nprint(os.getpid())",
        "import secrets\nraise ValueError(secrets.token_hex())",
    ],
)
def test_what_is_not_the_same_twice_is_refused(text):
    (outcome,) = sandbox.run([Program(text)])
    assert (outcome.value, outcome.reason) == (None, sandbox.UNSTEADY)


TOOL = '''
"""Tools."""
class Sum:
    @staticmethod
    def add(a: int, b: int = 1) -> int:
        return a + b
def report(what):
    return {"what": what, "n": [1, 2.5, None]}
def text(): return "ž"
def fails(x): raise ValueError(f"no {x}")
'''


@pytest.mark.parametrize(
    ("function", "arguments", "value", "reason"),
    [
        ("Sum.add", '{"a": 2, "b": 3}', "5", None),
        ("Sum.add", '{"a": 2}', "3", None),
        ("report", '{"what": "ž"}', '{"n": [1, 2.5, null], "what": "ž"}', None),
        ("text", "{}", "ž", None),
        ("fails", '{"x": 1}', None, "raised ValueError"),
        ("absent", "{}", None, "raised AttributeError"),
        ("Sum.add", '{"c": 2}', None, "raised TypeError"),
    ],
)
def test_a_tool_of_a_file_is_called(function, arguments, value, reason):
    (outcome,) = sandbox.run([Call(function, arguments, code=TOOL)])
    assert (outcome.value, outcome.reason) == (value, reason), outcome


def test_a_tool_of_a_package_is_called():
    first, second = sandbox.run([Call("hypot", "{}", module="math"), Call("parse", '{"version": "1.2"}', module="packaging.version")])
    assert first.value == "0.0"
    assert second.value == "1.2"
    (outcome,) = sandbox.run([Call("nothing", module="no_such_package")])
    assert outcome.reason == "raised ModuleNotFoundError"


def test_a_program_sees_no_installed_packages():
    assert sandbox.run([Program("import packaging")])[0].reason == "raised ModuleNotFoundError"


# --- where it cannot be had ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", [("namespaces", "landlock"), ("seccomp",)])
def test_a_machine_that_cannot_confine_is_refused(monkeypatch, without):
    monkeypatch.delenv(sandbox.SANDBOX_VARIABLE, raising=False)
    with pytest.raises(StageError, match="cannot confine programs") as error:
        Worker(packages=False, without=without)
    assert "KDBUILD_SANDBOX=weak" in str(error.value)
    monkeypatch.setenv(sandbox.SANDBOX_VARIABLE, "weak")
    worker = Worker(packages=False, without=without)
    assert worker.run(Program("answer = 2"), LIMITS).value == "2"
    assert worker.run(Program("while True: pass"), LIMITS).reason == sandbox.TIME
    worker.close()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_another_system_is_told_in_a_sentence(monkeypatch, system):
    monkeypatch.setenv(sandbox.SANDBOX_VARIABLE, "weak")
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(StageError, match=f"Linux only, since {system}"):
        Worker(packages=False)


def test_programs_end_with_who_started_them(tmp_path):
    text = f"""
        from kdbuild.sandbox import Limits, Program, run
        import threading, sys
        threading.Thread(target=run, args=([Program("while True: pass  # {tmp_path}")], Limits(cpu_s=60, wall_s=60))).start()
        while True: pass
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(text)])
    found: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while len(found) < 2 and time.monotonic() < deadline:  # the worker and the program
        found = psutil.Process(parent.pid).children(recursive=True)
        time.sleep(0.05)
    assert len(found) >= 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(found, timeout=30)
    assert not alive


def test_several_threads_may_run_programs():
    results: dict[int, str | None] = {}

    def work(i: int) -> None:
        results[i] = sandbox.run([Program(f"answer = {i} + 1000")])[0].value

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: str(i + 1000) for i in range(6)}
