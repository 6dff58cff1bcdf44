"""What DVC leaves out of a directory: `.dvcignore`, version control folders, other DVC projects."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

_ALWAYS = frozenset({".git", ".hg", ".dvc"})


class Ignores:
    """Answers for one project whether DVC sees a path."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read = cache(_patterns)

    def hides(self, path: Path, *, is_dir: bool) -> bool:
        """Return whether DVC leaves `path` (absolute, inside the project) out of the directory it lies in."""
        if path.name in _ALWAYS or (is_dir and (path / ".dvc").is_dir()):
            return True
        # The file nearest to the path has the last word, as in git.
        for folder in reversed(self._folders(path)):
            patterns = self._read(folder / ".dvcignore")
            if patterns is None:
                continue
            verdict = patterns.check_file(path.relative_to(folder).as_posix() + ("/" if is_dir else "")).include
            if verdict is not None:
                return verdict
        return False

    def _folders(self, path: Path) -> list[Path]:
        """Return the folders, from the project's down, whose `.dvcignore` speaks about `path`."""
        below = path.parent.relative_to(self._root).parts
        return [self._root.joinpath(*below[:depth]) for depth in range(len(below) + 1)]


def _patterns(file: Path) -> GitIgnoreSpec | None:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        return None
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines)
