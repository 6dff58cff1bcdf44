"""An answer as JSON and back."""

from __future__ import annotations

import pytest

from kdbuild.errors import RowError
from kdbuild.rows.answers import decode, encode
from kdbuild.teachers import Answer

PLAIN = '"ended":true,"failed":null,"num_new_tokens":0,"num_prompt_tokens":3,"text":""'


@pytest.mark.parametrize(
    "answer",
    [
        Answer("An oak.", True, 3, 4, logprob=-2.5),
        Answer("", True, 3, 0, logprobs=(-1.5, -2.0), num_choice_tokens=(3, 12)),
        Answer("", True, 3, 0, logprobs=(-1.5, -2.0)),
        Answer("", True, 3, 0, payload=b"\x00signals"),
        Answer("", False, 3, 0, failed="no answer"),
    ],
)
def test_it_reads_back(answer):
    assert decode(encode(answer)) == answer


def test_an_answer_stored_before_choices_had_their_tokens_counted_stays_readable():
    stored = f'{{{PLAIN},"logprobs":[-1.5,-2.0]}}'
    assert decode(stored) == Answer("", True, 3, 0, logprobs=(-1.5, -2.0))
    assert (
        encode(decode(stored)) == '{"ended":true,"failed":null,"logprobs":[-1.5,-2.0],"num_new_tokens":0,"num_prompt_tokens":3,"text":""}'
    )


@pytest.mark.parametrize("counts", ['"3"', "[0]", "[2.5]", "[true]", '["3"]'])
def test_numbers_of_tokens_that_are_none_are_refused(counts):
    with pytest.raises(RowError, match="is not one"):
        decode(f'{{{PLAIN},"logprobs":[-1.5],"num_choice_tokens":{counts}}}')
