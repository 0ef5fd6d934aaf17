"""The regression task: one file next to the other tasks, and nothing else in the engine names it."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from batchscale.config.experiment import Workload
from batchscale.errors import InputError
from batchscale.measure.data import datasets
from batchscale.measure.data.datasets import Dataset
from batchscale.measure.training.learner import make_learner, on_device, task_names

WORKLOAD = Workload(dataset="line.npz", model="linear", optimizer="sgd")
WIDTH = 3


def line(folder: Path) -> Dataset:
    """Return examples whose labels are a linear map of the inputs."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(60, 2)).astype(np.float32)
    np.savez(folder / "line.npz", inputs=inputs, labels=inputs @ random.normal(size=(2, WIDTH)).astype(np.float32))
    return datasets.load("line.npz", folder=folder)


def test_a_task_is_known_by_its_file_and_real_labels_ask_for_it(tmp_path):
    assert "regression" in task_names()
    assert line(tmp_path).task == "regression"


def test_the_loss_is_the_mean_squared_error_of_each_example(tmp_path):
    dataset = line(tmp_path)
    learner = make_learner(WORKLOAD, dataset)
    params, batch = learner.params(0), on_device(dataset.validation)
    outputs = np.asarray(learner.outputs(params, batch.inputs))
    expected = np.mean((outputs - dataset.validation.labels) ** 2, axis=1)
    np.testing.assert_allclose(learner.losses(params, batch), expected, rtol=1e-6)
    assert learner.scores(params, batch).keys() == {"loss"}


def test_training_finds_the_line(tmp_path):
    dataset = line(tmp_path)
    learner = make_learner(WORKLOAD, dataset)
    batch, state = on_device(dataset.train), learner.first_state(learner.params(0), 0.3)
    train_step = jax.jit(learner.train_step)
    for _ in range(200):
        state, _ = train_step(state, batch, 0.3)
    assert float(learner.losses(state.params, on_device(dataset.test)).max()) < 1e-6


def test_class_numbers_are_refused(tmp_path):
    dataset = line(tmp_path)
    labels = np.zeros(len(dataset.train.labels), np.int32)
    of_classes = replace(dataset, train=dataset.train._replace(labels=labels))
    expected = r"regression of line\.npz: labels of shape \(\) and type int32, expected real numbers \[example, width\]"
    with pytest.raises(InputError, match=expected):
        make_learner(WORKLOAD, of_classes)
