"""What can go wrong, in one tree, and the exit code of each branch.

    KdbuildError                1   anything a user can mend; printed without a traceback
    ├── SpecError               1   a spec or params.yaml says something that cannot be built
    ├── MissingPackage          1   a kind needs a package that is not installed
    ├── SourceError             1   a model or data source cannot be reached or is not what was pinned
    ├── RowError                1   a seed row, or an answer, is not what it should be
    ├── StageError              1   a stage cannot go on
    │   └── ArtifactError       1   an input is missing, torn or not what its manifest says
    ├── NotCompiled             3   the shape of the specs changed and `kdbuild compile` has not run
    └── EditedByHand            4   dvc.yaml is not what kdbuild wrote

`kdbuild plan` also exits with 2 when something is stale. A traceback is a defect of kdbuild: the tree is caught once, in `cli.main`.
"""

from __future__ import annotations


class KdbuildError(Exception):
    """Something a user can mend: what is wrong and what was given, then what to do (the hint)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n\nhint: {self.hint}"


class SpecError(KdbuildError):
    """A spec or params.yaml says something that cannot be built."""


class MissingPackage(KdbuildError):
    """A kind needs a package that is not installed."""


class SourceError(KdbuildError):
    """A model or data source cannot be reached, or is not what was pinned."""


class RowError(KdbuildError):
    """A seed row, or a teacher's answer, is not what it should be."""


class StageError(KdbuildError):
    """A stage cannot go on."""


class ArtifactError(StageError):
    """An input of a stage is missing, torn or not what its manifest says."""


class NotCompiled(KdbuildError):
    """The shape of the specs changed and `kdbuild compile` has not run."""

    exit_code = 3


class EditedByHand(KdbuildError):
    """dvc.yaml is not what kdbuild wrote."""

    exit_code = 4
