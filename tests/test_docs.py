"""The documents say what the code does: tables are generated from it, commands exist, cheap ones are run."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

METRICS = ("held_out_loss_nats_per_token", "kl_to_teacher_nats_per_token", "top1_agreement_frac", "rouge_l_f1")
TOP = Path(__file__).parents[1]


def _commands(path: str) -> list[tuple[str, ...]]:
    """Return every kdbuild command in the code blocks of a document, as words."""
    text = (TOP / path).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:console|bash|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = []
    for line in "\n".join(blocks).splitlines():
        for part in re.split(r"&&|;", line.removeprefix("$ ")):
            words = part.split("#")[0].split()
            if words and Path(words[0]).name == "kdbuild":
                found.append(tuple(words[1:]))
    return found


@pytest.mark.parametrize("path", ["README.md", "kdbuild/README.md"])
def test_commands_in_documents_exist(path):
    from kdbuild.cli import COMMANDS

    for words in _commands(path):
        name, options = words[0], [word for word in words[1:] if word.startswith("-")]
        assert name in COMMANDS, words
        command = importlib.import_module(f"kdbuild.cli.{name}").command
        command = command.commands[words[1]] if hasattr(command, "commands") else command
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert set(options) <= known, words


def test_readme_shows_every_command_users_run():
    from kdbuild.cli import COMMANDS

    text = (TOP / "README.md").read_text(encoding="utf-8")
    for name in set(COMMANDS) - {"stage"}:
        assert f"kdbuild {name}" in text, name


def _shown(command: str) -> str:
    """Return the output that README.md shows under `$ command`."""
    text = (TOP / "README.md").read_text(encoding="utf-8")
    match = re.search(r"^\$ " + re.escape(command) + r"\n(.*?)(?=^\$ |^```)", text, re.MULTILINE | re.DOTALL)
    assert match, f"README.md shows no `$ {command}`"
    return match[1]


def test_shown_output_of_check_is_real(repository):
    assert repository.kdbuild("check").text == _shown("kdbuild check")


@pytest.fixture(scope="session")
def repository(tmp_path_factory, new_project):
    """Return a copy of what this repository ships, as a project of its own."""
    files = {
        str(path.relative_to(TOP)): path.read_text(encoding="utf-8") for path in [TOP / "params.yaml", *(TOP / "specs").rglob("*.yaml")]
    }
    files |= {str(path.relative_to(TOP)): path.read_text(encoding="utf-8") for path in (TOP / "specs").rglob("*.jsonl")}
    return new_project(tmp_path_factory.mktemp("repository"), files)


def test_measured_table_is_what_the_metrics_say():
    """The numbers in README's table are those of the committed metrics.json."""
    import json

    text = (TOP / "README.md").read_text(encoding="utf-8")
    for spec in ("everyday-helper", "python-docs"):
        metrics = json.loads((TOP / "artifacts" / spec / "metrics.json").read_text())
        for model in ("init", "sft", "kl", "teacher"):
            cells = [
                f"{metrics[model][name]:.2f}"
                for name in ("held_out_loss_nats_per_token", "kl_to_teacher_nats_per_token", "top1_agreement_frac", "rouge_l_f1")
            ]
            row = next((line for line in text.splitlines() if line.startswith(f"| {spec} | {model} |")), None)
            assert row is not None, (spec, model)
            assert [cell.strip() for cell in row.split("|")[3:7]] == cells
