"""The user's own data: three splits that can be trained on, or one line that says what is wrong with the file."""

import hashlib
import io
import os
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from batchscale.errors import InputError
from batchscale.measure.data import array_files, arrays, datasets
from batchscale.measure.data.arrays import SPLIT_NAMES, content_of
from batchscale.measure.data.datasets import load
from hypothesis import given
from hypothesis import strategies as st

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_cache_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def six(inputs=None, labels=None, counts=(30, 8, 6)):
    """The arrays of three splits; by default, real inputs and three classes."""
    inputs = inputs or (lambda count: RANDOM.normal(size=(count, 4)).astype(np.float32))
    labels = labels or (lambda count: np.arange(count) % 3)
    made = {}
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
        made |= {f"{split}_inputs": inputs(count), f"{split}_labels": labels(count)}
    return made


def as_npz(folder, content, compressed=False):
    (np.savez_compressed if compressed else np.savez)(folder / "data.npz", **content)
    return "data.npz"


def as_folder(folder, content):
    (folder / "mine").mkdir()
    for name, array in content.items():
        np.save(folder / "mine" / f"{name}.npy", array)
    return "mine"


def refusal(name, folder, options=datasets.NO_OPTIONS):
    with pytest.raises(InputError) as caught:
        load(name, options, folder)
    message = str(caught.value)
    assert message.isprintable()
    return message


def splits(content):
    return content.train, content.validation, content.test


@pytest.mark.parametrize("store", [as_npz, lambda folder, content: as_npz(folder, content, compressed=True), as_folder])
def test_what_was_saved_is_loaded(tmp_path, store):
    given_arrays = six()
    dataset = load(store(tmp_path, given_arrays), folder=tmp_path)
    assert (dataset.task, dataset.classes, dataset.tokens_per_example) == ("classification", 3, None)
    assert dataset.input_shape == (4,)
    for name, split in zip(("train", "validation", "test"), splits(dataset), strict=True):
        np.testing.assert_array_equal(split.inputs, given_arrays[f"{name}_inputs"])
        np.testing.assert_array_equal(split.labels, given_arrays[f"{name}_labels"])
        assert (split.inputs.dtype, split.labels.dtype) == (np.float32, np.int32)


def test_a_file_and_a_folder_of_the_same_arrays_have_the_same_hash(tmp_path):
    content = six()
    one, other = (load(store(tmp_path, content), folder=tmp_path) for store in (as_npz, as_folder))
    assert one.sha256 == other.sha256
    content["test_labels"] = content["test_labels"][::-1]
    assert load(as_npz(tmp_path, content), folder=tmp_path).sha256 != one.sha256


def test_a_folder_is_mapped_and_not_read(tmp_path):
    dataset = load(as_folder(tmp_path, six()), folder=tmp_path)
    assert isinstance(dataset.train.inputs, np.memmap)


def test_an_absolute_path_and_one_in_a_subfolder_are_found(tmp_path):
    as_npz(tmp_path, six())
    assert load(str(tmp_path / "data.npz")).name == str(tmp_path / "data.npz")
    assert load(f"{tmp_path.name}/data.npz", folder=tmp_path.parent).classes == 3


@pytest.mark.parametrize("kind", ["float16", "float64", ">f4"])
@pytest.mark.parametrize("whole", ["uint8", "int64", ">i2", "uint64"])
def test_every_type_of_number_is_converted(tmp_path, kind, whole):
    content = six(
        lambda count: RANDOM.normal(size=(count, 2)).astype(kind), lambda count: np.arange(count).astype(whole)
    )
    dataset = load(as_npz(tmp_path, content), folder=tmp_path)
    assert dataset.train.inputs.dtype == np.dtype("float32")
    np.testing.assert_array_equal(dataset.train.inputs, content["train_inputs"].astype(np.float32))
    assert dataset.train.labels.tolist() == list(range(30))


def test_fortran_order_is_kept(tmp_path):
    content = six(lambda count: np.asfortranarray(RANDOM.normal(size=(count, 3, 5))))
    dataset = load(as_npz(tmp_path, content), folder=tmp_path)
    np.testing.assert_array_equal(dataset.test.inputs, content["test_inputs"].astype(np.float32))


@pytest.mark.parametrize(("shape", "expected"), [((6, 6), (6, 6, 1)), ((6, 6, 3), (6, 6, 3)), ((9,), (9,))])
def test_bytes_are_images_and_are_standardised_by_the_train_split(tmp_path, shape, expected):
    content = six(lambda count: RANDOM.integers(0, 200, (count, *shape)).astype(np.uint8))
    dataset = load(as_npz(tmp_path, content), folder=tmp_path)
    assert dataset.input_shape == expected
    axes = tuple(range(3)) if len(expected) == 3 else (0, 1)
    np.testing.assert_allclose(dataset.train.inputs.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(dataset.train.inputs.std(axes), 1, atol=1e-5)
    assert abs(dataset.test.inputs.mean()) > 1e-4
    assert len(dataset.facts) == (6 if shape[-1] == 3 else 2)


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_real_labels_are_a_regression(tmp_path, shape):
    content = six(labels=lambda count: RANDOM.normal(size=(count, *shape)))
    dataset = load(as_npz(tmp_path, content), folder=tmp_path)
    width = shape[0] if shape else 1
    assert (dataset.task, dataset.classes) == ("regression", width)
    assert dataset.train.labels.shape == (30, width)
    assert dataset.train.labels.dtype == np.float32


@pytest.mark.parametrize(("most", "kind"), [(255, np.uint8), (256, np.int32)])
def test_whole_numbers_for_whole_numbers_are_a_language_model(tmp_path, most, kind):
    content = six(*[lambda count: np.full((count, 7), most, np.int64)] * 2)
    dataset = load(as_npz(tmp_path, content), folder=tmp_path)
    assert (dataset.task, dataset.classes, dataset.tokens_per_example) == ("language_model", most + 1, 7)
    assert dataset.train.inputs.dtype == dataset.train.labels.dtype == kind


@given(st.lists(st.integers(0, 3), min_size=3, max_size=120))
def test_two_arrays_are_split_by_a_fixed_rule(labels):
    count = len(labels)
    arrays_of_both = {"inputs": np.arange(count, dtype=float)[:, None], "labels": np.array(labels)}
    content = content_of(arrays_of_both, "mine", classes=4)
    held_out = max(1, count // 10)
    parts = [split.inputs.ravel() for split in splits(content)]
    assert [len(part) for part in parts] == [count - 2 * held_out, held_out, held_out]
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert all((np.diff(part) > 0).all() for part in parts)
    for split in splits(content):
        assert [labels[int(at)] for at in split.inputs.ravel()] == split.labels.tolist()
    shares = np.bincount(labels, minlength=4) * held_out / count
    assert (abs(np.bincount(content.validation.labels, minlength=4) - shares) <= 3).all()


def test_classes_may_be_more_than_occur(tmp_path):
    assert load(as_npz(tmp_path, six()), {"classes": 7}, tmp_path).classes == 7
    content = six()
    content["validation_labels"] = content["validation_labels"] + 5
    assert load(as_npz(tmp_path, content), folder=tmp_path).classes == 8


def replaced(**changes):
    made = six()
    for name, change in changes.items():
        made[name] = change(made[name])
    return made


def without(*names):
    return {name: array for name, array in six().items() if name not in names}


FAULTS = {
    "lacks test_inputs, test_labels, expected inputs": without("test_inputs", "test_labels"),
    "has none of the arrays, expected inputs and labels, or train_inputs": {"x": np.zeros(3), "y": np.zeros(3)},
    "lacks train_inputs, .* expected inputs and labels": {
        "inputs": np.zeros((3, 1)),
        "labels": np.zeros(3),
        "test_labels": np.zeros(3),
    },
    "labels: 2 examples, expected at least 3": {"inputs": np.zeros((2, 1)), "labels": np.zeros(2)},
    r"train_labels: 29 examples, expected 30 as in .*train_inputs": replaced(train_labels=lambda it: it[:-1]),
    r"test_inputs: shape \[0, 4\] is empty": replaced(test_inputs=lambda it: it[:0], test_labels=lambda it: it[:0]),
    r"train_inputs: shape \[30, 0\] is empty": replaced(train_inputs=lambda it: it[:, :0]),
    r"train_inputs: shape \[30\], expected \[example, \.\.\.\]": replaced(train_inputs=lambda it: it[:, 0]),
    r"test_inputs: shape of an example \[3\], expected \[4\] as in train": replaced(test_inputs=lambda it: it[:, :3]),
    r"train_labels: shape \[\], expected \[example\]": replaced(train_labels=lambda it: it[0]),
    r"test_inputs: type int64, expected float32 as in train": replaced(test_inputs=lambda it: it.astype(np.int64)),
    r"test_labels: type float64, expected int64 as in train": replaced(test_labels=lambda it: it.astype(float)),
    r"train_labels: holds -1, expected numbers from 0": replaced(train_labels=lambda it: it - 1),
    r"test_labels: holds 2147483647, expected numbers up to 2147483646": replaced(
        test_labels=lambda it: it * 0 + 2**31 - 1
    ),
    r"train_labels: holds 18446744073709551615": replaced(train_labels=lambda it: np.full(30, 2**64 - 1, np.uint64)),
    r"train_inputs: holds nan, expected finite numbers": replaced(
        train_inputs=lambda it: np.where(it == it[7, 2], np.nan, it)
    ),
    r"train_inputs: holds inf, expected finite numbers of 32 bits": replaced(
        train_inputs=lambda it: it.astype(float) * 1e300
    ),
    r"train_inputs: type int64, expected uint8 \(images\) or float32": six(lambda count: np.ones((count, 3), np.int64)),
    r"train_labels: shape \[30, 3\] of type int64, expected whole numbers \[example\]": six(
        labels=lambda count: np.eye(count, 3).astype(int)
    ),
    r"train_labels: shape \[30, 2, 2\] of type float64": six(labels=lambda count: np.ones((count, 2, 2))),
    r"train_inputs: shape \[30, 2, 2\], expected \[example, token\]": six(
        *[lambda count: np.ones((count, 2, 2), int)] * 2
    ),
    r"test_labels: holds nan": replaced(
        **{name: lambda it: it + (np.nan if len(it) == 6 else 0.5) for name in SPLIT_NAMES[1::2]}
    ),
    r"train_inputs: every value of the train split is the same": six(lambda count: np.ones((count, 3), np.uint8)),
    r"train_labels: type bool, expected whole or floating-point numbers": six(
        labels=lambda count: np.ones(count, bool)
    ),
    r"train_inputs: type complex128, expected": six(lambda count: np.ones((count, 2), complex)),
    r"train_labels: holds type <U1, expected numbers": six(labels=lambda count: np.array(["a"] * count)),
    r"train_labels: holds Python objects, expected numbers": six(labels=lambda count: np.array([{}] * count)),
    r"train_labels: holds type \[\('a', '<i8'\)\], expected numbers": six(
        labels=lambda count: np.zeros(count, [("a", int)])
    ),
}


@pytest.mark.parametrize("store", [as_npz, as_folder])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_line(tmp_path, store, fault):
    message = refusal(store(tmp_path, FAULTS[fault]), tmp_path)
    assert re.search(fault, message)
    assert message.startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 2}, r"dataset_options\.classes: 2, expected at least 3 for the numbers in .*train_labels"),
        ({"classes": 0}, r"dataset_options\.classes: expected a whole number from 1"),
        ({"window": 2}, r"dataset_options\.window: not an option of data\.npz, expected one of classes"),
    ],
)
def test_options_of_arrays_are_checked(tmp_path, options, message):
    as_npz(tmp_path, six())
    with pytest.raises(InputError, match=message):
        load("data.npz", options, tmp_path)


def test_labels_that_would_be_more_classes_than_examples_are_refused_unless_asked_for(tmp_path):
    """Identifiers or prices in whole numbers would make a model of millions of outputs."""
    content = six()
    content["train_labels"] = content["train_labels"] * 10**6
    path = as_npz(tmp_path, content)
    message = refusal(path, tmp_path)
    assert "which makes 2000001 classes of" in message
    assert "expected numbers of classes; workload.dataset_options.classes allows more" in message
    assert load(path, {"classes": 2_000_001}, tmp_path).classes == 2_000_001


def test_labels_with_gaps_are_refused_unless_the_empty_classes_are_asked_for(tmp_path):
    path = as_npz(tmp_path, six(labels=lambda count: 100 * (np.arange(count) % 10)))
    assert "labels: hold 10 different numbers up to 900, expected 0 to 9" in refusal(path, tmp_path)
    assert load(path, {"classes": 901}, tmp_path).classes == 901


def test_labels_from_1_are_refused_unless_the_empty_class_is_asked_for(tmp_path):
    path = as_npz(tmp_path, six(labels=lambda count: 1 + np.arange(count) % 10))
    assert "labels: run from 1 to 10, expected numbers from 0" in refusal(path, tmp_path)
    assert load(path, {"classes": 11}, tmp_path).classes == 11


def test_a_regression_has_no_classes(tmp_path):
    as_npz(tmp_path, six(labels=lambda count: RANDOM.normal(size=count)))
    assert "classes: 4, but the labels are not class numbers" in refusal("data.npz", tmp_path, {"classes": 4})


@pytest.mark.parametrize("name", ["data.npz", "sub/folder", "novel.txt"])
def test_what_is_not_there_is_refused_by_name(tmp_path, name):
    assert f"{name}' does not exist" in refusal(name, tmp_path)


def test_a_name_without_a_path_is_looked_up_among_the_datasets(tmp_path):
    assert "'minst', expected one of cifar10" in refusal("minst", tmp_path)


@pytest.mark.parametrize("name", ["data.npz", "novel.txt"])
def test_what_may_never_end_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "not a regular file" in refusal(name, tmp_path)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 60])
def test_a_file_that_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "data.npz").write_bytes(data)
    assert "not a whole .npz file" in refusal("data.npz", tmp_path)


def broken_npz(path, member, size=None):
    """An archive whose first array is `member`, said to be of `size` bytes."""
    content = six()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in content.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", member if name == "train_inputs" else buffer.getvalue())
    if size is not None:
        whole = bytearray(path.read_bytes())
        at = whole.index(b"PK\x01\x02")
        whole[at + 24 : at + 28] = struct.pack("<I", size)
        path.write_bytes(whole)


def header(shape, kind="<f4"):
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


HOSTILE = {
    "promises exabytes": header("(1000000000, 1000000000)"),
    "negative shape": header("(-1, 4)"),
    "shape of text": header("('a',)"),
    "code": header("(__import__('os').system('true'),)"),
    "no header": b"",
    "other magic": b"\x93NUMPZ\x01\x00" + b"\0" * 80,
    "version 9": b"\x93NUMPY\x09\x00" + b"\0" * 80,
    "too short": header("(30, 4)") + b"\0" * 479,
    "too long": header("(30, 4)") + b"\0" * 481,
    "header cut": header("(30, 4)")[:30],
    "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
    "objects": header("(30, 4)", "|O") + b"\x80\x04.",
    "no width": header("(30, 4)", "|V0"),
    "many axes": header(str((1,) * 20)) + b"\0" * 4,
}


@pytest.mark.parametrize("fault", HOSTILE)
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_a_hostile_array_is_one_line_and_takes_no_memory(tmp_path, fault, kind):
    name = "data.npz"
    if kind == "npz":
        broken_npz(tmp_path / name, HOSTILE[fault])
    else:
        name = as_folder(tmp_path, six())
        (tmp_path / name / "train_inputs.npy").write_bytes(HOSTILE[fault])
    if (kind, fault) == ("npy", "too long"):
        return  # what follows the values of a mapped file is not looked at
    assert "train_inputs" in refusal(name, tmp_path)


def test_a_bomb_is_refused_by_the_size_in_the_directory(tmp_path, monkeypatch):
    as_npz(tmp_path, six())
    monkeypatch.setattr(array_files, "available_memory_bytes", lambda: 1000)
    assert "a folder of .npy files is mapped instead" in refusal("data.npz", tmp_path)


@pytest.mark.parametrize("said", [10, 4_000_000])
def test_a_directory_that_lies_about_a_size_is_refused(tmp_path, said):
    broken_npz(tmp_path / "data.npz", header("(30, 4)") + b"\0" * 480, said)
    assert "data.npz" in refusal("data.npz", tmp_path)


def test_damaged_values_are_noticed(tmp_path):
    as_npz(tmp_path, six())
    whole = bytearray((tmp_path / "data.npz").read_bytes())
    whole[300] ^= 0xFF
    (tmp_path / "data.npz").write_bytes(whole)
    assert "not a whole .npz file (Bad CRC-32" in refusal("data.npz", tmp_path)


def test_members_are_taken_by_name_and_nothing_is_written(tmp_path):
    as_npz(tmp_path, six())
    with zipfile.ZipFile(tmp_path / "data.npz", "a") as archive:
        archive.writestr("../../escape.npy", b"no")
        archive.writestr("notes.txt", b"no")
    load("data.npz", folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"data.npz"}


NOVEL = b"It was the best of times, it was the worst of times. " * 400


def test_a_text_is_a_language_model_of_bytes(tmp_path):
    (tmp_path / "novel.txt").write_bytes(NOVEL)
    dataset = load("novel.txt", {"window": 16}, tmp_path)
    assert (dataset.task, dataset.classes, dataset.tokens_per_example) == ("language_model", 256, 16)
    assert dataset.input_shape == (16,)
    assert dataset.sha256 == hashlib.sha256(NOVEL).hexdigest()
    assert dataset.facts.keys() == {"gzip_bits_per_byte", "bzip2_bits_per_byte", "xz_bits_per_byte"}
    assert dataset.train.inputs[0].tobytes() == NOVEL[:16]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", "3 bytes are too few for windows of 128 bytes"),
        (b"", "0 bytes are too few"),
        (NOVEL + b"\0", "holds a zero byte, expected a text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, message):
    (tmp_path / "novel.txt").write_bytes(content)
    assert message in refusal("novel.txt", tmp_path)


def test_a_text_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    (tmp_path / "novel.txt").write_bytes(NOVEL)

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert refusal("novel.txt", tmp_path).endswith("novel.txt: cannot be read (Permission denied)")


def test_numbers_are_checked_in_pieces(monkeypatch):
    monkeypatch.setattr(arrays, "CHECKED_AT_ONCE", 5)
    content = six()
    assert content_of(content, "mine").classes == 3
    content["test_inputs"][-1, -1] = np.nan
    with pytest.raises(InputError, match="mine: test_inputs: holds nan"):
        content_of(content, "mine")
