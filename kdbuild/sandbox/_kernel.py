"""What Linux offers a process to confine itself, called through ctypes: Python 3.11 has no names for it."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
# These have one number on every architecture.
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446
_AT_RECURSIVE = 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4

_WORD = ctypes.c_ulong


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call.

    Raises:
        OSError: it failed.
    """
    words = [_WORD(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *words), f"system call {number}")


def prctl(option: int, first: int = 0, second: int = 0) -> None:
    """Change how the kernel treats the calling process.

    Raises:
        OSError: it failed.
    """
    _checked(_libc().prctl(ctypes.c_int(option), _WORD(first), _WORD(second), _WORD(0), _WORD(0)), f"prctl {option}")


def unshare(flags: int) -> None:
    """Give the calling process namespaces of its own.

    Raises:
        OSError: it is not allowed to.
    """
    _checked(_libc().unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount.

    Raises:
        OSError: it failed.
    """
    kind_bytes, data_bytes = (None if text is None else text.encode() for text in (kind, data))
    _checked(_libc().mount(source.encode(), target.encode(), kind_bytes, _WORD(flags), data_bytes), f"mount on {target}")


def set_mount_attributes(target: str, attributes: int, *, below: bool) -> None:
    """Add attributes to the mount at `target` and, where `below`, to all inside (Linux 5.12).

    Raises:
        OSError: it failed.
    """
    wanted = struct.pack("<QQQQ", attributes, 0, 0, 0)
    syscall(_MOUNT_SETATTR, 2**64 - 100, target.encode(), _AT_RECURSIVE if below else 0, wanted, len(wanted))


def enter_root(folder: str) -> None:
    """Make the mount at `folder` the root, and let go of the old one.

    Raises:
        OSError: it failed.
    """
    os.chdir(folder)
    syscall(_PIVOT_ROOT[os.uname().machine], b".", b".")
    _checked(_libc().umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up all capabilities, for good.

    Raises:
        OSError: it failed.
    """
    syscall(_CAPSET[os.uname().machine], struct.pack("<II", 0x20080522, 0), bytes(24))


# --- Landlock ---------------------------------------------------------------------------------------------------------

_FILE_RIGHTS, _TRUNCATE, _REFER, _DEVICE_IOCTL = 0x1FFF, 1 << 14, 1 << 13, 1 << 15
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _DEVICE_IOCTL
_BLOCK_AND_CHAR_DEVICES = 1 << 6 | 1 << 11


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has; 0: none, or switched off."""
    try:
        return syscall(_LANDLOCK_CREATE, None, 0, 1)
    except OSError:
        return 0


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Let the calling process read what is below `readable`, and read and write what is below `writable`, and nothing else.

    Where the kernel can, TCP, sockets without a file and signals to others are refused as well. What is not there is left out.

    Raises:
        OSError: the kernel has no Landlock.
    """
    version = landlock_version()
    rights = _FILE_RIGHTS | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0) | (_DEVICE_IOCTL if version >= 5 else 0)
    attributes = struct.pack("<QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = syscall(_LANDLOCK_CREATE, attributes, size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ | _LIST)
        for path in writable:
            _allow(ruleset, path, rights & ~_EXECUTE & ~_BLOCK_AND_CHAR_DEVICES)
        syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        allowed = rights if Path(path).is_dir() else rights & _OF_FILES
        syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("<Qi", allowed, handle), 0)
    finally:
        os.close(handle)
