"""Examples made up for timing: the shapes and types of the dataset, after a trip through JSON too."""

import msgspec
import numpy as np
import pytest
from batchscale.measure.data.datasets import load
from batchscale.measure.data.made_up import ExampleSpec, example_spec, made_up, made_up_dataset

DATA = {"digits": {}, "markov": {"train_examples": 20, "window": 12}, "synthetic_images": {"shape": [3, 2]}}


def spec_of(name, options=None):
    spec = example_spec(load(name, options or DATA[name]))
    return msgspec.json.decode(msgspec.json.encode(spec), type=ExampleSpec)


@pytest.mark.parametrize("name", DATA)
def test_made_up_examples_look_like_those_of_the_dataset(name):
    dataset = load(name, DATA[name])
    made = made_up_dataset(spec_of(name), name, 500)
    for real, fake in zip(dataset.train, made.train, strict=True):
        assert (real.dtype, real.shape[1:]) == (fake.dtype, fake.shape[1:])
        assert len(fake) == 500
        if np.issubdtype(fake.dtype, np.integer):
            assert fake.min() >= 0
            assert fake.max() < dataset.classes
            assert len(np.unique(fake)) > min(dataset.classes, 256) / 2
    assert (made.task, made.classes, made.tokens_per_example) == (
        dataset.task,
        dataset.classes,
        dataset.tokens_per_example,
    )
    assert made.input_shape == dataset.input_shape
    assert len(made.validation.labels) == len(made.test.labels) == 0


def test_real_labels_are_made_up_as_real_numbers(tmp_path):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", inputs=random.normal(size=(20, 4)), labels=random.normal(size=(20, 2)))
    spec = example_spec(load("data.npz", folder=tmp_path))
    made = made_up(spec, 7, 1)
    assert made.labels.shape == (7, 2)
    assert made.labels.dtype == np.float32


def test_examples_are_those_of_their_seed():
    spec = spec_of("digits")
    one, same, other = (made_up(spec, 4, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.inputs, same.inputs)
    assert not np.array_equal(one.inputs, other.inputs)


@pytest.mark.parametrize("field", ["dtype", "shape"])
def test_a_strange_description_is_refused(field):
    data = msgspec.to_builtins(spec_of("digits"))
    data["inputs"][field] = "object" if field == "dtype" else [-1]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(data, ExampleSpec)
