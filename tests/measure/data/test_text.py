"""Texts: windows predict each byte once, no train window touches a held-out byte, and compressors draw the line."""

import bz2
import gzip
import hashlib
import lzma

import numpy as np
import pytest
from batchscale.errors import InputError
from batchscale.measure.data import compression, text
from batchscale.measure.data.datasets import recipe_named
from batchscale.measure.data.files.sources import all_sources, cache_folder, obtain
from batchscale.measure.data.text import BLOCK_BYTES, block_bytes, pieces, windows, windows_of_text
from hypothesis import given, settings
from hypothesis import strategies as st

sizes = st.integers(1, 60 * BLOCK_BYTES)
gaps = st.integers(1, 3000)


@given(st.integers(0, 400), st.integers(1, 50))
def test_a_window_is_bytes_and_the_bytes_after_them(size, window):
    values = (np.arange(size) % 251).astype(np.uint8)
    inputs, labels = windows(values, window)
    assert inputs.shape == labels.shape == (max(0, (size - 1) // window), window)
    np.testing.assert_array_equal(inputs.ravel(), values[: inputs.size])
    np.testing.assert_array_equal(labels.ravel(), values[1 : labels.size + 1])
    assert size - 1 - labels.size < window


@given(sizes, gaps)
@settings(max_examples=40)
def test_splits_share_no_byte_and_train_keeps_its_distance(size, gap):
    owner, at = np.zeros(size, np.uint8), 0
    for piece in pieces(size, gap):
        assert at <= piece.start <= piece.stop <= size
        owner[piece.start : piece.stop] = ["", "train", "validation", "test"].index(piece.split)
        at = piece.stop
    held_out = np.flatnonzero(owner > 1)
    train = np.flatnonzero(owner == 1)
    if len(held_out) and len(train):
        near = np.searchsorted(held_out, train)
        left = train - held_out[np.maximum(near - 1, 0)]
        right = held_out[np.minimum(near, len(held_out) - 1)] - train
        assert (left[near > 0] > gap).all()
        assert (right[near < len(held_out)] > gap).all()


@given(st.integers(text.LEAST_BLOCKS * 8, 10**9))
def test_a_twentieth_is_held_out_for_validation_and_for_testing(size):
    block, least = block_bytes(size), size // text.LEAST_BLOCKS
    assert block == BLOCK_BYTES or least / 2 < block <= least
    blocks = size // block
    assert blocks >= text.LEAST_BLOCKS
    for first in (text.VALIDATION_BLOCK, text.TEST_BLOCK):
        held_out = len(range(first, blocks, text.PERIOD))
        assert held_out >= 2
        assert 0.03 < held_out / blocks < 0.075


@pytest.mark.parametrize("window", [1, 7, 100, 127])
def test_no_window_of_train_holds_a_held_out_byte(window):
    """Every byte of this text is its own number, so a shared byte would be seen."""
    size = 10_240
    numbers = np.arange(size, dtype=np.uint32)
    found = {"train": [], "validation": [], "test": []}
    for piece in pieces(size, window):
        inputs, labels = windows(numbers[piece.start : piece.stop].view(np.uint8).reshape(-1, 4)[:, 0], window)
        count = len(inputs)
        found[piece.split].append(numbers[piece.start : piece.start + (count * window + 1 if count else 0)])
        assert inputs.size + 1 >= len(found[piece.split][-1]) or not count
        assert len(labels) == count
    bytes_of = {split: set(np.concatenate(parts).tolist()) for split, parts in found.items()}
    assert not bytes_of["train"] & bytes_of["validation"]
    assert not bytes_of["train"] & bytes_of["test"]
    assert not bytes_of["validation"] & bytes_of["test"]
    split = windows_of_text((numbers % 251).astype(np.uint8).tobytes(), window)
    for name, parts in found.items():
        assert getattr(split, name).labels.size == sum(max(0, len(part) - 1) for part in parts)


def test_the_split_of_a_long_text_is_pinned():
    size = 40 * BLOCK_BYTES + 5
    found = [piece for piece in pieces(size, 128) if piece.split != "train"]
    assert found == [
        ("validation", 9 * BLOCK_BYTES, 10 * BLOCK_BYTES),
        ("test", 19 * BLOCK_BYTES, 20 * BLOCK_BYTES),
        ("validation", 29 * BLOCK_BYTES, 30 * BLOCK_BYTES),
        ("test", 39 * BLOCK_BYTES, 40 * BLOCK_BYTES),
    ]


def test_windows_are_bytes_of_a_language_model():
    content = windows_of_text(bytes(range(256)) * 60, 64)
    assert (content.task, content.classes, content.tokens_per_example) == ("language_model", 256, 64)
    for split in (content.train, content.validation, content.test):
        assert split.inputs.dtype == split.labels.dtype == np.uint8
        np.testing.assert_array_equal(split.inputs[:, 1:], split.labels[:, :-1])
        np.testing.assert_array_equal(split.labels[:, -1], split.inputs[:, -1] + np.uint8(1))


@given(st.integers(1, 300), st.data())
def test_the_size_that_a_refusal_names_is_enough_and_one_byte_less_is_not(window, data):
    least = text.LEAST_BLOCKS << window.bit_length()
    content = windows_of_text(b"x" * least, window)
    assert all(len(split.labels) for split in (content.train, content.validation, content.test))
    short = data.draw(st.integers(0, least - 1))
    with pytest.raises(InputError, match=f"^novel: {short} bytes are too few .* expected at least {least} bytes"):
        windows_of_text(b"x" * short, window, "novel")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "batchscale" / "compressed"


SENTENCE = b"the quick brown fox jumps over the lazy dog, and then it does so again; " * 60


def test_the_lines_are_those_of_pythons_modules(cache):
    found = compression.bits_per_byte(SENTENCE)
    assert found == {
        "gzip_bits_per_byte": 8 * len(gzip.compress(SENTENCE, 9)) / len(SENTENCE),
        "bzip2_bits_per_byte": 8 * len(bz2.compress(SENTENCE, 9)) / len(SENTENCE),
        "xz_bits_per_byte": 8 * len(lzma.compress(SENTENCE, preset=9)) / len(SENTENCE),
    }


def test_the_lines_of_a_text_are_computed_once(cache, monkeypatch):
    found = compression.bits_per_byte(SENTENCE)
    monkeypatch.setattr(compression, "compressed", lambda _: pytest.fail("computed again"))
    assert compression.bits_per_byte(SENTENCE) == found


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"gzip": -1, "bzip2": 1, "xz": 1}', b"\xff"])
def test_a_damaged_cache_is_computed_again(cache, damage):
    found = compression.bits_per_byte(SENTENCE)
    (kept,) = cache.iterdir()
    kept.write_bytes(damage)
    assert compression.bits_per_byte(SENTENCE) == found
    assert kept.read_bytes() != damage


def test_a_cache_that_cannot_be_written_is_a_warning(cache, caplog):
    cache.parent.write_bytes(b"a file where a folder should be")
    assert len(compression.bits_per_byte(SENTENCE)) == 3
    assert "not kept for the next run" in caplog.text


def test_a_long_text_is_announced_and_a_very_long_one_has_no_lines(cache, monkeypatch):
    said = []
    monkeypatch.setattr(compression, "LONG_BYTES", 10)
    compression.bits_per_byte(SENTENCE, said.append)
    assert said == ["compressing the text with gzip, bzip2 and xz, once"]
    monkeypatch.setattr(compression, "MOST_BYTES", len(SENTENCE) - 1)
    assert compression.bits_per_byte(SENTENCE) == compression.bits_per_byte(b"") == {}


def test_known_lines_are_not_computed(cache, monkeypatch):
    monkeypatch.setitem(compression.KNOWN, hashlib.sha256(b"abcd").hexdigest(), compression.Sizes(1, 2, 3))
    assert list(compression.bits_per_byte(b"abcd").values()) == [2, 4, 6]
    assert not cache.exists()


@pytest.mark.network
@pytest.mark.slow
def test_known_lines_are_what_would_be_computed():
    name = "shakespeare"
    recipe = recipe_named(name)
    try:
        obtained = obtain(name, recipe.files, all_sources(name, recipe.sources), cache_folder(name))
    except InputError as error:
        pytest.skip(str(error))
    (content,) = obtained.files.values()
    assert compression.compressed(content) == compression.KNOWN[recipe.sha256]
