"""What an operator makes of many answers: new rows, each once, and what could not be used, each under an id of its own."""

from __future__ import annotations

from collections.abc import Sequence

from kdbuild import canonical
from kdbuild.elicitors import Answered, Made, Rejected, Result
from kdbuild.records import Dropped, Row


class Harvest:
    """Collects the rows that answers make."""

    def __init__(self, operator: str) -> None:
        """`operator` is the kind that drops what is dropped."""
        self._operator = operator
        self.rows: dict[str, Row] = {}
        self.dropped: dict[str, Dropped] = {}

    def add(self, row: Row) -> None:
        """Take a row, unless another answer made the same."""
        if row.id in self.rows:
            self.drop(row.id, "said before", text_of(row), because_of=row.id)
        else:
            self.rows[row.id] = row

    def drop(self, name: str, reason: str, text: str, *, because_of: str | None = None, score: float | None = None) -> None:
        """List what is not used; of several under one name the second is `<name>-2`."""
        own, n = name, 1
        while own in self.dropped or own in self.rows:
            n += 1
            own = f"{name}-{n}"
        self.dropped[own] = Dropped(own, self._operator, reason, because_of, score, text)

    def refuse(self, row: str, answered: Answered, rejected: Rejected) -> None:
        """List an answer about a row that cannot be used."""
        self.drop(canonical.digest([row, answered.key])[:16], rejected.reason, rejected.text)

    def made(self) -> Made:
        """Return the rows and what was dropped, in order."""
        return Made(list(self.rows.values()), list(self.dropped.values()))

    def result(self) -> Result:
        """Return what came of the questions about one row: where there was a single one and it failed, the row is rejected."""
        if not self.rows and len(self.dropped) == 1:
            (only,) = self.dropped.values()
            return Rejected(only.reason, only.text)
        return self.made()


def text_of(row: Row) -> str:
    """Return the turns of a row, for people."""
    return "\n\n".join(message.content for message in row.messages)


def drawn(items: Sequence[str], num: int, *key: str) -> list[str]:
    """Return `num` of `items` (all different), drawn by the digest of `key` and each item (rendezvous hashing).

    One item more or less changes only the draws that it is among.
    """
    from hashlib import blake2b
    from heapq import nsmallest

    prefix = blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=8)

    def rank(item: str) -> tuple[bytes, str]:
        own = prefix.copy()
        own.update(b"\0" + item.encode("utf-8", "surrogatepass"))
        return own.digest(), item

    return nsmallest(num, items, key=rank)
