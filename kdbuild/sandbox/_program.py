"""What runs inside a confined process: the program, and a report of how it ended.

The hook that watches it is for the words of the report alone: a program may get around it, and meets the kernel.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import importlib
import json
import linecache
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any, Never

from kdbuild import sandbox

REPORT = 3
"""The file descriptor that the report goes to."""
_NAME, _TOOL = "program.py", "tool.py"
_MAX_FRAMES = 5
_NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")
_PROCESS = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen", "pty.spawn")
_RIGHTS = ("os.chmod", "os.chown", "os.setxattr", "os.removexattr")
_PATHS = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_WHY = {
    **dict.fromkeys(_NETWORK, sandbox.NETWORK),
    **dict.fromkeys(_PROCESS, sandbox.PROCESS),
    **dict.fromkeys(_RIGHTS, sandbox.RIGHTS),
    **dict.fromkeys((*_PATHS, "os.chdir", "os.utime"), sandbox.FILES),
    "builtins.input": sandbox.INPUT,
    "os.kill": sandbox.SIGNAL,
    "os.killpg": sandbox.SIGNAL,
    "socket.__new__": sandbox.NETWORK,
    "ctypes.dlopen": sandbox.FILES,
}


def main(job: dict[str, Any], folder: str, readable: tuple[str, ...], search: list[str]) -> Never:
    """Run a job (fields of `Program` or `Call`) and end this process; `search` are folders of installed packages."""
    random.seed(0)
    sys.path = [path for path in sys.path if any(path == one or path.startswith(f"{one}/") for one in readable)] + search
    sys.argv = [_NAME]
    tempfile.tempdir = folder
    sys.addaudithook(_watch(folder, (folder, *readable, *search)))
    try:
        value = _call(job) if "function" in job else _execute(job)
    except SystemExit as end:
        _end(_of_exit(end))
    except MemoryError:
        _write(_MEMORY)
        os._exit(1)
    except BaseException as error:
        _end({"reason": _reason(error), "error": _describe(error)}, code=1)
    _end({"done": True, "value": value})


_MEMORY = json.dumps({"reason": sandbox.MEMORY}).encode()
"""Made before: there may be no memory to make it of."""


def _execute(job: dict[str, Any]) -> str | None:
    module = _load("__main__", job["code"], _NAME)
    for name in job["results"]:
        if name in module.__dict__:
            found = module.__dict__[name]
            found = found() if callable(found) else found
            return None if found is None else str(found)
    return None


def _call(job: dict[str, Any]) -> str:
    name = job["module"] or "tool"
    place: Any = importlib.import_module(name) if job["code"] is None else _load(name, job["code"], _TOOL)
    for part in job["function"].split("."):
        place = getattr(place, part)
    returned = place(**json.loads(job["arguments"]))
    if isinstance(returned, str):
        return returned
    try:
        return json.dumps(returned, ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError):
        return str(returned)


def _load(name: str, text: str, file: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(_compiled(text, file), module.__dict__)
    return module


def _compiled(text: str, file: str) -> CodeType:
    try:
        return compile(text, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        _end({"reason": sandbox.SYNTAX, "error": f"{where}{type(error).__name__}: {getattr(error, 'msg', error)}"}, code=1)


# --- how it ended ------------------------------------------------------------------------------------------------------


def _end(report: dict[str, Any], code: int = 0) -> Never:
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    _write(json.dumps(report).encode())
    os._exit(code)


def _write(report: bytes) -> None:
    while report:
        report = report[os.write(REPORT, report) :]


def _of_exit(end: SystemExit) -> Never:
    """A program may say that it is done; a code that is not 0, or a message, says that it failed."""
    if end.code in (None, 0):
        _end({"done": True, "value": None})
    code = end.code if isinstance(end.code, int) else 1
    _end({"reason": sandbox.CODE, "error": "" if isinstance(end.code, int) else str(end.code)}, code=code & 0xFF or 1)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return sandbox.DISK
    name = type(error).__name__
    return f"raised {name}" if getattr(builtins, name, None) is type(error) else sandbox.RAISED


def _describe(error: BaseException) -> str:
    """Return an error as a person would want it: the lines of the program on the way to it, and what it says."""
    walked = [one for one in traceback.walk_tb(error.__traceback__) if one[0].f_code.co_filename in (_NAME, _TOOL)]
    frames = traceback.StackSummary.extract(iter(walked[-_MAX_FRAMES:]))
    lines = [f'File "{frame.filename}", line {frame.lineno}, in {frame.name}\n    {frame.line}' for frame in frames]
    try:
        said = str(error)
    except Exception:
        said = ""
    return "\n".join([*lines, f"{type(error).__name__}: {said}" if said else type(error).__name__])


# --- watching ----------------------------------------------------------------------------------------------------------


def _watch(folder: str, allowed: tuple[str, ...]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return the hook that ends the process when it tries what it must not."""
    readable = tuple(path.rstrip("/") for path in (*allowed, "/dev/null", "/dev/urandom", "/dev/zero"))

    def is_own(path: str) -> bool:
        place = os.path.realpath(path)
        return any(place == one or place.startswith(f"{one}/") for one in readable)

    def may(event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "socket.__new__":
            return _is_pair()
        if event == "os.kill":
            return bool(arguments[0] == os.getpid())
        paths = [os.fsdecode(one) for one in arguments[:2] if isinstance(one, (str, bytes))]
        if event == "open":
            paths = paths[:1]
        if event == "ctypes.dlopen":
            paths = [path for path in paths if "/" in path]
        return _WHY[event] is sandbox.FILES and all(is_own(path) for path in paths)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        why = _WHY.get(event)
        if why is not None and not may(event, arguments):
            _end({"reason": why}, code=1)

    return hook


def _is_pair() -> bool:
    """Return whether the socket that is being made is one of a pair, as an event loop has."""
    frame = sys._getframe(3)
    return "socketpair" in (frame.f_code.co_name, frame.f_back.f_code.co_name if frame.f_back else "")
