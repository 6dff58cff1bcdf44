"""Names of stages, as a person gives them to a command."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kdbuild.errors import SpecError


def that_ask(root: Path) -> set[str]:
    """Return the names of the stages of dvc.yaml that keep a teacher's answers."""
    from kdbuild.compile.write import stages_in_file

    return {name for name, stage in stages_in_file(root).items() if stage.get("cmd", "").startswith("exec kdbuild stage elicit ")}


def require(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a name that none of these stages has.

    Raises:
        SpecError: names the one that was probably meant, and all there are.
    """
    from kdbuild.spec.source import no_such

    names = sorted(known)
    for name in given:
        if name not in names:
            of_spec = [one for one in names if one.startswith(f"{name}_")]
            what = f"no stage named `{name}`, which begins the names of others" if of_spec else no_such("stage", name, names)
            raise SpecError(what, hint=f"stages that ask: {', '.join(of_spec or names) or 'none so far'}")
