"""The IDX parser meets strangers' bytes: it gives the array, or one clear line, and allocates nothing for a promise."""

import struct
import tracemalloc

import numpy as np
import pytest
from batchscale.errors import InputError
from batchscale.measure.data.idx_format import parse, split_idx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


small_arrays = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=4, max_side=5))


@given(small_arrays)
def test_what_was_written_is_read(array):
    np.testing.assert_array_equal(parse(idx(array), "a"), array)


@given(small_arrays, st.data())
def test_a_cut_or_longer_file_is_refused_by_name(array, data):
    whole = idx(array)
    length = data.draw(st.integers(0, len(whole) + 3).filter(lambda size: size != len(whole)))
    with pytest.raises(InputError, match=r"^train-images: ") as caught:
        parse((whole + b"\0\0\0")[:length], "train-images")
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=64))
def test_any_bytes_give_an_array_or_a_refusal(data):
    try:
        array = parse(data, "a")
    except InputError:
        return
    assert idx(array) == data


@pytest.mark.parametrize(
    ("header", "field"),
    [
        (b"\x1f\x8b\x08\x00", "magic number"),
        (b"\0\0\x0d\x01\0\0\0\0", "value type"),
        (b"\0\0\x08\x00", "dimensions"),
        (b"\0\0\x08\xff" + b"\0" * 1020, "dimensions"),
        (b"\0\0\x08\x03\0\0", "header"),
    ],
)
def test_the_wrong_field_is_named(header, field):
    with pytest.raises(InputError, match=field):
        parse(header, "a")


def test_a_promise_of_exabytes_allocates_nothing():
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="length"):
            parse(b"\0\0\x08\x04" + b"\xff" * 16, "a")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_as_many_examples_are_held_out_as_an_experiment_asks_for():
    random = np.random.default_rng(0)
    train, test = (random.integers(0, 256, (count, 3, 3), dtype=np.uint8) for count in (60, 7))
    labels = [np.arange(len(images), dtype=np.uint8) % 10 for images in (train, test)]
    files = dict(zip("abcd", map(idx, (train, labels[0], test, labels[1])), strict=True))
    content = split_idx(files, validation_examples=20)
    assert [len(one.labels) for one in (content.train, content.validation, content.test)] == [40, 20, 7]
