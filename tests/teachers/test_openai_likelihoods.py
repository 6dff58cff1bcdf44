"""The `openai` teacher asked for the likelihood of whole texts."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdbuild.errors import SpecError, StageError
from kdbuild.records import Message
from kdbuild.teachers import Answer, Ask, Signal, row_key
from kdbuild.teachers.openai import Likelihoods, Openai

sys.path.insert(0, str(Path(__file__).parent))
import servers

TEMPLATE = """\
{% for message in messages %}
<{{ message.role }}>{{ message.content }}</>
{% endfor %}
{% if messages[0].role == "tool" %}{{ raise_exception("no tool first") }}{% endif %}
{% if add_generation_prompt %}<assistant>{% endif %}"""
USER = Message("user", "What is it?")
WRITTEN = "<user>What is it?</>\n<assistant>"


def spelt(prompt: str) -> list[tuple[str, float | None]]:
    """Return tags and words as tokens; a token is as unlikely, in nats, as it is long."""
    tokens = re.findall(r"</?\w*>|\s*[^\s<]+|\s+", prompt)
    return [(token, None if i == 0 else -float(len(token))) for i, token in enumerate(tokens)]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    return tmp_path


def teacher_at(server: servers.Server, **more) -> Openai:
    likelihoods = Likelihoods(chat_template="chat.jinja", start="<s>")
    return Openai(**{"model": servers.MODEL, "endpoints": (server.url,), "retry_wait_s": 0.01, "likelihoods": likelihoods, **more})


def answers(teacher: Openai, root: Path, asks: list[Ask]) -> list[Answer]:
    with teacher.open(root, None) as session:
        return [answer for _, answer in sorted(session.generate(asks), key=lambda one: one[0])]


def test_a_text_after_a_conversation_and_on_its_own(root):
    prompts = []

    def echo(prompt: str) -> list[tuple[str, float | None]]:
        prompts.append(prompt)
        return spelt(prompt)

    asks = [
        Ask("a", (USER,), choices=("An old oak.",)),
        Ask("b", (), choices=("An old oak.",)),
        Ask("c", (Message("system", "x"),), choices=("An old oak.", "No.")),
    ]
    with servers.serve(echo=echo) as server:
        found = answers(teacher_at(server), root, asks)
    assert sorted(prompts) == sorted([f"{WRITTEN}An old oak.", *["<s>An old oak."] * 2, "<s>No."])
    # `An`, ` old`, ` oak.`: 2 + 4 + 5 nats; before them 9 tokens of the conversation, or one.
    num_before = len(spelt(WRITTEN))
    assert [(one.logprobs, one.num_choice_tokens, one.num_prompt_tokens) for one in found] == [
        ((-11.0,), (3,), num_before),
        ((-11.0,), (3,), 1),
        ((-11.0, -3.0), (3, 1), 1),
    ]


def test_chats_and_likelihoods_go_to_one_server(root):
    asks = [Ask("a", (USER,), 40), Ask("b", (), choices=("An oak.",))]
    with servers.serve(echo=spelt) as server:
        found = answers(teacher_at(server), root, asks)
    assert found[0].text == servers.written([{"role": "user", "content": USER.content}])
    assert found[1].logprobs == (-7.0,)


def test_characters_that_tokens_cut_are_found_by_the_other_side(root):
    def cut(prompt: str) -> list[tuple[str, float | None]]:
        return [(token.replace("河", "\ufffd\ufffd"), logprob) for token, logprob in spelt(prompt)]

    asks = [Ask("a", (Message("user", "河?"),), choices=("A river.",)), Ask("b", (), choices=("河 flows",))]
    with servers.serve(echo=cut) as server:
        found = answers(teacher_at(server), root, [*asks, Ask("c", (Message("user", "河?"),), choices=("河 flows",))])
    assert [one.num_choice_tokens for one in found[:2]] == [(2,), (2,)]
    assert found[2].failed == "no token begins where the text begins"


def test_what_cannot_be_asked_fails_alone(root):
    def joined(prompt: str) -> list[tuple[str, float | None]]:
        return [(prompt[:12], None), (prompt[12:], -1.0)]

    asks = [Ask("a", (USER,), choices=("An oak.",)), Ask("b", (), choices=("",)), Ask("c", (Message("tool", "x"), USER), choices=("y",))]
    with servers.serve(echo=joined) as server:
        found = answers(teacher_at(server), root, asks)
    assert [one.failed for one in found] == [
        "no token begins where the text begins",
        "a choice has no tokens",
        "the chat template refuses the messages",
    ]


@pytest.mark.parametrize("echo", [lambda prompt: [], lambda prompt: [(token, None) for token, _ in spelt(prompt)]])
def test_a_server_that_tells_nothing_of_prompts_is_named(root, echo):
    with servers.serve(echo=echo) as server, pytest.raises(StageError, match="no log-probabilities of the tokens of a prompt"):
        answers(teacher_at(server), root, [Ask("b", (), choices=("An oak.",))])


def test_a_server_without_the_endpoint_is_named(root):
    with servers.serve() as server, pytest.raises(StageError, match="not found"):
        answers(teacher_at(server), root, [Ask("b", (), choices=("An oak.",))])


def test_a_teacher_that_is_not_said_to_give_them_is_not_asked(root):
    with servers.serve(echo=spelt) as server:
        silent = teacher_at(server, likelihoods=None, choice_logprobs=True)
        assert silent.gives == {Signal.TEXT, Signal.CHOICES}
        with pytest.raises(StageError, match="not said to give the likelihood of whole texts"):
            answers(silent, root, [Ask("b", (), choices=("An oak.",))])
        assert server.others == {}


def test_what_it_says_of_itself(root):
    with servers.serve() as server:
        teacher = teacher_at(server)
    plain = teacher.model_copy(update={"likelihoods": None})
    assert teacher.gives == {Signal.TEXT, Signal.LIKELIHOOD}
    assert (teacher.files(), plain.files()) == (("chat.jinja",), ())
    before = row_key(teacher.answer_identity(root), Ask("r", (), choices=("x",)))
    (root / "chat.jinja").write_text(TEMPLATE + " ")
    assert row_key(teacher.answer_identity(root), Ask("r", (), choices=("x",))) != before
    assert "likelihoods" not in plain.answer_identity(root)
    with pytest.raises(ValidationError, match="`batch_api` sends chats only"):
        teacher_at(server, batch_api=True)
    (root / "chat.jinja").unlink()
    with pytest.raises(SpecError, match="is not there"):
        teacher.answer_identity(root)


def test_a_template_that_is_none_is_said(root):
    (root / "chat.jinja").write_text("{% for %}")
    with servers.serve(echo=spelt) as server, pytest.raises(StageError, match="not a Jinja template"):
        answers(teacher_at(server), root, [Ask("a", (USER,), choices=("x",))])
