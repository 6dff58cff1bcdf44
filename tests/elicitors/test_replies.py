"""What of a reply is the text asked for."""

from __future__ import annotations

import pytest

from kdbuild.elicitors._replies import code_in, refuses, same_words, unwrapped


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("  Name a tree.\n", "Name a tree."),
        ('"Name a tree."', "Name a tree."),
        ("Rewritten prompt: Name a tree.", "Name a tree."),
        ("**New Instruction:** Name a tree.", "Name a tree."),
        ("Sure! Here is the text:\n\nName a tree.", "Name a tree."),
        ("Here's one:\nName a tree.", "Name a tree."),
        ('"One" and "two"', '"One" and "two"'),
        ("Question the witness.", "Question the witness."),
        ("Here is a tree. Name it: a game.", "Here is a tree. Name it: a game."),
        ("'", "'"),
        ("", ""),
    ],
)
def test_what_stands_around_a_text_is_left_out(reply, text):
    assert unwrapped(reply) == text


@pytest.mark.parametrize(
    "text", ["I'm sorry, but I can't do that.", "I cannot help with that.", "Sorry, no.", "As an AI language model, I", "I’m unable to"]
)
def test_refusals(text):
    assert refuses(text)


@pytest.mark.parametrize("text", ["I can help.", "Write an apology that says sorry.", "Why can't I help my plants?", ""])
def test_what_is_no_refusal(text):
    assert not refuses(text)


def test_code():
    assert code_in("a\n```py\nx = 1\n\ny = 2\n```\nb\n```\nz\n```") == "x = 1\n\ny = 2"
    assert code_in("x = 1\n") == "x = 1"


def test_same_words():
    assert same_words("Name a tree!", " name A  tree")
    assert not same_words("Name a tree", "Name two trees")
    assert same_words("?", "? ")
    assert not same_words("?", "!")
