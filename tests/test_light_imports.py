"""What the command line imports, who may import whom, and how large a file may be."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kdbuild
from kdbuild import kinds

HOME = Path(kdbuild.__file__).parent
HEAVY = ("torch", "transformers", "vllm", "deepspeed", "datasets", "sentence_transformers", "numpy", "pandas", "pyarrow", "peft", "dvc")
BASE = re.compile(r"^class \w+\((Kind|Conversing)\)", re.MULTILINE)
FAMILIES = tuple(sorted(p.parent.name for p in HOME.glob("*/__init__.py") if BASE.search(p.read_text())))

FILES = {
    "params.yaml": "teachers:\n  asked: {kind: fake}\nembedder: {kind: fake}\n",
    "specs/a.yaml": """\
target: {skill: testing}
teacher: asked
seeds: {kind: dataset, path: specs/seeds/s.jsonl}
student: {kind: causal-lm, config: {model_type: llama, hidden_size: 32, num_hidden_layers: 2}}
phases:
  sft:
    elicit:
      - {kind: label, max_new_tokens: 12, system: "Answer briefly."}
    select:
      - {kind: exact-dedup}
      - {kind: semantic-dedup, max_cosine: 0.9}
    objective: {kind: sft}
  kl:
    objective: {kind: forward-kl}
evaluate: [{kind: held-out-loss}, {kind: teacher-agreement}, {kind: rouge}]
""",
    "specs/seeds/s.jsonl": "".join(f'{{"id": "s{i}", "prompt": "Say {i}."}}\n' for i in range(40)),
}


def _loaded(statement: str, cwd: Path) -> list[str]:
    """Return which of the heavy modules are loaded after a statement in a fresh Python."""
    program = f"import sys, json\n{statement}\nprint()\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _command(*arguments: str) -> str:
    codes = "(0, 2)"
    return (
        f"from kdbuild import cli\nsys.argv = ['kdbuild', *{list(arguments)!r}]\n"
        f"try:\n    cli.main()\nexcept SystemExit as end:\n    assert end.code in {codes}, end.code"
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory, new_project):
    return new_project(tmp_path_factory.mktemp("light") / "project", FILES).root


@pytest.mark.parametrize("arguments", [("--help",), ("plan", "--help"), ("check",), ("compile",), ("compile", "--check"), ("plan",)])
def test_commands_are_light(project, arguments):
    assert _loaded(_command(*arguments), project) == []


def test_every_kind_is_light(tmp_path):
    statement = "from kdbuild import kinds\n" + "".join(
        f"for kind in kinds.available({family!r}): kinds.load({family!r}, kind)\n" for family in FAMILIES
    )
    assert _loaded(statement, tmp_path) == []


def test_the_families_are_found():
    assert set(FAMILIES) >= {
        "seeds",
        "teachers",
        "elicitors",
        "scorers",
        "selectors",
        "objectives",
        "students",
        "adaptations",
        "evaluators",
        "embedders",
    }
    assert all(kinds.available(family) for family in FAMILIES)


# --- who may import whom -------------------------------------------------------------------------------------------------

STRINGS = ("spec.sources", "spec.layout", "spec.names")
"""Parts of `spec` that are about strings alone (a model's source, a path, a name), so that kinds may check theirs."""

LAYERS = (
    ("errors", "canonical", "inside", *STRINGS),
    ("kinds", "records", "sandbox"),
    ("families",),
    ("spec",),
    ("compile",),
    ("rows",),
    ("plan", "training"),
    ("stages", "report"),
    ("cli",),
)
"""From the ground up: a module imports its own layer or a lower one.

`compile`, `rows` and `plan` stand on `spec`: the row store reads sections, the planner compiles in memory. `training` stands beside
`plan`; `stages` run what compile wrote and hand it to `training` and `report`, which read a stage's `Job`.
"""

LAZY = {"students": {"training"}, "teachers": {"training"}}
"""Inside functions and `_` modules only: a kind that has a network loads it with what `training` offers."""


def _layer(name: str) -> int:
    first, second = name.split(".")[0], ".".join(name.split(".")[:2])
    known = {"families" if first in FAMILIES else first, second}
    return next(i for i, layer in enumerate(LAYERS) if known & set(layer))


def _imports(path: Path) -> list[tuple[str, bool]]:
    """Return what a module imports of kdbuild (dotted, without the first part), and whether it does so when it is imported."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, *, now: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.ImportFrom) and child.module and child.module.split(".")[0] == "kdbuild":
                below = child.module.split(".")[1:]
                found.extend((".".join([*below, alias.name]), now) for alias in child.names)
            elif isinstance(child, ast.Import):
                found.extend((alias.name.removeprefix("kdbuild."), now) for alias in child.names if alias.name.startswith("kdbuild."))
            visit(child, now=now and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(ast.parse(path.read_text(encoding="utf-8")), now=True)
    return [(name, now) for name, now in found if name.split(".")[0] not in ("__version__",)]


MODULES = [path for path in sorted(HOME.rglob("*.py")) if path.name != "__main__.py" and path != HOME / "__init__.py"]


def _package(path: Path) -> str:
    return path.relative_to(HOME).parts[0].removesuffix(".py")


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(HOME).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(HOME).as_posix())
def test_import_order(path):
    package = _package(path)
    for name, now in _imports(path):
        other = name.split(".")[0]
        if other == package and _dotted(path) not in STRINGS:
            continue
        if other == "stages" and package == "cli":
            assert path.name == "stage.py", f"{name}: only the stage command may start a step"
            assert not now, f"{name}: the stage command imports steps when it runs one"
        lazily = (not now or path.name.startswith("_")) and other in LAZY.get(package, set())
        assert _layer(name) <= _layer(_dotted(path)) or lazily, f"{package} may not import {name}"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kind_imports_no_other_kind(family):
    public = {f"{name}.{path.stem}" for name in FAMILIES for path in (HOME / name).glob("*.py") if not path.stem.startswith("_")}
    for path in (HOME / family).glob("*.py"):
        for name, _ in _imports(path):
            module = ".".join(name.split(".")[:2])
            assert module not in public, f"{path.name} imports the kind {module}"


def test_file_names_and_sizes():
    for path in HOME.rglob("*.py"):
        assert path.stem not in ("utils", "common", "helpers", "misc"), path
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        assert num_lines < 400, f"{path.relative_to(HOME)} has {num_lines} lines"
