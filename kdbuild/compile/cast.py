"""Who acts: the words of `by:` and `roles:`, and the models they mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdbuild.elicitors import Elicitor
from kdbuild.spec.model import Params, Spec
from kdbuild.spec.names import STUDENT, TEACHER


@dataclass(frozen=True)
class Cast:
    """The actors that one phase of a spec may call."""

    spec: Spec
    params: Params
    phase: str
    """The phase that asks."""

    def written_out(self, operator: Elicitor) -> Elicitor:
        """Return the operator with roles that stand for several actors written out."""
        words = tuple(self.words(operator.actors))
        return operator if words == operator.actors else operator.model_copy(update={"by": list(words)})

    def words(self, given: Iterable[str]) -> Iterable[str]:
        """Yield one word an actor."""
        for word in given:
            role = self.spec.roles.get(word)
            yield from role if isinstance(role, list) else [word]

    def model_of(self, word: str) -> str:
        """Return what a word stands for: a teacher's name in params.yaml, `student`, or `phase:<name>`; an unknown word as it is."""
        role = self.spec.roles.get(word)
        named = role if isinstance(role, str) else word
        return (self.spec.teacher or TEACHER) if named == TEACHER else named

    def known(self) -> list[str]:
        """Return the words that may be used."""
        own = [TEACHER] if self.spec.teacher else []
        own += [STUDENT] if self.spec.student else []
        return [*own, *self.spec.roles, *self.params.teachers]
