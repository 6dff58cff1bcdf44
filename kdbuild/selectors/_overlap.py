"""Which items of evaluation sets a text shares runs of words with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from kdbuild.elicitors._words import words
from kdbuild.records import Row
from kdbuild.selectors._text import meaning

MIN_WORDS = 4
"""A shorter prompt is found only where it is the whole prompt of a row: few words in a row are in many texts."""

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One item of an evaluation set."""

    name: str
    """`<set>/<id>`."""
    prompt: str
    answer: str
    """Its known answer, or none."""

    @property
    def text(self) -> str:
        """All of it, for people."""
        return "\n\n".join(part for part in (self.prompt, self.answer) if part)


def item_of(name: str, row: Row) -> Item:
    """Return a row of an evaluation set as an item; where it has no prompt, its passages stand for it."""
    prompt = meaning(row, "prompt") or "\n\n".join(str(passage.get("text") or "") for passage in row.context)
    return Item(f"{name}/{row.id}", prompt, row.answer or row.gold or "")


@dataclass
class Overlap:
    """The runs of words of items, by which they are found."""

    num_words: int
    _items: dict[Gram, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Run to the items that hold it."""
    _prompts: dict[Gram, int] = field(default_factory=dict)
    """Whole prompt to the first item that has it."""
    _num_grams: list[int] = field(default_factory=list)
    _lengths: set[int] = field(default_factory=set)

    def add(self, item: Item) -> None:
        """Put an item in: the runs of its prompt and of its answer. A prompt of fewer words is one run, a shorter answer is none."""
        prompt, answer = tuple(words(item.prompt)), words(item.answer)
        found = grams(prompt, self.num_words) | grams(answer, self.num_words)
        if MIN_WORDS <= len(prompt) < self.num_words:
            found.add(prompt)
        if prompt:
            self._prompts.setdefault(prompt, len(self._num_grams))
        for gram in found:
            self._items[gram].append(len(self._num_grams))
        self._lengths.update(map(len, found))
        self._num_grams.append(len(found))

    def nearest(self, row: Row, min_frac: float | None) -> tuple[int, float] | None:
        """Return the item most of whose runs are in a row, the first of equals, and that share; None where none counts.

        Any shared run counts, or with `min_frac` that share of an item's runs.
        """
        same = self._prompts.get(tuple(words(meaning(row, "prompt"))))
        if same is not None:
            return same, 1.0
        found = words(meaning(row, "both"))
        shared = Counter(i for length in self._lengths for gram in grams(found, length) for i in self._items.get(gram, ()))
        fracs = [(-count / self._num_grams[i], i) for i, count in shared.items()]
        best = min(fracs, default=None)
        return None if best is None or (min_frac is not None and -best[0] < min_frac) else (best[1], -best[0])


def grams(found: Sequence[str], num_words: int) -> set[Gram]:
    """Return the different runs of so many words."""
    return set(zip(*(found[i:] for i in range(num_words)), strict=False))
