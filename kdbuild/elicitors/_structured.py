"""Answers with a form: the JSON schema of a pydantic model goes with the question, and the answer is read back against the model.

Give every text a `max_length` and every list a `max_length`: the grammar then closes them before the token limit does. A small teacher
does not end an unbounded text by itself.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kdbuild.elicitors import Rejected
from kdbuild.teachers import Answer

Form = TypeVar("Form", bound=BaseModel)


@lru_cache(maxsize=256)
def schema_of(form: type[BaseModel]) -> str:
    """Return the JSON schema of `form` as JSON: every field required, no others allowed, no titles.

    Fields stand in the order of the form, not sorted: that is the order a teacher writes them in (a question before its answer).
    """
    schema = form.model_json_schema()
    return json.dumps(_plain(schema, schema.get("$defs", {})), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(value: Any, defs: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_plain(item, defs) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _plain(defs[value["$ref"].rpartition("/")[2]], defs)
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key == "properties":
            found[key] = {name: _plain(field, defs) for name, field in item.items()}
        elif key not in ("title", "description", "$defs", "default"):
            found[key] = _plain(item, defs)
    if "properties" in found:
        found |= {"required": list(found["properties"]), "additionalProperties": False}
    return found


def read(form: type[Form], answer: Answer) -> Form | Rejected:
    """Return what an answer says, or why it cannot be read: `cut at the token limit`, `not JSON of the form asked for`."""
    try:
        return form.model_validate_json(answer.text)
    except ValidationError:
        reason = "not JSON of the form asked for" if answer.ended else "cut at the token limit"
        return Rejected(reason, answer.text)
