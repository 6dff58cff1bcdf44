"""Where the row store lies: beside the DVC cache, so that experiments and shared caches see the same paid answers."""

from __future__ import annotations

import configparser
from functools import cache
from pathlib import Path

from kdbuild.errors import StageError


@cache
def cache_dir(root: Path) -> Path:
    """Return the DVC cache of the project at `root`, read from DVC's own configuration files (local over project).

    Raises:
        StageError: a configuration file cannot be read.
    """
    found = Path("cache")
    dvc_dir = root / ".dvc"
    for name in ("config", "config.local"):
        config = configparser.ConfigParser(interpolation=None)
        try:
            read = config.read(dvc_dir / name)
        except (configparser.Error, UnicodeDecodeError) as error:
            raise StageError(
                f".dvc/{name} cannot be read: {' '.join(str(error).split())}", hint="mend it by hand, or with `dvc config`"
            ) from None
        if read and config.has_option("cache", "dir"):
            found = Path(config.get("cache", "dir").strip())
    return (dvc_dir / found).resolve()


def store_dir(root: Path, rows_dir: str | None) -> Path:
    """Return the folder of the row store, made if absent, with a `.gitignore` that keeps it out of git."""
    folder = (root / rows_dir).resolve() if rows_dir else cache_dir(root).parent / "kdbuild"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise StageError(
            f"the row store's folder {folder} cannot be made: {error.strerror}", hint="`runtime: {rows_dir: ...}` in params.yaml moves it"
        ) from None
    return folder
