"""How a call to a server can end without an answer. These exceptions do not leave the teacher."""

from __future__ import annotations

from kdbuild.errors import StageError


class Unanswered(Exception):
    """A call that gave no answer; `reason` are the same words for the same cause."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Limited(Unanswered):
    """Too many requests at the moment; nothing was served."""

    def __init__(self, wait_s: float | None) -> None:
        super().__init__("rate limited")
        self.wait_s = wait_s
        """Seconds the server asks to wait; None where it does not say."""


class Unreachable(Unanswered):
    """No connection was made, so the server did not see the request."""


class Broken(Unanswered):
    """The call failed, and may succeed when it is made again."""

    def __init__(self, reason: str, *, overloaded: bool = False) -> None:
        super().__init__(reason)
        self.overloaded = overloaded
        """Whether fewer calls at a time would help."""


class Refused(Unanswered):
    """The server will not answer this question, however often it is asked."""

    def __init__(self, reason: str, *, about_row: bool = False) -> None:
        super().__init__(reason)
        self.about_row = about_row
        """Whether it is known to be this row's fault (too long, filtered) and says nothing about others."""


class Stop(Exception):
    """The server will not answer any question as it is asked."""

    def __init__(self, error: StageError, *, is_model: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.is_model = is_model
        """Whether the model's name may be what is wrong."""
