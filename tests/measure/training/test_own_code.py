"""The user's own model and task: what fits is trained, and every misfit is one line before anything is measured."""

import sys

import pytest
from batchscale.config.experiment import Workload
from batchscale.errors import InputError
from batchscale.measure.training.learner import make_learner, model_named
from batchscale.measure.training.named_code import code_hash
from sample_rows import one_line
from tiny_workload import tiny_dataset

MODEL = """
import math
import jax.numpy as jnp
from flax import nnx
class Model(nnx.Module):
    def __init__(self, input_shape, classes, *, rngs, dtype=jnp.float32, width=4):
        self.first = nnx.Linear(math.prod(input_shape), width, rngs=rngs)
        {more}
        self.last = nnx.Linear(width, {classes}, rngs=rngs)
    def __call__(self, inputs):
        {call}
"""
FLAT = "return self.last(self.first(inputs.reshape(len(inputs), -1)))"
TASK = """
import optax
class Task:
    metrics = ("accuracy", "loss")
    def losses(self, outputs, batch):
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch.labels)
        return {losses}
    def scores(self, outputs, batch):
        return {scores}
    def check(self, dataset):
        {check}
"""


def make(folder, model=None, task=None, named="mine.py:Model", **options):
    """Return the learner of a model, and of a task if one is given; None of its parts is the package's then."""
    if model is not None:
        (folder / "mine.py").write_text(MODEL.format(**{"more": "pass", "classes": "classes", "call": FLAT, **model}))
    if task is not None:
        whole = {"losses": "losses", "scores": '{"accuracy": outputs.argmax(-1) == batch.labels}', "check": "pass"}
        (folder / "task.py").write_text(TASK.format(**{**whole, **task}))
    workload = Workload(
        dataset="digits",
        model=named if model is not None else "linear",
        task="task.py:Task" if task is not None else None,
        model_options=options,
        optimizer="sgd",
    )
    return make_learner(workload, tiny_dataset(), folder=folder)


def test_a_model_and_a_task_by_path_are_built_with_their_options(tmp_path):
    made = make(tmp_path, {}, {}, width=7)
    assert made.params(0)["first"]["kernel"].shape == (64, 7)
    assert made.task.metrics == ("accuracy", "loss")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"classes": "3"}, r"gives outputs \[batch, 3\], expected \[batch, \.\.\., 10\] for classification"),
        (
            {"call": "return self.last(self.first(inputs.reshape(1, -1)))"},
            "fails on inputs .batch, 8, 8, 1. of type float32",
        ),
        ({"call": "return self.last(self.first(inputs.reshape(-1, 64)))[:1]"}, "(gives outputs|fails on inputs)"),
        ({"call": "return None"}, "fails on inputs"),
        ({"call": "raise RuntimeError('my own fault')"}, "RuntimeError: my own fault"),
        (
            {"call": "x = self.last(self.first(inputs.reshape(len(inputs), -1))); return x[:, None] * 1.0"},
            "classification",
        ),
        ({"more": "raise KeyError('gone')"}, "mine.py:Model cannot be built: KeyError"),
        ({"more": "self.norm = nnx.BatchNorm(width, rngs=rngs)"}, "batch statistics, which couple examples"),
        (
            {"more": "self.drop = nnx.Dropout(0.5, rngs=rngs, rng_collection='noise')"},
            "asks for a random stream that it is not given: .* expected no stream but 'params' and 'dropout'",
        ),
        ({"more": "self.own = nnx.Rngs(noise=1)"}, "has the random stream 'noise', expected no stream but 'params'"),
        (
            {"more": "self.drop = nnx.Dropout(0.5)", "call": f"inputs = self.drop(inputs); {FLAT}"},
            "fails while it trains, on one example .batch, 8, 8, 1.: ValueError",
        ),
        (
            {"more": "self.drop = nnx.Dropout(0.5, rngs=rngs)", "call": f"{FLAT} if len(inputs) > 1 else inputs[0, 0]"},
            "while it trains, expected .batch, 10.",
        ),
        ({"more": "self.count = nnx.Variable(jnp.zeros(3))"}, "state that is not trained"),
    ],
)
def test_a_model_that_does_not_fit_is_one_line(tmp_path, model, told):
    with pytest.raises(InputError, match=told) as error:
        make(tmp_path, model)
    assert one_line(error).startswith(("workload.model", "workload.task"))


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"losses": "losses.mean()"}, r"loss has shape \[\], expected \[batch\]"),
        ({"losses": "undefined"}, "NameError"),
        ({"scores": "{}"}, "promises accuracy, but scores only loss, expected a score accuracy"),
        ({"scores": '{"Top 5": losses}'}, "NameError"),
        ({"scores": '{"Top 5": outputs[:, 0]}'}, "score 'Top 5', expected a lower-case letter"),
        ({"scores": '{"accuracy": outputs}'}, r"accuracy has shape \[batch, 10\], expected \[batch\]"),
        ({"check": "raise ZeroDivisionError('no data')"}, "its check fails: ZeroDivisionError: no data"),
    ],
)
def test_a_task_that_does_not_fit_is_one_line(tmp_path, task, told):
    with pytest.raises(InputError, match=told) as error:
        make(tmp_path, task=task)
    assert one_line(error).startswith("workload.task")


def test_a_missing_class_or_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"'mine\.py' has no class 'Modell', expected one of Model"):
        make(tmp_path, {}, named="mine.py:Modell")
    with pytest.raises(InputError, match="is not a file, expected a path from the experiment's folder"):
        make(tmp_path, {}, named="yours.py:Model")


def test_the_user_s_code_may_import_what_is_next_to_it_and_hides_nothing(tmp_path):
    (tmp_path / "beside_mine.py").write_text("WIDTH = 5\n")
    (tmp_path / "optax.py").write_text("raise SystemExit('hidden')\n")
    before = list(sys.path)
    (tmp_path / "first.py").write_text(
        "import optax, beside_mine\nfrom flax import nnx\nclass Model(nnx.Module): pass\n"
    )
    assert model_named("first.py:Model", {}, tmp_path).__name__ == "Model"
    assert sys.path == before


def test_the_hash_of_code_changes_with_its_content(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("a = 1\n")
    before = code_hash("mine.py:Model", tmp_path)
    path.write_text("a = 2\n")
    assert before != code_hash("mine.py:Model", tmp_path)
    assert len(before) == 64
    assert code_hash("lenet", tmp_path) is None
