"""The example stream: every example once per epoch, addressed and never consumed; a held-out order: fixed and fair."""

import hashlib

import numpy as np
import pytest
from batchscale.measure.data import example_order
from batchscale.measure.data.example_order import held_out_order
from hypothesis import given
from hypothesis import strategies as st

seeds = st.integers(0, 2**63)
sizes = st.integers(1, 100)
label_arrays = st.lists(st.integers(0, 9), min_size=1, max_size=300).map(lambda values: np.array(values, np.uint8))


@given(seeds, st.integers(0, 10**6), sizes)
def test_every_example_comes_exactly_once_per_epoch(seed, epoch, examples):
    np.testing.assert_array_equal(
        np.sort(example_order.indices(seed, epoch * examples, examples, examples)), np.arange(examples)
    )


@given(seeds, sizes, st.lists(st.integers(1, 90), min_size=1, max_size=8), st.integers(0, 1000))
def test_pieces_of_any_length_are_the_stream(seed, examples, lengths, start):
    pieces, at = [], start
    for length in lengths:
        pieces.append(example_order.indices(seed, at, length, examples))
        at += length
    np.testing.assert_array_equal(np.concatenate(pieces), example_order.indices(seed, start, at - start, examples))


@given(sizes.filter(lambda examples: examples > 1), st.integers(1, 60))
def test_a_batch_may_straddle_epochs_and_the_full_set_is_a_batch(examples, batch_size):
    steps = 2 * examples
    batches = [example_order.indices(5, step * batch_size, batch_size, examples) for step in range(steps)]
    counts = np.bincount(np.concatenate(batches), minlength=examples)
    assert counts.min() == counts.max() == 2 * batch_size


@pytest.mark.parametrize(("start", "count", "epochs"), [(0, 50, 1), (0, 51, 2), (49, 1, 1), (50, 50, 1), (49, 52, 3)])
def test_only_the_epochs_that_are_touched_are_shuffled(start, count, epochs):
    example_order.order.cache_clear()
    example_order.indices(3, start, count, 50)
    assert example_order.order.cache_info().currsize == epochs


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(example_order.order(seed, epoch, 50)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_first_positions_are_uniform_over_examples():
    first = np.bincount([example_order.order(seed, 0, 10)[0] for seed in range(2000)], minlength=10)
    chi_squared = ((first - 200) ** 2 / 200).sum()
    assert chi_squared < 27.9  # the 0.999 quantile with 9 degrees of freedom


def test_the_order_is_pinned_so_that_published_curves_can_be_continued():
    drawn = np.concatenate([example_order.indices(seed, 12_345, 30_000, 1297) for seed in (0, 1, 1000)])
    assert hashlib.sha256(drawn.astype("<i4").tobytes()).hexdigest()[:12] == "36f5a9aa2c38"


@given(label_arrays)
def test_the_held_out_order_visits_every_example_once(labels):
    np.testing.assert_array_equal(np.sort(held_out_order(labels)), np.arange(len(labels)))


@given(label_arrays, st.integers(0, 300))
def test_every_beginning_holds_each_class_in_proportion(labels, size):
    size = min(size, len(labels))
    beginning = labels[held_out_order(labels)[:size]]
    share = np.bincount(labels, minlength=10) * size / len(labels)
    assert np.all(np.abs(np.bincount(beginning, minlength=10) - share) <= 10 / 2 + 1)
    balanced = np.repeat(np.arange(10, dtype=np.uint8), 30)
    dealt = np.bincount(balanced[held_out_order(balanced)[:size]], minlength=10)
    assert dealt.max() - dealt.min() <= 1


def test_the_order_is_random_within_a_class_and_depends_on_the_key():
    labels = np.zeros(1000, np.uint8)
    order = held_out_order(labels)
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    assert not np.array_equal(order, held_out_order(labels, key=1))


def test_the_order_is_pinned_so_that_published_accuracies_stay_comparable():
    order = held_out_order((np.arange(60_000) % 7).astype(np.uint8))
    digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:12]
    assert digest == "1e1db0026097"
