from pathlib import Path

from kdbuild.records import Message, Row
from kdbuild.seeds.none import Nothing


def test_rows_differ_in_their_ids_alone_and_more_of_them_leave_the_others():
    few, many = (list(Nothing(num_rows=n).rows(Path())) for n in (3, 5))
    assert many[:3] == few
    assert all(row == Row(row.id) for row in many)
    assert len({row.id for row in many}) == 5


def test_a_fixed_prompt_is_every_rows_prompt():
    seeds = Nothing(num_rows=2, prompt="Write a tale.")
    assert [row.messages for row in seeds.rows(Path())] == [(Message("user", "Write a tale."),)] * 2
    assert (seeds.writes, Nothing(num_rows=2).writes) == (("prompt",), ())
