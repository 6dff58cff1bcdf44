"""An answer as canonical JSON, and when a stored one needs no new call."""

from __future__ import annotations

import json
from dataclasses import asdict

from kdbuild import canonical
from kdbuild.errors import RowError
from kdbuild.teachers import Answer

_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "ended": (bool,),
    "num_prompt_tokens": (int,),
    "num_new_tokens": (int,),
    "failed": (str, type(None)),
}


def encode(answer: Answer) -> str:
    """Return an answer as canonical JSON."""
    return canonical.dumps(asdict(answer))


def decode(text: str) -> Answer:
    """Return the answer that canonical JSON describes.

    Raises:
        RowError: it is not an answer; pulled and imported answers come from elsewhere.
    """
    try:
        values = json.loads(text)
        if set(values) == set(_TYPES) and all(type(values[name]) in kinds for name, kinds in _TYPES.items()):
            return Answer(**values)
    except (ValueError, TypeError):
        pass
    raise RowError(f"a stored answer is not one: {text[:80]!r}", hint="run `kdbuild doctor`")


def serves(answer: Answer, stored_limit: int, limit: int) -> bool:
    """Return whether an answer asked with `stored_limit` is what asking with `limit` (both in tokens) would give."""
    if answer.failed is not None:
        return stored_limit == limit
    return answer.num_new_tokens <= limit if answer.ended else stored_limit == limit
