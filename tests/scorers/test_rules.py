"""Rules about one text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdbuild.errors import SpecError
from kdbuild.records import Message, Row
from kdbuild.scorers import Scene
from kdbuild.scorers._checks import refuses, repetition
from kdbuild.scorers._pii import finds, is_luhn
from kdbuild.scorers.rules import Rules


def row(text: str, *, ended: bool = True) -> Row:
    return Row("r", (Message("user", "Ask me."), Message("assistant", text, train=True, ended=ended)))


def passes(score, text: str, part: str, **fields) -> bool:
    scorer = Rules(**fields)
    (found,) = score(scorer, [row(text)]).rows.values()
    assert found.scores["rules"] == min(value for name, value in found.scores.items() if name != "rules")
    return found.scores[f"rules.{part}"] == 1.0


def test_a_value_a_rule_and_all_of_them(score):
    scorer = Rules(min_words=3, max_chars=12, no_refusal=True)
    assert scorer.names == ("rules", "rules.words", "rules.chars", "rules.refusal")
    (found,) = score(scorer, [row("one two three")]).rows.values()
    assert found.scores == {"rules": 0.0, "rules.words": 1.0, "rules.chars": 0.0, "rules.refusal": 1.0}


@pytest.mark.parametrize(
    ("fields", "text", "expected"),
    [
        ({"min_words": 3}, "two words", False),
        ({"min_words": 3}, "now three words", True),
        ({"max_words": 4}, "東京都は", True),
        ({"max_words": 3}, "東京都は", False),
    ],
)
def test_words(score, fields, text, expected):
    assert passes(score, text, "words", **fields) == expected


def test_characters_without_white_space_at_the_ends(score):
    assert passes(score, "  abc \n", "chars", max_chars=3, min_chars=3)
    assert not passes(score, "abcd", "chars", max_chars=3)


def test_cut_answers(score):
    for ended in (True, False):
        (found,) = score(Rules(ended=True), [row("text", ended=ended)]).rows.values()
        assert found.scores["rules.ended"] == float(ended)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The oak is a tall tree that grows in the north of the country.", "en"),
        ("Die Eiche ist ein hoher Baum, der im Norden des Landes wächst.", "de"),
        ("Le chêne est un grand arbre qui pousse dans le nord du pays.", "fr"),
        ("El roble es un árbol alto que crece en el norte del país.", "es"),
        ("東京は日本の首都であり、世界最大の都市の一つです。", "ja"),
        ("Дуб - высокое дерево, которое растёт на севере страны.", "ru"),
        ("شجرة البلوط شجرة طويلة تنمو في شمال البلاد", "ar"),
    ],
)
def test_languages(score, text, language):
    assert passes(score, text, "language", languages=[language])
    assert passes(score, text, "language", languages=["pl", language])
    assert not passes(score, text, "language", languages=["fi" if language != "fi" else "en"])


def test_what_has_no_words_is_in_every_language_and_an_unknown_one_is_told(score):
    assert passes(score, "3.14 = 22 / 7 !", "language", languages=["en"], min_words=None)
    with pytest.raises(SpecError, match="no language `klingon`"):
        score(Rules(languages=["klingon"]), [row("some words")])


def test_repetition_by_hand():
    # a b a b a: 2-grams ab ba ab ba, of which 2 are distinct: 1 - 2/4.
    assert repetition("a b a b a", 2) == 0.5
    assert repetition("a b c d", 2) == 0.0
    assert repetition("a", 2) == 0.0
    assert repetition("x x x x x", 1) == 0.8


def test_a_share_of_repeated_n_grams(score):
    assert passes(score, "a b a b a", "repetition", max_repetition=0.5, repetition_words=2)
    assert not passes(score, "a b a b a", "repetition", max_repetition=0.49, repetition_words=2)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I am sorry, but as an AI language model I have no opinions.",
        "As a large language model, I do not know.",
        "Sorry, I cannot assist with that request.",
        "I’m not able to provide this information.",
        "Unfortunately, I won't be able to do so. I cannot provide medical advice.",
        "This goes against my guidelines.",
    ],
)
def test_refusals(text):
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "I am like a moth to a flame; I can't help but be drawn to her.",
        "I cannot help smiling when I see it.",
        "I am sorry to hear that your dog is ill. Give it water.",
        "You cannot divide by zero.",
        "The word 'sorry' comes from Old English.",
        "I can't wait to see the mountains, wrote Anna in her diary.",
        "Paris is the capital of France. " * 10 + "I cannot help with that.",
    ],
)
def test_no_refusals(text):
    assert not refuses(text)


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("json", '{"a": [1, 2]}', True),
        ("json", '```json\n{"a": 1}\n```', True),
        ("json", 'Here it is: {"a": 1}', False),
        ("json", "NaN", False),
        ("json", "[" * 100_000, False),
        ("code", "Look:\n```python\nprint(1)\n```\nDone.", True),
        ("code", "```python\nprint(1)", False),
        ("code", "print(1)", False),
        ("list", "1. one\n2. two", True),
        ("list", "- one\n  which goes on\n\n- two", True),
        ("list", "- one", False),
        ("list", "These:\n- one\n- two", False),
    ],
)
def test_formats(score, form, text, expected):
    assert passes(score, text, "format", format=form, min_words=None) == expected


def test_a_json_schema(score):
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}
    assert passes(score, '{"age": 3}', "schema", json_schema=schema)
    assert not passes(score, '{"age": -3}', "schema", json_schema=schema)
    assert not passes(score, "three", "schema", json_schema=schema)


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "http://example.org/schema.json"}])
def test_a_schema_that_is_none_or_lies_elsewhere_is_refused(schema):
    with pytest.raises(ValidationError, match="is no JSON schema"):
        Rules(json_schema=schema)


def test_a_pattern(score):
    assert passes(score, "Thought.\nAnswer: 42", "pattern", pattern=r"^Answer: \d+$")
    assert not passes(score, "Answer: none", "pattern", pattern=r"^Answer: \d+$")
    with pytest.raises(ValidationError, match="no regular expression"):
        Rules(pattern="(")


def test_a_blocklist_is_of_whole_words_whatever_the_case(score):
    assert not passes(score, "Go to HELL, please", "blocklist", blocklist=["hell", "open ai"])
    assert passes(score, "Hello shell", "blocklist", blocklist=["hell", "open ai"])
    assert not passes(score, "made by Open-AI.", "blocklist", blocklist=["open ai"])


def test_a_blocklist_in_a_file(score, tmp_path):
    (tmp_path / "words.txt").write_text("hell\n\nopen ai\n")
    scorer = Rules(blocklist="words.txt")
    assert scorer.files() == ("words.txt",)
    (found,) = score(scorer, [row("what the hell")], scene=Scene(tmp_path)).rows.values()
    assert found.scores["rules.blocklist"] == 0.0
    with pytest.raises(SpecError):
        score(Rules(blocklist="../words.txt"), [row("text")], scene=Scene(Path(tmp_path)))


@pytest.mark.parametrize(
    ("sort", "text", "expected"),
    [
        ("email", "Write to jane.doe+x@mail.example.co.uk today", True),
        ("email", "The decorator @property is not one, nor a@b", False),
        ("phone", "Call +49 30 901820 now", True),
        ("phone", "Call (212) 555-0123.", True),
        ("phone", "Call 212-555-0123", True),
        ("phone", "In 1998 12345678 people; from 2001-2005; 3.14159265", False),
        ("card", "Visa 4111 1111 1111 1111", True),
        ("card", "Visa 4111-1111-1111-1112", False),
        ("card", "0000 0000 0000 0000", False),
        ("ip", "Host 192.168.1.20 is down", True),
        ("ip", "Host 2001:db8::8a2e:370:7334 is down", True),
        ("ip", "localhost is 127.0.0.1, time 12:30, version 1.2.3, 999.1.1.1", False),
        ("key", "AKIAIOSFODNN7EXAMPLE", True),
        ("key", "-----BEGIN RSA PRIVATE KEY-----", True),
        ("key", "ghp_" + "a1" * 18, True),
        ("key", "a sk-lift in the mountains", False),
    ],
)
def test_what_is_personal(score, sort, text, expected):
    assert finds(sort, text) == expected
    assert passes(score, text, "pii", no_pii=[sort]) != expected


@given(st.integers(min_value=0, max_value=10**17))
def test_luhn(number):
    """Exactly one check digit is right, and any single wrong digit is found."""
    right = [digit for digit in "0123456789" if is_luhn(f"{number}{digit}")]
    assert len(right) == 1
    text = f"{number}{right[0]}"
    assert not is_luhn(str((int(text[0]) + 1) % 10) + text[1:])


def test_luhn_of_the_standard():
    assert is_luhn("79927398713")
    assert not is_luhn("79927398710")


def test_the_prompt_can_be_read_instead(score):
    (found,) = score(Rules(of="prompt", max_words=1), [row("a long answer of words")]).rows.values()
    assert found.scores["rules"] == 0.0
    assert score(Rules(of="prompt"), [Row("r", (Message("assistant", "text", train=True),))]).reasons == {"r": "no prompt to score"}


@pytest.mark.parametrize(
    "fields", [{"min_words": None}, {"min_words": 5, "max_words": 4}, {"min_chars": 5, "max_chars": 4}, {"of": "prompt", "ended": True}]
)
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        Rules(**fields)
