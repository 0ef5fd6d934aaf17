"""The source of known entropy: what it states is what its bytes show, on every machine and at every size."""

import hashlib

import numpy as np
import pytest
from batchscale.measure.data.datasets import load
from batchscale.measure.data.recipes import markov
from hypothesis import given, settings
from hypothesis import strategies as st


@given(st.integers(2, 64), st.integers(0, 2**32))
@settings(max_examples=30)
def test_odds_are_whole_and_add_up(symbols, seed):
    odds = markov.odds(symbols, seed)
    assert odds.shape == (symbols, symbols)
    assert odds.min() >= 1
    assert set(odds.sum(axis=1)) == {markov.ODDS}
    often = markov.stationary(odds)
    np.testing.assert_allclose(often @ (odds / markov.ODDS), often, atol=1e-12)
    assert 0 < markov.entropy_rate(odds) <= np.log2(symbols)


@pytest.mark.parametrize(("stay", "leave"), [(0.5, 0.5), (0.25, 0.125), (1023 / 1024, 1 / 4096)])
def test_the_entropy_rate_of_two_symbols_has_a_closed_form(stay, leave):
    """pi = (b, a) / (a + b) for odds a and b of leaving either symbol."""
    a, b = 1 - stay, leave
    odds = np.rint(np.array([[1 - a, a], [b, 1 - b]]) * markov.ODDS).astype(np.int64)

    def entropy(p):
        return -p * np.log2(p) - (1 - p) * np.log2(1 - p)

    expected = (b * entropy(a) + a * entropy(b)) / (a + b)
    assert markov.entropy_rate(odds) == pytest.approx(expected, rel=1e-10)


def test_uniform_odds_have_the_entropy_of_their_number():
    assert markov.entropy_rate(np.full((16, 16), markov.ODDS // 16)) == pytest.approx(4)


@pytest.mark.parametrize("options", [{"symbols": 8}, {"symbols": 2, "seed": 5}, {"symbols": 32, "window": 64}])
def test_the_loss_of_who_knows_the_odds_is_the_entropy_rate(options):
    """The mean surprise over all bytes, within four standard errors over independent examples."""
    dataset = load("markov", {"train_examples": 20_000, "held_out_examples": 1, "window": 32, **options})
    odds = markov.odds(options["symbols"], options.get("seed", 0))
    inputs, labels = (part.astype(int) - markov.FIRST_BYTE for part in dataset.train)
    surprise = -np.log2(odds[inputs, labels] / markov.ODDS).mean(axis=1)
    error = surprise.std() / np.sqrt(len(surprise))
    assert abs(surprise.mean() - dataset.facts["entropy_bits_per_byte"]) < 4 * error
    assert error < 0.01


def test_pairs_of_bytes_occur_as_often_as_the_odds_say():
    dataset = load("markov", {"symbols": 4, "train_examples": 20_000, "held_out_examples": 1, "window": 20})
    odds = markov.odds(4, 0)
    inputs, labels = (part.astype(int) - markov.FIRST_BYTE for part in dataset.train)
    for column in (0, 19):
        pairs = np.bincount(inputs[:, column] * 4 + labels[:, column], minlength=16) / len(inputs)
        expected = (markov.stationary(odds)[:, None] * odds / markov.ODDS).ravel()
        np.testing.assert_allclose(pairs, expected, atol=4 * np.sqrt(0.25 / len(inputs)))


def test_a_longer_split_begins_with_a_shorter_one_and_splits_differ():
    few, more = (load("markov", {"train_examples": count, "held_out_examples": 3}) for count in (3, 5000))
    for one, other in zip(few.train, more.train, strict=True):
        np.testing.assert_array_equal(one, other[:3])
    assert len({few.train.inputs.tobytes(), few.validation.inputs.tobytes(), few.test.inputs.tobytes()}) == 3
    chunk = markov.CHUNK_EXAMPLES
    assert not np.array_equal(more.train.inputs[:100], more.train.inputs[chunk : chunk + 100])


def test_windows_are_bytes_and_the_bytes_after_them():
    dataset = load("markov", {"window": 9, "train_examples": 50, "symbols": 64})
    assert (dataset.task, dataset.classes, dataset.tokens_per_example) == ("language_model", 256, 9)
    assert dataset.input_shape == (9,)
    assert dataset.train.inputs.dtype == dataset.train.labels.dtype == np.uint8
    np.testing.assert_array_equal(dataset.train.inputs[:, 1:], dataset.train.labels[:, :-1])
    assert dataset.train.inputs.min() >= 32
    assert dataset.train.inputs.max() < 96
    assert dataset.train.inputs.flags.c_contiguous


def test_seeds_give_different_sources():
    assert load("markov", {"train_examples": 9}).facts != load("markov", {"train_examples": 9, "seed": 1}).facts


def test_the_bytes_are_pinned_so_that_published_losses_stay_comparable():
    dataset = load("markov", {"train_examples": 5000})
    assert hashlib.sha256(dataset.train.inputs.tobytes()).hexdigest()[:12] == "e03ed6b5e365"
    assert dataset.facts["entropy_bits_per_byte"] == pytest.approx(3.874810366977364, rel=1e-12)
