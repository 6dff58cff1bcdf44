"""How a program is confined, and what stands in where something is not allowed.

| what holds | by | or else |
|---|---|---|
| no network, processes, signals, privileges | seccomp | refused |
| writes nothing but its folder, reads nothing but Python's files | a root of its own (mount namespace) and Landlock | either of the two |
| files are few and small | a tmpfs of that size | its folder is measured 20 times a second |
| is not root | uid 65534 | where that user cannot read Python's files: no capabilities |
| no network, once more | a network namespace | seccomp alone |
| time, memory, size of files | rlimits, and a clock | (always there) |

Namespaces need root or user namespaces; Landlock needs Linux 5.13; both need no package. There is no PID namespace: a program that
cannot make processes and cannot signal any leaves nothing behind that one would have to end.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdbuild.sandbox import Limits, _kernel, _seccomp

NOBODY = 65534
FOLDER = "/program"
"""The folder of a program, as it and its messages call it."""
MAX_FILES = 1024
"""Files and folders of a program, at most."""
_MAX_OPEN, _MAX_THREADS = 64, 512
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/zero")
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")
_NAMESPACES = _kernel.CLONE_NEWNS | _kernel.CLONE_NEWNET | _kernel.CLONE_NEWIPC | _kernel.CLONE_NEWUTS


@dataclass(frozen=True)
class Means:
    """What this machine gives."""

    private_root: bool
    landlock: bool
    seccomp: bool
    nobody: bool
    """Whether the program runs as nobody."""

    @property
    def is_enough(self) -> bool:
        """Whether a program can be confined."""
        return self.seccomp and (self.private_root or self.landlock)

    @property
    def lacks(self) -> list[str]:
        """What is missing, in words."""
        files = [] if self.private_root or self.landlock else ["Landlock (Linux 5.13) or mount namespaces, to keep files from it"]
        return files + ([] if self.seccomp else ["seccomp on x86-64 or arm64, to keep the network and other processes from it"])


def readable(packages: bool) -> tuple[str, ...]:
    """Return the folders and files that Python needs, installed packages among them where `packages`; none lies in another."""
    paths = sysconfig.get_paths()
    wanted = [paths["stdlib"], paths["platstdlib"], str(Path(sys.base_prefix) / "lib"), sysconfig.get_config_var("DESTSHARED"), *_SYSTEM]
    wanted += package_folders() if packages else []
    there = sorted({os.path.normpath(path) for path in wanted if path and Path(path).exists()})
    return tuple(path for path in there if not any(path.startswith(f"{other}/") for other in there))


def package_folders() -> list[str]:
    """Return where installed packages lie."""
    paths = sysconfig.get_paths()
    return list(dict.fromkeys([paths["purelib"], paths["platlib"]]))


def prepare(paths: tuple[str, ...], without: tuple[str, ...]) -> Means:
    """Confine this process as far as those that it starts must be, and return what it can give them; `without` leaves out means."""
    private_root = "namespaces" not in without and _succeeds(lambda: _enter_private_root(paths))
    if private_root:
        _enter_private_root(paths)
    nobody = os.geteuid() == 0 and (private_root or all(map(_everyone_reads, paths))) and _succeeds(_become_nobody)
    landlock = "landlock" not in without and _kernel.landlock_version() > 0
    seccomp = "seccomp" not in without and _seccomp.is_known()
    if seccomp:
        _seccomp.program(os.getpid())  # makes it before the processes that need it are forked
        seccomp = _succeeds(_filter_calls)
    return Means(private_root, landlock, seccomp, nobody)


def _succeeds(action: Callable[[], None]) -> bool:
    """Return whether something that cannot be undone works, tried in a process that ends."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _everyone_reads(path: str) -> bool:
    return all(there.stat().st_mode & 0o005 for there in (Path(path), *Path(path).parents))


# --- a root of its own ------------------------------------------------------------------------------------------------


def _enter_private_root(paths: tuple[str, ...]) -> None:
    """Move this process into namespaces whose root holds `paths`, read-only, and an empty folder for what programs write."""
    _leave_namespaces()
    _kernel.mount("none", "/", None, _kernel.MS_REC | _kernel.MS_PRIVATE)
    root = "/proc"  # is there everywhere, holds nothing of Python, and must not be there for a program
    _kernel.mount("kdbuild", root, "tmpfs", _kernel.MS_NOSUID, "size=1m,mode=0755")
    Path(root + FOLDER).mkdir()
    for path in (*paths, *_DEVICES):
        _target(path, root)
    for path in paths:
        _kernel.mount(path, root + path, None, _kernel.MS_BIND | _kernel.MS_REC)
    _kernel.set_mount_attributes(root, _kernel.ATTR_RDONLY | _kernel.ATTR_NOSUID | _kernel.ATTR_NODEV, below=True)
    for path in _DEVICES:  # after the rest: there they must be devices
        _kernel.mount(path, root + path, None, _kernel.MS_BIND)
    _kernel.enter_root(root)


def _leave_namespaces() -> None:
    try:
        _kernel.unshare(_NAMESPACES)
    except PermissionError:
        uid, gid = os.geteuid(), os.getegid()
        _kernel.unshare(_NAMESPACES | _kernel.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _target(path: str, root: str) -> None:
    target = Path(root + path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(path).is_dir():
        target.mkdir()
    else:
        target.touch()


# --- one program ------------------------------------------------------------------------------------------------------


def new_folder(means: Means) -> str:
    """Return the folder for the next program: with a root of its own always the same one, which is empty for each."""
    if means.private_root:
        return FOLDER
    folder = tempfile.mkdtemp(prefix="kdbuild-")
    if means.nobody:
        os.chown(folder, NOBODY, NOBODY)
    return folder


def confine(means: Means, limits: Limits, folder: str, paths: tuple[str, ...]) -> None:
    """Confine this process, for good, and go to `folder`.

    Raises:
        OSError: something that the machine gave before fails.
    """
    if means.private_root:
        _mount_folder(limits, NOBODY if means.nobody else os.geteuid())
    os.chdir(folder)
    _set_limits(means, limits)
    if means.nobody:
        _become_nobody()
    else:
        _kernel.drop_capabilities()
    _kernel.prctl(_kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if means.landlock:
        _kernel.prctl(_kernel.PR_SET_NO_NEW_PRIVS, 1)
        _kernel.restrict_files([*paths, "/dev/urandom", "/dev/zero"], [folder, "/dev/null"])
    if means.seccomp:
        _filter_calls()


def _mount_folder(limits: Limits, uid: int) -> None:
    _kernel.unshare(_kernel.CLONE_NEWNS)
    flags = _kernel.MS_NOSUID | _kernel.MS_NODEV | _kernel.MS_NOEXEC
    options = f"size={limits.disk_mib}m,nr_inodes={MAX_FILES},mode=0700,uid={uid},gid={uid}"
    _kernel.mount("kdbuild", FOLDER, "tmpfs", flags, options)


def _set_limits(means: Means, limits: Limits) -> None:
    bounds = {
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_AS: limits.memory_mib << 20,
        resource.RLIMIT_FSIZE: limits.disk_mib << 20,
        resource.RLIMIT_NOFILE: _MAX_OPEN,
        resource.RLIMIT_CORE: 0,
    }
    if means.nobody:  # a limit of threads of the user, so not where the user has other work
        bounds[resource.RLIMIT_NPROC] = _MAX_THREADS
    for kind, bound in bounds.items():
        hard = resource.getrlimit(kind)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, bound))


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _filter_calls() -> None:
    _kernel.prctl(_kernel.PR_SET_NO_NEW_PRIVS, 1)
    _seccomp.install()


def is_full(folder: str, limits: Limits) -> bool:
    """Return whether a folder holds more than it may, while it is written; for one that is not a disk of its own."""
    size, num_files, waiting = 0, 0, [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    num_files += 1
                    size += entry.stat(follow_symlinks=False).st_size
                    if num_files > MAX_FILES or size > limits.disk_mib << 20:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EACCES):  # what cannot be measured
                return True
    return False


def remove(folder: str) -> None:
    """Remove a folder that a program wrote in, however deep it is and whatever is called how in it."""
    aside = Path(tempfile.mkdtemp(prefix="kdbuild-"))
    waiting, num_moved = [Path(folder)], 0
    while waiting:
        path = waiting.pop()
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            continue
        path.chmod(0o700)
        for entry in list(path.iterdir()):  # what is in it goes aside under a name of ours: no path gets long
            if entry.is_dir() and not entry.is_symlink():
                entry.chmod(0o700)
            num_moved += 1
            waiting.append(entry.rename(aside / str(num_moved)))
        path.rmdir()
    aside.rmdir()
