"""An answer as canonical JSON, and when a stored one needs no new call."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

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
_MORE: dict[str, tuple[type, ...]] = {
    "logprobs": (list,),
    "num_choice_tokens": (list,),
    "logprob": (float, int),
    "payload": (str,),
    "labels": (list,),
    "label_scores": (list,),
}
"""Written only where a teacher gives them."""


def encode(answer: Answer) -> str:
    """Return an answer as canonical JSON; its payload stands there in base 64."""
    values = {name: getattr(answer, name) for name in _TYPES}
    payload = b64encode(answer.payload).decode("ascii") if answer.payload else None
    lists = {name: list(getattr(answer, name)) or None for name, kinds in _MORE.items() if list in kinds}
    more = {**lists, "logprob": answer.logprob, "payload": payload}
    return canonical.dumps(values | {name: value for name, value in more.items() if value is not None})


def decode(text: str) -> Answer:
    """Return the answer that canonical JSON describes.

    Raises:
        RowError: it is not an answer; pulled and imported answers come from elsewhere.
    """
    try:
        values = json.loads(text)
        kinds = _TYPES | _MORE
        if _TYPES.keys() <= values.keys() <= kinds.keys() and all(type(value) in kinds[name] for name, value in values.items()):
            logprobs = tuple(float(value) for value in values.pop("logprobs", ()))
            payload = b64decode(values.pop("payload", ""), validate=True)
            counts = tuple(values.pop("num_choice_tokens", ()))
            labels, scores = tuple(values.pop("labels", ())), tuple(float(value) for value in values.pop("label_scores", ()))
            named = len(labels) == len(scores) and all(type(label) is str for label in labels)
            if named and all(type(count) is int and count > 0 for count in counts):
                values |= {"num_choice_tokens": counts, "payload": payload, "labels": labels, "label_scores": scores}
                return Answer(**values, logprobs=logprobs)
    except (ValueError, TypeError, AttributeError):
        pass
    raise RowError(f"a stored answer is not one: {text[:80]!r}", hint="run `kdbuild doctor`")


def serves(answer: Answer, stored_limit: int, limit: int) -> bool:
    """Return whether an answer asked with `stored_limit` is what asking with `limit` (both in tokens) would give."""
    if answer.failed is not None:
        return stored_limit == limit
    return answer.num_new_tokens <= limit if answer.ended else stored_limit == limit
