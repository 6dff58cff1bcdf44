"""A seccomp filter for one process of Python: no sockets, no new processes, no signals to others, no privileges.

What a program must not try ends it (SIGSYS); what it may ask for in vain fails with an error number.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from functools import cache

from kdbuild.sandbox import _kernel
from kdbuild.sandbox._syscalls import ALLOWED, CHECKED, FATAL

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine to the column of the tables and its AUDIT_ARCH number."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
"""Set in the numbers of the other interface that an x86-64 kernel may have."""

_CLONE_THREAD = 0x10000
_STREAM, _TYPE_MASK = 1, 0xF
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
_SIGNALLING_FCNTLS = (8, 10, 15)  # F_SETOWN F_SETSIG F_SETOWN_EX: a way of having the kernel signal others

_SOME_PID = 0xFEEDBEEF
"""Stands for the process's own number; no constant of the filter is the same."""

_Op = tuple[int, int, int, int]
"""code, jump if true, jump if false, constant."""


def is_known() -> bool:
    """Return whether the tables hold this machine's system calls."""
    return platform.machine() in _ARCHITECTURES


def program(pid: int) -> bytes:
    """Return the filter of the process `pid` on this machine, as an array of `struct sock_filter`."""
    return _program().replace(struct.pack("<I", _SOME_PID), struct.pack("<I", pid))


@cache
def _program() -> bytes:
    """Return the filter of a process `_SOME_PID`: made once, before the processes are there."""
    column, audit_arch = _ARCHITECTURES[platform.machine()]
    ops: list[_Op] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, audit_arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    ops += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for numbers in ALLOWED.values():
        ops += _when(numbers[column], [(_RETURN, 0, 0, _ALLOW)])
    for name, numbers in CHECKED.items():
        ops += _when(numbers[column], list(_check(name)))
    for numbers in FATAL.values():
        ops += _when(numbers[column], [(_RETURN, 0, 0, _KILL)])
    ops.append((_RETURN, 0, 0, _ERROR | errno.ENOSYS))
    return b"".join(struct.pack("<HBBI", *op) for op in ops)


def install() -> None:
    """Confine the calling process, for good.

    Raises:
        OSError: the kernel does not let it.
    """
    code = program(os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    argument = ctypes.create_string_buffer(head, len(head))
    _kernel.prctl(_kernel.PR_SET_SECCOMP, 2, ctypes.addressof(argument))


def _when(number: int | None, then: list[_Op]) -> list[_Op]:
    """Return `then` for the system call `number`; it must end in a return."""
    return [] if number is None else [(_EQUAL, 0, len(then), number), *then]


def _check(name: str) -> Iterator[_Op]:
    if name == "clone":
        yield from _argument(0, [_CLONE_THREAD], _ALLOW, _KILL, compare=_ANY_BIT)
    elif name in ("kill", "tgkill"):
        yield from _argument(0, [_SOME_PID], _ALLOW, _KILL)
    elif name == "prlimit64":
        yield from _argument(0, [0, _SOME_PID], _ALLOW, _KILL)
    elif name == "socketpair":  # a datagram socket could be sent to others' sockets by name
        yield from _argument(1, [_STREAM], _ALLOW, _KILL, mask=_TYPE_MASK)
    elif name == "ioctl":
        yield from _argument(1, _IOCTLS, _ALLOW, _ERROR | errno.ENOTTY)
    else:
        yield from _argument(1, _SIGNALLING_FCNTLS, _KILL, _ALLOW)


def _argument(
    index: int, values: tuple[int, ...] | list[int], found: int, other: int, *, mask: int | None = None, compare: int = _EQUAL
) -> Iterator[_Op]:
    """Yield a return of `found` if argument `index` is one of `values`, else of `other`.

    The lower half of an argument is looked at: all that the kernel reads of these.
    """
    yield _LOAD, 0, 0, _ARGUMENTS + 8 * index
    if mask is not None:
        yield _AND, 0, 0, mask
    for value in values:
        yield compare, 0, 1, value
        yield _RETURN, 0, 0, found
    yield _RETURN, 0, 0, other
