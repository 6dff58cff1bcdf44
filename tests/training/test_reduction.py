"""Named distributions merged, mixed and weighed: by hand."""

import math

import numpy as np
import pytest

from kdbuild.training.reduction import Masses, merged, mixture, weights


def masses(ids, mass, tail):
    return Masses(np.array(ids), np.array(mass, float), np.array(tail, float))


def test_a_token_named_twice_is_one_and_nameless_mass_is_among_the_others():
    got = merged(masses([[5, 2, 5, -1]], [[0.2, 0.3, 0.25, 0.1]], [0.15]), 4)
    assert got.ids_TK.tolist() == [[5, 2, 5, 5]]
    assert got.mass_TK.tolist() == [pytest.approx([0.45, 0.3, 0, 0])]
    assert got.tail_T.tolist() == pytest.approx([0.25])


def test_what_is_beyond_k_is_among_the_others():
    got = merged(masses([[1, 2, 3], [4, 5, 6]], [[0.1, 0.5, 0.2], [0.3, 0.3, 0.4]], [0.2, 0]), 2)
    assert got.ids_TK.tolist() == [[2, 3], [6, 4]]
    assert got.mass_TK.tolist() == [pytest.approx([0.5, 0.2]), pytest.approx([0.4, 0.3])]
    assert got.tail_T.tolist() == pytest.approx([0.3, 0.3])


def test_a_position_without_a_name_is_nameless():
    got = merged(masses([[-1, -1]], [[0.5, 0.25]], [0.25]), 2)
    assert got.ids_TK.tolist() == [[-1, -1]]
    assert got.tail_T.tolist() == [1.0]


def test_a_mixture_by_hand():
    one, other = masses([[1, 2]], [[0.6, 0.2]], [0.2]), masses([[2, 3]], [[0.4, 0.4]], [0.2])
    got = merged(mixture([one.weighted(0.75), other.weighted(0.25)]), 3)
    assert got.ids_TK.tolist() == [[1, 2, 3]]
    assert got.mass_TK.tolist() == [pytest.approx([0.45, 0.25, 0.1])]
    assert got.tail_T.tolist() == pytest.approx([0.2])


def test_no_rows_stay_no_rows():
    got = merged(masses(np.zeros((0, 3), int), np.zeros((0, 3)), np.zeros(0)), 2)
    assert got.ids_TK.shape == (0, 2)


def test_the_least_cross_entropy_takes_all():
    assert weights([3.0, 2.0, 5.0], 4, "min-cross-entropy") == [0, 1, 0]
    assert weights([2.0, 2.0], 4, "min-cross-entropy") == [1, 0]


def test_an_average_weighs_by_the_mean_probability_of_a_token():
    # Cross-entropies log 2 and log 4 a token: probabilities 1/2 and 1/4, normalised 2/3 and 1/3.
    assert weights([10 * math.log(2), 10 * math.log(4)], 10, "average") == pytest.approx([2 / 3, 1 / 3])
    assert weights([1e6, 1e6 + 1], 1, "average") == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)])
