"""`kdbuild kinds`: the words a spec can use, and the fields of each."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from kdbuild.cli.kinds import FAMILIES, command
from kdbuild.errors import KdbuildError
from kdbuild.kinds import available, load


def _print(*words: str) -> str:
    return CliRunner().invoke(command, words, catch_exceptions=False).output


def test_every_kind_of_every_family_is_listed():
    lines = _print().splitlines()
    for family in FAMILIES:
        assert family in lines
        for name in available(family):
            assert any(line.startswith(f"  {name} ") for line in lines)


@pytest.mark.parametrize("name", ["label", "semantic-dedup", "transformers"])
def test_a_kind_shows_every_field(name):
    text = _print(name)
    kind = next(load(family, name) for family in FAMILIES if name in available(family))
    for field in set(kind.model_fields) - {"kind"}:
        assert f"\n  {field} (" in text
    assert "semantic-dedup" not in text or "max_cosine (required)" in text


def test_a_field_shows_what_it_allows_and_its_default_as_a_spec_writes_it():
    everything = _print(*(name for family in FAMILIES for name in available(family)))
    for wrong in ("PydanticUndefined", "FieldInfo", "<class", "Literal["):
        assert wrong not in everything
    assert "\n  hint (none | gold | on-failure; default none): " in _print("cot")
    assert "\n  combine (union | route | consensus; default absent): " in _print("label")
    openai = _print("openai")
    assert "\n  omit (temperature | top_p | seed | stop; default []): " in openai
    assert "\n  concurrency (default {start: 64, most: 512}; knob): " in openai
    assert "\n  model (required): " in openai
    assert "\n  forms (default []): " in _print("template")


def test_a_word_nobody_knows():
    with pytest.raises(KdbuildError, match=r"no family or kind named `lable`\. Did you mean `label`\?"):
        CliRunner().invoke(command, ["lable"], catch_exceptions=False)
