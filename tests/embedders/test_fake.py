"""The hashing embedder."""

from __future__ import annotations

import hashlib

import numpy as np

from kdbuild.embedders.fake import Fake


def test_value_worked_out_from_the_definition() -> None:
    def direction(word: str) -> list[int]:
        return [1 if byte % 2 else -1 for byte in hashlib.shake_256(word.encode()).digest(8)]

    sums = [a + 2 * b + c for a, b, c in zip(direction(""), direction("tea"), direction("hot"), strict=True)]
    length = sum(s * s for s in sums) ** 0.5
    np.testing.assert_allclose(Fake(dimension=8).embed(["Tea, hot TEA!"], None)[0], [s / length for s in sums], rtol=1e-6)


def test_word_order_case_and_punctuation_do_not_matter() -> None:
    vectors = Fake().embed(["Red, green and blue.", "blue AND green red"], None)
    assert vectors[0].tobytes() == vectors[1].tobytes()


def test_texts_without_common_words_are_about_at_right_angles() -> None:
    texts = [" ".join(f"w{10 * i + j}" for j in range(10)) for i in range(30)]
    cosines = np.triu(Fake(dimension=1024).embed(texts, None) @ Fake(dimension=1024).embed(texts, None).T, 1)
    assert np.abs(cosines).max() < 0.25
