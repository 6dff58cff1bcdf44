"""A project in a temporary folder, driven through the real `dvc` and `kdbuild`."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
_RAN = re.compile(r"^Running stage '([^']+)'", re.MULTILINE)
_RESTORED = re.compile(r"^Stage '([^']+)' is cached - skipping run", re.MULTILINE)


@dataclass
class Done:
    """One finished command."""

    code: int
    text: str
    """Standard output and error together."""

    @property
    def ran(self) -> set[str]:
        """Stages whose command was started."""
        return set(_RAN.findall(self.text))

    @property
    def restored(self) -> set[str]:
        """Stages that DVC took out of its run cache."""
        return set(_RESTORED.findall(self.text))


@dataclass
class Project:
    """A kdbuild project in its own git repository."""

    root: Path

    def run(self, *command: str, code: int | None = 0, env: dict[str, str] | None = None) -> Done:
        """Run a command in the project; `code` is the exit code it must have, None for any."""
        whole = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "",
            **(env or {}),
        }
        done = subprocess.run(
            command, cwd=self.root, env=whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=3600
        )
        assert code is None or done.returncode == code, done.stdout
        return Done(done.returncode, done.stdout)

    def repro(self, *targets: str, code: int | None = 0) -> Done:
        """Run plain `dvc repro`."""
        return self.run("dvc", "repro", *targets, code=code)

    def kdbuild(self, *arguments: str, code: int | None = 0) -> Done:
        """Run `kdbuild`."""
        return self.run("kdbuild", *arguments, code=code)

    def read(self, path: str) -> str:
        """Return the text of a file."""
        return (self.root / path).read_text(encoding="utf-8")

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text that stands exactly once in a file."""
        text = self.read(path)
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
        self.write(path, text.replace(old, new))

    def json(self, path: str) -> dict:
        """Return a JSON file."""
        return json.loads(self.read(path))

    def num_answers(self) -> int:
        """Return how many answers the row store holds: what teachers were asked so far."""
        found = list((self.root / ".dvc" / "kdbuild").glob("*.sqlite"))
        if not found:
            return 0
        connection = sqlite3.connect(found[0])
        try:
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone()
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0]) if made else 0
        finally:
            connection.close()


def start_project(root: Path, files: dict[str, str]) -> Project:
    """Make a git repository with DVC and the given files, compiled."""
    project = Project(root)
    root.mkdir(parents=True, exist_ok=True)
    for command in (
        ("git", "init", "-q", "-b", "main"),
        ("git", "config", "user.email", "tests@example.org"),
        ("git", "config", "user.name", "tests"),
        ("dvc", "init", "-q"),
        ("dvc", "config", "core.analytics", "false"),
        ("dvc", "config", "core.check_update", "false"),
    ):
        project.run(*command)
    for path, text in files.items():
        project.write(path, text)
    project.kdbuild("compile")
    return project


@pytest.fixture(scope="session")
def new_project():
    """Return the function that starts a project in a folder."""
    return start_project


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of 10 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(folder)], capture_output=True, check=False)
    if mount.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        os.sync()
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def project_in():
    """Return the function that takes a folder as a project, as it is."""
    return Project
