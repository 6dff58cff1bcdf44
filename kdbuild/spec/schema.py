"""JSON Schema (draft 2020-12) of a spec and of params.yaml, for editors: completion, documentation, red lines."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from kdbuild.spec.model import Params, Spec
from kdbuild.spec.names import NAME

SPEC_FILE = "specs/.schema.json"
PARAMS_FILE = "specs/.params.schema.json"
"""Where `kdbuild schema --write` puts them; files whose names start with a dot are not specs."""


def of_spec() -> dict[str, Any]:
    """Return the schema of `specs/<name>.yaml`."""
    return _schema(Spec, "a kdbuild spec: one student, or one data set")


def of_params() -> dict[str, Any]:
    """Return the schema of `params.yaml`."""
    return _schema(Params, "params.yaml of a kdbuild project")


def _schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    found = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Generator)
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": title, **_tidied(found)}


class _Generator(GenerateJsonSchema):
    """Pydantic's own, but for titles, which only repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _tidied(node: Any) -> Any:
    """Say what pydantic leaves out: a kind's alternative is told by its `kind`, free names have a form."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _tidied(value) for key, value in node.items()}
    properties = node.get("properties")
    if isinstance(properties, dict):
        node.pop("title", None)
        kind = properties.get("kind")
        if isinstance(kind, dict) and "const" in kind:
            kind.pop("default", None)
            node["required"] = sorted({"kind", *node.get("required", [])})
    if node.get("type") == "object" and isinstance(node.get("additionalProperties"), dict):
        node.setdefault("propertyNames", {"pattern": f"^{NAME.pattern}$"})
    return node
