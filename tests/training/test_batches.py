import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from kdbuild.training.batches import Example, optimiser_steps, pack, split
from kdbuild.training.tokens import Encoded


def example(name, length, num_trained=1):
    return Example(name, Encoded(list(range(length)), [False] * (length - num_trained) + [True] * num_trained))


def names(steps):
    return [[e.row for e in step] for step in steps]


lengths = st.lists(st.integers(2, 90), min_size=1, max_size=40)


@given(lengths, st.integers(1, 200), st.integers(1, 3))
def test_each_epoch_sees_each_example_once_in_steps_of_like_size(sizes, batch_tokens, num_epochs):
    examples = [example(f"r{i}", size) for i, size in enumerate(sizes)]
    steps = optimiser_steps(examples, num_epochs=num_epochs, batch_tokens=batch_tokens, seed=0)
    seen = [e.row for step in steps for e in step]
    for epoch in range(num_epochs):
        assert sorted(seen[epoch * len(sizes) : (epoch + 1) * len(sizes)]) == sorted(e.row for e in examples)
    even = sum(sizes) / max(1, round(sum(sizes) / batch_tokens))
    assert all(sum(map(len, step)) <= even + max(sizes) for step in steps)
    assert all(steps)


@given(st.randoms(use_true_random=False))
def test_order_depends_on_ids_seed_and_epoch_and_never_on_place(chance):
    examples = [example(f"r{i}", 5 + i % 7) for i in range(30)]
    steps = names(optimiser_steps(examples, num_epochs=2, batch_tokens=50, seed=3))
    chance.shuffle(examples)
    assert names(optimiser_steps(examples, num_epochs=2, batch_tokens=50, seed=3)) == steps
    assert names(optimiser_steps(examples, num_epochs=2, batch_tokens=50, seed=4)) != steps
    first, second = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    assert first != second


def test_one_row_more_leaves_the_order_of_the_others_as_it_was():
    examples = [example(f"r{i}", 5) for i in range(30)]
    before = [e.row for step in optimiser_steps(examples, num_epochs=1, batch_tokens=50, seed=0) for e in step]
    after = [e.row for step in optimiser_steps([*examples, example("new", 5)], num_epochs=1, batch_tokens=50, seed=0) for e in step]
    assert [row for row in after if row != "new"] == before


def test_rows_that_share_an_id_are_ordered_by_content():
    pair = [example("r", 5), example("r", 9)]
    assert optimiser_steps(pair, num_epochs=1, batch_tokens=99, seed=0) == optimiser_steps(
        pair[::-1], num_epochs=1, batch_tokens=99, seed=0
    )


@given(lengths, st.integers(1, 4), st.integers(1, 200))
def test_a_step_is_cut_into_as_many_passes_on_every_rank_within_the_limit(sizes, num_ranks, micro_batch_tokens):
    group = [example(f"r{i}", size) for i, size in enumerate(sizes)]
    ranks = split(group, num_ranks=num_ranks, micro_batch_tokens=micro_batch_tokens)
    assert len(ranks) == num_ranks
    assert len({len(passes) for passes in ranks}) == 1
    passes = [members for passes in ranks for members in passes]
    assert sorted(e.row for members in passes for e in members) == sorted(e.row for e in group)
    for members in passes:
        assert len(members) < 2 or sum(map(len, members)) <= max(micro_batch_tokens, max(sizes))
    shuffled = random.Random(0).sample(group, len(group))
    assert split(shuffled, num_ranks=num_ranks, micro_batch_tokens=micro_batch_tokens) == ranks


def test_a_pack_restarts_positions_and_predicts_trained_tokens_of_each_sequence_from_the_one_before():
    first = Example("a", Encoded([5, 6, 7], [False, True, True]))
    second = Example("b", Encoded([8, 9], [True, True]))  # a first token has nothing to be predicted from
    packed = pack([first, second])
    assert packed.ids_1S.tolist() == [[5, 6, 7, 8, 9]]
    assert packed.positions_1S.tolist() == [[0, 1, 2, 0, 1]]
    assert packed.predicting_T.tolist() == [0, 1, 3]
    assert packed.labels_T.tolist() == [6, 7, 9]


def test_an_empty_pack_trains_nothing():
    packed = pack([])
    assert packed.ids_1S.shape == (1, 2)
    assert packed.labels_T.shape == (0,)
    assert packed.labels_T.dtype == torch.long
