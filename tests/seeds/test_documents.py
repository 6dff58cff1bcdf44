import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdbuild.errors import SourceError
from kdbuild.seeds import _docstrings
from kdbuild.seeds.documents import Documents

SOURCE = '''
"""The module."""
raise RuntimeError("a source file was run")

def public(x):
    """First line.

    Flush left.
        Indented.
    """
    def inner():
        """Not public."""

async def waits():
    """Waits."""

def _private():
    """Not public."""

class Thing:
    """A thing."""
    def method(self):
        """Does it."""
    def __init__(self):
        """Not a public name."""
    @property
    def value(self):
        """The getter."""
    @value.setter
    def value(self, new):
        """The setter."""
    class Part:
        """A part."""

if len("x"):
    def either():
        """One platform."""
else:
    def either():
        """The other platform."""
try:
    def tried():
        """Tried."""
except ImportError:
    def fallback():
        """Fallback."""
def silent():
    return 1
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with source that must not be run."""
    site = tmp_path / "site"
    files = {
        "mypackage/__init__.py": SOURCE,
        "mypackage/deep/__init__.py": '"""Deep."""',
        "mypackage/deep/leaf.py": '# -*- coding: latin-1 -*-\n"""Caf\xe9 \\ud800leaf, with a \\d bad escape."""'.encode("latin-1"),
        "mypackage/template.py": "class {{name}}: pass",
        "mypackage/_private.py": '"""Not public."""',
        "mypackage/tests/test_x.py": '"""Not documentation."""',
        "mypackage/data/notes.txt": "x",
        "My_Package-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: My-Package\nVersion: 1.5\n",
        "My_Package-1.5.dist-info/top_level.txt": "mypackage\n",
        "My_Package-1.5.dist-info/RECORD": "mypackage/__init__.py,,\n",
    }
    for name, text in files.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.syspath_prepend(site)
    return "mypackage"


def rows(**fields):
    return {row.id: row for row in Documents(**fields).rows(Path())}


def test_public_names_are_read_from_the_source_which_is_never_run(package):
    found = {name: row.context[0]["text"] for name, row in rows(package=package, min_chars=1).items()}
    assert found == {
        "mypackage": "The module.",
        "mypackage.public": "First line.\n\nFlush left.\n    Indented.",
        "mypackage.waits": "Waits.",
        "mypackage.Thing": "A thing.",
        "mypackage.Thing.method": "Does it.",
        "mypackage.Thing.value": "The getter.",
        "mypackage.Thing.Part": "A part.",
        "mypackage.either": "One platform.",
        "mypackage.tried": "Tried.",
        "mypackage.fallback": "Fallback.",
        "mypackage.deep": "Deep.",
        "mypackage.deep.leaf": "Café leaf, with a \\d bad escape.",
    }
    assert package not in sys.modules


def test_the_prompt_and_the_passage_are_the_documentation(package):
    row = rows(package=package, min_chars=1, prompt="{{{name}}}: {text}")["mypackage.waits"]
    assert row.messages[0].content == "{mypackage.waits}: Waits."
    assert row.context == ({"doc_id": "mypackage.waits", "text": "Waits.", "score": None},)


def test_modules_limit_what_is_read_with_what_is_below_them(package):
    assert sorted(rows(package=package, min_chars=1, modules=["mypackage.deep"])) == ["mypackage.deep", "mypackage.deep.leaf"]


def test_the_source_is_identified_by_the_version_installed(package):
    assert Documents(package=package).outside() == {"package": "mypackage", "version": "1.5"}
    assert Documents(package="pytest").outside() == {"package": "pytest", "version": metadata.version("pytest")}
    assert Documents(package="python").outside() == {"package": "python", "version": platform.python_version()}
    assert Documents(package="python").files() == ()


def test_another_version_than_asked_for_is_an_error_that_names_both(package):
    seeds = Documents(package=package, version="1.4")
    for use in (seeds.outside, lambda: list(seeds.rows(Path()))):
        with pytest.raises(SourceError, match=r"mypackage 1\.4; installed is 1\.5"):
            use()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"package": "no_such_package"}, "package `no_such_package` is not installed"),
        ({"package": "python", "modules": ["jsn"]}, "the standard library has no module `jsn`"),
        ({"package": "python", "modules": ["sys"]}, "the standard library has no module `sys` with Python source"),
        (
            {"package": "python", "modules": ["abc"], "min_chars": 10_000, "max_chars": 10_000},
            "nothing in python has documentation of 10000 characters",
        ),
    ],
)
def test_what_is_not_there_is_an_error(fields, message):
    with pytest.raises(SourceError, match=message):
        rows(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"package": "os/../x"}, "is not a name that `import` takes"),
        ({"package": "x", "modules": ["a..b"]}, "`a..b` is not the name of a Python module"),
        ({"package": "x", "prompt": "{name}"}, "a prompt holds `{text}`"),
        ({"package": "x", "prompt": "{text} {x}"}, "no other braces"),
        ({"package": "x", "prompt": "{text.__class__}"}, "no other braces"),
        ({"package": "x", "prompt": "{text!r}"}, "no other braces"),
        ({"package": "x", "prompt": "{text:>9}"}, "no other braces"),
        ({"package": "x", "prompt": "{text} {"}, "no other braces"),
        ({"package": "x", "min_chars": 9, "max_chars": 8}, "min_chars 9 is more than max_chars 8"),
    ],
)
def test_a_block_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValidationError) as caught:
        Documents(**fields)
    assert message in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("text", "least", "most", "expected"),
    [
        ("short", 1, 10, "short"),
        ("One one.\n\nTwo two.\n\nThree three.", 5, 22, "One one.\n\nTwo two."),
        ("One. Two two. Three three", 5, 16, "One. Two two."),
        ("One. Two two. Three three", 14, 20, "One. Two two. Three"),
        ("x" * 30, 5, 10, "x" * 10),
        ("One one.\n\nTwo", 1, 8, "One one."),
        ("A file a.b is read. It", 1, 14, "A file a.b is"),
    ],
)
def test_long_documentation_is_cut_where_something_ends(text, least, most, expected):
    assert _docstrings.cut(text, least, most) == expected


def test_the_rows_drawn_depend_on_their_names_alone(package):
    everything = rows(package=package, min_chars=1)
    drawn = rows(package=package, min_chars=1, max_rows=5)
    assert len(drawn) == 5
    assert drawn.items() <= everything.items()
    left = rows(package=package, min_chars=1, modules=["mypackage.deep"], max_rows=5)
    assert set(left) == {"mypackage.deep", "mypackage.deep.leaf"}
    assert set(rows(package=package, min_chars=1, max_rows=4)) < set(drawn)


def test_the_standard_library_gives_the_rows_the_shipped_spec_needs():
    found = list(rows(package="python", max_rows=110).values())
    assert len(found) == len({row.context[0]["text"] for row in found}) == 110
    assert all(160 <= len(row.context[0]["text"]) <= 640 for row in found)


def test_reading_the_standard_library_imports_none_of_it():
    code = (
        "import sys; from pathlib import Path; from kdbuild.seeds.documents import Documents; before = set(sys.modules); "
        "rows = list(Documents(package='python', modules=['asyncio', 'wsgiref', 'mailbox']).rows(Path())); "
        "print(len(rows) > 50, sorted(m for m in set(sys.modules) - before if m.split('.')[0] in ('asyncio', 'wsgiref', 'mailbox')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"
