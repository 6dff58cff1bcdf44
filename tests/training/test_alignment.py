"""A teacher's tokens and the student's: by hand."""

import numpy as np
import pytest

from kdbuild.teachers._vocabulary import Vocabulary
from kdbuild.training.alignment import NONE, Alignment, _distances


def vocabulary(*words, controls=("<e>", "</s>")):
    return Vocabulary(tuple(w.encode() for w in words), frozenset(i for i, w in enumerate(words) if w in controls))


STUDENT = vocabulary("<e>", "un", "happy", " me", "n", "utilise", "t", "h", "the", "cat", "hap", "py")
TEACHER = vocabulary("unh", "app", "y", " me", "n", "</s>", "utilize", "un", "happy", "qq", "the", "cart", " un")


def names(vocabulary, *words):
    return [vocabulary.words.index(word.encode()) for word in words]


def test_tokens_that_begin_at_the_same_byte_are_counterparts():
    # unhappy men: the student's tokens begin at 0, 2, 7, 10 and 11; the teacher's at 0, 3, 6, 7, 10 and 11.
    row = Alignment(TEACHER, STUDENT).row(
        names(TEACHER, "unh", "app", "y", " me", "n", "</s>"), names(STUDENT, "un", "happy", " me", "n", "<e>")
    )
    assert row.positions_T.tolist() == [0, NONE, 3, 4, 5]
    assert row.ends == ((names(TEACHER, "</s>")[0], names(STUDENT, "<e>")[0]),)


def test_a_cut_answer_is_aligned_as_far_as_it_goes():
    row = Alignment(TEACHER, STUDENT).row(names(TEACHER, "un", "happy", " me", "n", "</s>"), names(STUDENT, "un", "hap"))
    assert row.positions_T.tolist() == [0, 1]


def test_a_space_that_one_tokenizer_puts_first_is_passed_over():
    row = Alignment(TEACHER, STUDENT).row(names(TEACHER, " un", "happy", "</s>"), names(STUDENT, "un", "happy", "<e>"))
    assert row.positions_T.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("theirs", "ours"), [(("un", "n"), ("un", "happy")), (("un", "happy", "</s>"), ("un", "<e>")), (("un",), ("un", "n"))]
)
def test_other_answers_have_no_alignment(theirs, ours):
    assert Alignment(TEACHER, STUDENT).row(names(TEACHER, *theirs), names(STUDENT, *ours)) is None


def test_words_are_aligned_by_what_they_say_and_else_by_edits():
    alignment = Alignment(TEACHER, STUDENT)
    found = alignment.ids(np.array([names(TEACHER, "un", "utilize", "cart"), names(TEACHER, "qq", "the", "</s>")]), ())
    assert found.tolist() == [names(STUDENT, "un", "utilise", "cat"), [NONE, names(STUDENT, "the")[0], NONE]]


def test_the_end_of_a_turn_is_the_end_of_a_turn():
    end = (names(TEACHER, "</s>")[0], names(STUDENT, "<e>")[0])
    alignment = Alignment(TEACHER, STUDENT)
    assert alignment.ids(np.array(names(TEACHER, "</s>", "un")), (end,)).tolist() == [end[1], names(STUDENT, "un")[0]]
    assert alignment.columns((end,))[end[0]] == end[1]
    assert alignment.columns(()).shape == (len(TEACHER.words),)


def test_ties_go_to_the_shorter_word_then_to_the_smaller_id():
    student = vocabulary("abcdX", "abcdY", "abcd")
    assert Alignment(vocabulary("abcdZ"), student).ids(np.array([0]), ()).tolist() == [2]
    student = vocabulary("abcdX", "abcdY")
    assert Alignment(vocabulary("abcdZ"), student).ids(np.array([0]), ()).tolist() == [0]


def test_the_same_tokenizer_is_aligned_with_itself():
    ids = names(STUDENT, "un", "happy", " me", "<e>")
    alignment = Alignment(STUDENT, STUDENT)
    assert alignment.row(ids, ids).positions_T.tolist() == [0, 1, 2, 3]
    assert alignment.columns(()).tolist() == list(range(len(STUDENT.words)))


def plain_distance(one, other):
    """Levenshtein by its recursive definition."""
    if not one or not other:
        return len(one) + len(other)
    if one[0] == other[0]:
        return plain_distance(one[1:], other[1:])
    return 1 + min(plain_distance(one[1:], other), plain_distance(one, other[1:]), plain_distance(one[1:], other[1:]))


def test_distances_are_those_of_the_definition():
    words = [b"kitten", b"sittin", b"mutton", b"kitton", b"nettik"]
    table = np.array([list(word) for word in words], np.uint8)
    for word in (b"sitting", b"kit", b"", b"kitten"):
        assert _distances(word, table).tolist() == [plain_distance(word, other) for other in words]
