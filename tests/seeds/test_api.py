import json

import jsonschema
import pytest
from pydantic import ValidationError

from kdbuild.errors import RowError, SourceError
from kdbuild.seeds.api import Api

SOURCE = '''\
"""Not a tool."""
import os
from typing import Annotated, Literal, Optional

raise SystemExit("never run")


def search(
    query: str, limit: int = 5, *, lang: Literal["en", "de"] = "en", tags: list[str] | None = None, where: "float" = 0.5
) -> list[str]:
    """Find pages.

    With words.
    """


async def wait(seconds: float, note: Optional[str], any_thing, shape: tuple[int, ...], by_name: dict[str, int], x: Annotated[bool, 1]): ...


def _hidden(): ...


class Thing:
    def method(self): ...


def broad(value: int | str | None, *rest: int, mode=3, **more: int) -> None: ...
'''


def read(root, text, name="tools.py", **fields):
    (root / name).write_text(text)
    return {row.id: row for row in Api(path=name, **fields).rows(root)}


def schema(row):
    return json.loads(row.tool["parameters"])


def test_functions_are_read_from_the_source_which_is_never_run(tmp_path):
    rows = read(tmp_path, SOURCE)
    assert list(rows) == ["search", "wait", "broad"]
    search = rows["search"].tool
    assert search["description"] == "Find pages.\n\nWith words."
    assert (search["returns"], search["callable"]) == ("list[str]", "tools.py:search")
    assert schema(rows["search"]) == {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "limit": {"type": "integer", "default": 5},
            "lang": {"enum": ["en", "de"], "default": "en"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "where": {"type": "number", "default": 0.5},
        },
        "required": ["query"],
    }
    assert schema(rows["wait"])["properties"] == {
        "seconds": {"type": "number"},
        "note": {"type": "string"},
        "any_thing": {},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "by_name": {"type": "object"},
        "x": {"type": "boolean"},
    }
    assert schema(rows["broad"]) == {
        "type": "object",
        "properties": {"value": {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "mode": {"type": "integer", "default": 3}},
        "required": ["value"],
    }
    for row in rows.values():
        jsonschema.Draft202012Validator.check_schema(schema(row))


def test_a_module_of_python_or_of_a_package_lies_outside_the_project(tmp_path):
    seeds = Api(package="python.statistics", names=["mean", "quantiles"], max_chars=80)
    rows = {row.id: row for row in seeds.rows(tmp_path)}
    assert list(rows) == ["mean", "quantiles"]
    assert rows["mean"].tool["callable"] == "statistics:mean"
    assert len(rows["mean"].tool["description"]) <= 80
    assert schema(rows["quantiles"])["required"] == ["data"]
    assert (seeds.files(), set(seeds.outside())) == ((), {"package", "version"})
    assert next(Api(package="pydantic.fields").rows(tmp_path)).tool["callable"].startswith("pydantic.fields:")
    for package, message in [("python.nowhere", "no module"), ("python", "names no module"), ("not_installed", "not installed")]:
        with pytest.raises(SourceError, match=message):
            list(Api(package=package).rows(tmp_path))
    with pytest.raises(SourceError, match="installed is"):
        list(Api(package="python.statistics", version="0.1").rows(tmp_path))


TOOLS = [
    {"name": "now"},
    {
        "name": "add",
        "description": "Sum.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        "callable": "calc:add",
    },
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", json.dumps(TOOLS, indent=1)),
        ("t.jsonl", "\n".join(map(json.dumps, TOOLS))),
        ("t.yaml", json.dumps(TOOLS).replace("}, {", "},\n {")),
    ],
)
def test_a_list_of_tools_in_every_format(tmp_path, name, text):
    rows = read(tmp_path, text, name)
    assert rows["now"].tool == {"name": "now"}
    assert rows["add"].tool == {
        "name": "add",
        "description": "Sum.",
        "parameters": '{"properties":{"a":{"type":"integer"}},"type":"object"}',
        "callable": "calc:add",
    }


OPENAPI = {
    "openapi": "3.1.0",
    "paths": {
        "/pets/{id}": {
            "parameters": [{"$ref": "#/components/parameters/id"}],
            "get": {
                "operationId": "getPet",
                "summary": "One pet.",
                "parameters": [{"name": "full", "in": "query", "schema": {"type": "boolean"}, "description": "All of it."}],
                "responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}}},
            },
            "put": {"requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}}},
        }
    },
    "components": {
        "parameters": {"id": {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}},
        "schemas": {
            "Pet": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "mother": {"$ref": "#/components/schemas/Pet"}},
                "required": ["name"],
            }
        },
    },
}


@pytest.mark.parametrize("name", ["pets.json", "pets.yaml"])
def test_operations_of_an_openapi_description(tmp_path, name):
    rows = read(tmp_path, json.dumps(OPENAPI), name)
    assert list(rows) == ["getPet", "put_pets_id"]
    got, put = rows["getPet"], rows["put_pets_id"]
    assert schema(got) == {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "full": {"type": "boolean", "description": "All of it."}},
        "required": ["id"],
    }
    assert got.tool["description"] == "One pet."
    assert json.loads(got.tool["returns"])["properties"]["name"] == {"type": "string"}
    assert schema(put)["required"] == ["id", "name"]
    assert "callable" not in put.tool


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.py", "def f(:\n", "t.py:1 is not Python"),
        ("t.py", "x = 1\n\0", "is not Python"),
        ("t.yaml", "- {name: a}\n- b\n", "t.yaml:2 is not an object"),
        ("t.yaml", "- {name: a}\n- {title: b}\n", "t.yaml:2: `tool` is not an object with `name`"),
        ("t.yaml", "name: a\n", "t.yaml holds no tools"),
        ("t.jsonl", '{"name": "a", "parameters": "[1]"}', "t.jsonl:1: `tool` is not an API whose `parameters` are a JSON schema"),
        ("t.json", "{}", "t.json is not a list"),
        ("t.jsonl", '{"name": "a"}\n{"name": "a", "returns": "x"}', "two different rows have the id `a`: t.jsonl:1 and t.jsonl:2"),
        ("t.json", '{"openapi": "3", "paths": 3}', "t.json has no `paths`"),
        (
            "t.json",
            '{"openapi": "3", "paths": {"/a": {"get": {"parameters": [{"$ref": "#/b"}]}}}}',
            "t.json, GET /a: the reference `#/b` leads nowhere",
        ),
        ("t.json", '{"openapi": "3", "paths": {"/a": {"get": {"parameters": [{}]}}}}', "t.json, GET /a: a parameter has no name"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(tmp_path, name, text, message):
    with pytest.raises(RowError) as caught:
        read(tmp_path, text, name)
    assert message in caught.value.message


def test_what_is_not_there_and_blocks_that_make_no_sense(tmp_path):
    with pytest.raises(SourceError, match="no `serach`"):
        read(tmp_path, SOURCE, names=["serach"])
    with pytest.raises(SourceError, match="no public function"):
        read(tmp_path, "x = 1\n")
    with pytest.raises(SourceError, match="not there"):
        list(Api(path="absent.py").rows(tmp_path))
    for fields in ({}, {"path": "a.py", "package": "b"}, {"path": "a.txt"}, {"path": "a.py", "version": "1"}, {"package": "a-b"}):
        with pytest.raises(ValidationError):
            Api(**fields)
