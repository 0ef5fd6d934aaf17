"""Experiments: shipped ones parse, and invalid ones are refused in one line with the full path of the field."""

import math
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
import tomli_w
from batchscale.config import experiment as experiments
from batchscale.config import plan
from batchscale.config.experiment import (
    BatchSizes,
    Experiment,
    Workload,
    expand_batch_sizes,
    parse,
    refuse_contradictions,
)
from batchscale.errors import InputError
from batchscale.measure.data.datasets import Dataset, Examples
from batchscale.measure.training.learner import make_learner
from batchscale.records import results_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import MINIMAL, altered, refusal
from tiny_workload import shaped

IMAGES = {
    "digits": (1297, (8, 8, 1)),
    "mnist": (55_000, (28, 28, 1)),
    "fashion_mnist": (55_000, (28, 28, 1)),
    "cifar10": (45_000, (32, 32, 3)),
}
TEXT_BYTES = {"shakespeare": 4_600_000, "gcide": 36_000_000, "enwik8": 90_000_000}


def stand_in(workload: Workload) -> tuple[int, Dataset]:
    """Return the size of a training set, and a dataset that has only its shape."""
    options = workload.dataset_options
    if workload.dataset in TEXT_BYTES:
        window = np.zeros((1, options["window"]), np.uint8)
        text = replace(shaped((1,), 256), task="language_model", **dict.fromkeys(SPLITS, Examples(window, window)))
        return TEXT_BYTES[workload.dataset] // options["window"], text
    if workload.dataset == "synthetic_images":
        return 1024, shaped(tuple(options["shape"]), options["classes"])
    train_examples, shape = IMAGES[workload.dataset]
    return train_examples, shaped(shape, 10)


SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("name", experiments.shipped())
def test_every_shipped_experiment_parses_and_plans(name):
    experiment = experiments.find(name)
    refuse_contradictions(experiment, name)
    train_examples, dataset = stand_in(experiment.workload)
    sizes = plan.batch_sizes(experiment, train_examples)
    assert sorted(size for tier in plan.tiers(sizes) for size in tier.batch_sizes) == sizes
    duration = plan.duration(experiment, train_examples)
    assert duration.evaluations[-1] == duration.max_examples >= duration.budget_examples
    assert duration.budget_examples in duration.evaluations
    make_learner(experiment.workload, dataset)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("learning_rate.anchors", 0.1, "tiny.toml: learning_rate.anchors: unknown key; did you mean anchor?"),
        ("bugdet", {}, "tiny.toml: bugdet: unknown key; did you mean budget?"),
        (
            "target.zeal",
            1,
            "tiny.toml: target.zeal: unknown key,"
            " expected one of accuracy, loss, bits_per_byte, score, cost, name, also",
        ),
        (
            "throughput.devices",
            "all",
            "tiny.toml: throughput.devices: expected 'auto' or a list of 1 to 16 values, found 'all'",
        ),
        (
            "learning_rate.rule",
            "sqrtt",
            "tiny.toml: learning_rate.rule: expected one of 'linear', 'none', 'sqrt', found 'sqrtt'",
        ),
        (
            "workload.optimizer_options",
            {"nesterov": True, "momentum": "a"},
            "tiny.toml: workload.optimizer_options.momentum: expected a number or true or false, found 'a'",
        ),
        (
            "workload.model_options",
            {"hidden": [1, "a"]},
            "tiny.toml: workload.model_options.hidden[1]: expected a whole number, found 'a'",
        ),
        (
            "workload.optimizer_options",
            {"eps": 1e300},
            "tiny.toml: workload.optimizer_options.eps: 1e+300, expected from 0 to below 3.4e+38",
        ),
        (
            "batch_sizes.values",
            [],
            "tiny.toml: batch_sizes.values: expected a list of 1 to 64 values, found []",
        ),
        ("target.accuracy", 99, "tiny.toml: target.accuracy: expected a number above 0 and below 1, found 99"),
        (
            "learning_rate.anchor",
            0,
            "tiny.toml: learning_rate.anchor: expected a number above 0 and up to 1000, found 0",
        ),
        (
            "batch_sizes.values",
            [16, 8, 16],
            "tiny.toml: batch_sizes.values: [16, 8, 16] holds 16 twice, expected it once",
        ),
        ("target.also", [0.5, 0.5], "tiny.toml: target.also: [0.5, 0.5] holds 0.5 twice, expected it once"),
        (
            "throughput.loops",
            ["scan", "scan"],
            "tiny.toml: throughput.loops: ['scan', 'scan'] holds 'scan' twice, expected it once",
        ),
        ("throughput.devices", [2, 1, 1], "tiny.toml: throughput.devices: [2, 1, 1] holds 1 twice, expected it once"),
        (
            "batch_sizes.values",
            [0],
            "tiny.toml: batch_sizes.values[0]: expected a whole number from 1 to 1,000,000,000, found 0",
        ),
        ("budget.max_epochs", 1, "tiny.toml: budget.max_epochs: 1.0, expected at least epochs = 2.0"),
        (
            "learning_rate",
            {"anchor": 0.1, "schedule": "warmup", "warmup_epochs": 2},
            "tiny.toml: learning_rate.warmup_epochs: 2.0 with schedule = 'warmup',"
            " expected above 0 and below budget.epochs = 2.0",
        ),
        (
            "learning_rate",
            {"anchor": 0.1, "schedule": "warmup"},
            "tiny.toml: learning_rate.warmup_epochs: 0.0 with schedule = 'warmup',"
            " expected above 0 and below budget.epochs = 2.0",
        ),
        (
            "learning_rate",
            {"anchor": 0.1, "warmup_epochs": 1},
            "tiny.toml: learning_rate.warmup_epochs: 1.0 with schedule = 'constant',"
            " expected 'warmup' or 'warmup_cosine'",
        ),
        ("seeds.confirm", 0, "tiny.toml: seeds.confirm: expected a whole number from 1 to 1,000, found 0"),
    ],
)
def test_a_refusal_names_the_full_path_and_the_value(path, value, message):
    assert refusal(altered(path, value)) == message


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"values": [1], "start": 1}, "batch_sizes: has values, and start or stop; expected only one of the two forms"),
        ({}, "batch_sizes: expected values = [16, 64, 256], or start and stop"),
        ({"start": 4}, "expected values"),
        ({"stop": 4}, "expected values"),
        ({"start": 4, "stop": 2}, "batch_sizes.stop: 2, expected at least start = 4"),
    ],
)
def test_batch_sizes_have_exactly_one_form(table, says):
    assert says in refusal(altered("batch_sizes", table))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            "workload.model",
            "alexnet",
            "workload.model: 'alexnet', expected one of decoder, lenet, linear, mlp, resnet, vit",
        ),
        ("workload.optimizer", "sdg", "workload.optimizer: 'sdg', expected one of sgd, momentum"),
        (
            "workload.model_options",
            {"depth": 3},
            "workload.model_options.depth: not an option of mlp, expected one of activation, hidden",
        ),
        (
            "workload.model_options",
            {"\x1b[31m" + "d" * 500: 3},
            "not an option of mlp, expected one of activation, hidden",
        ),
        (
            "workload.model_options",
            {"activation": "\x1b[31m" + "a" * 500},
            "workload.model_options: mlp cannot be built with them",
        ),
        ("workload.model_options", {"hidden": "wide"}, "model_options.hidden: expected a list, found 'wide'"),
        ("workload.model_options", {"hidden": 3}, "model_options.hidden: expected a list, found 3"),
        ("workload.model_options", {"hidden": [-4]}, "workload.model_options: mlp cannot be built with them"),
        ("workload.model_options", {"hidden": [0]}, "mlp cannot be built with them: a layer would have no width"),
        (
            "workload.optimizer_options",
            {"accumulator_dtype": 3},
            "accumulator_dtype: not an option of sgd, expected one of momentum, nesterov",
        ),
        ("workload.optimizer_options", {"nesterov": 3.0}, "optimizer_options.nesterov: 3.0, expected true or false"),
        (
            "workload.optimizer_options",
            {"nesterov": math.inf},
            "optimizer_options.nesterov: inf, expected true or false",
        ),
        ("workload.optimizer_options", {"momentum": False}, "optimizer_options.momentum: False, expected a number"),
        ("workload.optimizer_options", {"speed": 3}, "workload.optimizer_options.speed: not an option of sgd"),
        ("workload.optimizer_options", {"\x1b[31m" + "d" * 500: 3}, "not an option of sgd"),
        (
            "search",
            {"speed": [1, 2]},
            "search.speed: not a number among the options of sgd, expected one of momentum, weight_decay",
        ),
        (
            "search",
            {"nesterov": [0, 1]},
            "search.nesterov: not a number among the options of sgd, expected one of momentum, weight_decay",
        ),
    ],
)
def test_names_and_options_are_refused_before_anything_is_measured(path, value, says):
    def make(one):
        make_learner(one.workload, shaped((8, 8, 1), 10), searched=one.searched)

    assert says in refusal(altered(path, value), make)


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ({"momentum": [0.9]}, "tiny.toml: search.momentum: "),
        ({"momentum": 0.9}, "tiny.toml: search.momentum: "),
        ({"momentum": [0.9, "high"]}, "tiny.toml: search.momentum[1]: "),
        (
            {"momentum": [0.9, math.nan]},
            "tiny.toml: search.momentum[1]: expected a number from -1000 to 1000, found nan",
        ),
        ({"momentum": [0.9, 0.5, 0.9]}, "tiny.toml: search.momentum: [0.9, 0.5, 0.9] holds 0.9 twice"),
        ({"weight_decay": [0, 0.1]}, "tiny.toml: search.weight_decay: also set by workload.optimizer_options"),
        ({name: list(range(9)) for name in "ab"}, "tiny.toml: search: 81 combinations, expected at most 64"),
        ({name: [1, 2] for name in "abcd"}, "tiny.toml: search: "),
        ({"\x1b[31m": [1, 2]}, "tiny.toml: search.\\x1b[31m: expected the name of an option: a lower-case letter"),
        ({"mom$x^$": [1, 2]}, "tiny.toml: search.mom$x^$: expected the name of an option: a lower-case letter"),
        ({"d" * 100_000: [1, 2]}, "expected the name of an option: a lower-case letter"),
        ({"momentum": [0, 1]}, "tiny.toml: search.momentum: 1.0, expected from 0 to below 1"),
        ({"momentum": [-0.5, 0.5]}, "tiny.toml: search.momentum: -0.5, expected from 0 to below 1"),
        ({"b2": [0.9, 1.0]}, "tiny.toml: search.b2: 1.0, expected from 0 to below 1"),
        ({"eps": [1e-8, -1]}, "tiny.toml: search.eps: -1.0, expected 0 or more"),
        ({"trust_coefficient": [-0.001, 0.1]}, "tiny.toml: search.trust_coefficient: -0.001, expected 0 or more"),
        ({"eta_minus": [0.5, 1]}, "tiny.toml: search.eta_minus: 1.0, expected from 0 to below 1"),
        ({"eta_plus": [0.9, 1.2]}, "tiny.toml: search.eta_plus: 0.9, expected 1 or more"),
    ],
)
def test_a_search_that_says_nothing_or_too_much_is_refused(search, says):
    data = altered("workload.optimizer_options", {"weight_decay": 0.1})
    assert says in refusal({**data, "search": search})


def test_which_options_are_searched_is_protocol_and_their_values_are_not():
    prints = [
        parse(altered("search", search), "tiny", "tiny.toml").fingerprint
        for search in ({}, {"momentum": [0.5, 0.9]}, {"momentum": [0, 0.5, 0.9]}, {"weight_decay": [0, 0.1]})
    ]
    assert prints[1] == prints[2]
    assert len({parse(MINIMAL, "tiny", "tiny.toml").fingerprint, *prints}) == 3


@pytest.mark.parametrize("path", ["budget.epochs", "learning_rate.anchor", "learning_rate.factor", "target.accuracy"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_numbers_that_are_not_finite_are_refused(path, value):
    assert f"tiny.toml: {path}: " in refusal(altered(path, value))


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(1.06, 1024))
def test_a_range_of_batch_sizes_holds_both_ends_and_ascends(start, stop, factor):
    start, stop = sorted((start, stop))
    sizes = expand_batch_sizes(BatchSizes(start=start, stop=stop, factor=factor), "tiny")
    assert sizes[0] == start
    assert sizes[-1] == stop
    assert all(a < b for a, b in pairwise(sizes))


@pytest.mark.parametrize(
    "table", [{"start": 1, "stop": 10**9, "factor": 1 + 1e-12}, {"start": 1, "stop": 9, "factor": 1 + 1e-16}]
)
def test_a_range_that_would_never_end_is_refused(table):
    assert "batch_sizes" in refusal(altered("batch_sizes", table))


def test_the_protocol_decides_the_fingerprint_and_the_sweep_does_not():
    base = parse(MINIMAL, "tiny", "tiny.toml")
    for path, value in (
        ("batch_sizes.values", [8]),
        ("seeds.confirm", 9),
        ("learning_rate.anchor", 0.2),
        ("evaluation.noise", False),
    ):
        assert parse(altered(path, value), "tiny", "tiny.toml").fingerprint == base.fingerprint
    for path, value in (
        ("budget.epochs", 3),
        ("target.accuracy", 0.8),
        ("workload.optimizer", "adam"),
        ("evaluation.averaging_epochs", 1),
    ):
        assert parse(altered(path, value), "tiny", "tiny.toml").fingerprint != base.fingerprint


FIELDS = [
    f"{table}.{key}" if isinstance(inner, dict) else table
    for table, inner in msgspec.to_builtins(parse(MINIMAL, "tiny", "tiny.toml")).items()
    for key in (inner if isinstance(inner, dict) else [table])
]
toml_values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.sampled_from([*FIELDS, "", "workload.\x00", "extra"]), toml_values)
def test_any_value_anywhere_is_an_experiment_or_one_refusal(path, value):
    message = ""
    try:
        experiment = parse(altered(path, value), "tiny", "tiny.toml")
        plan.duration(experiment, 1000)
        plan.batch_sizes(experiment, 1000)
    except InputError as refused:
        message = str(refused)
    assert not message or (message.isprintable() and len(message) < 400)


@given(st.dictionaries(st.sampled_from([*MINIMAL, "name"]), toml_values))
def test_a_file_that_parses_survives_being_written(data):
    text = tomli_w.dumps({**MINIMAL, **data})
    assert isinstance(text, str)
    try:
        found = parse({**MINIMAL, **data}, "tiny", "tiny.toml")
    except InputError:
        return
    assert isinstance(found, Experiment)
    assert msgspec.json.encode(found) == msgspec.json.encode(
        parse(experiments.tomllib.loads(results_folder.to_toml(found).decode()), "tiny", "tiny.toml")
    )


def test_looks_change_the_fingerprint_only_by_where_runs_end():
    plain, looked = (parse(data, "tiny", "tiny.toml") for data in (MINIMAL, altered("confirm", {})))
    often = parse(altered("confirm", {"looks": [2, 9], "tolerance": 0.2}), "tiny", "tiny.toml")
    longer = parse(altered("confirm", {"past_target": 2.0}), "tiny", "tiny.toml")
    assert "confirm" not in plain.protocol
    assert looked.fingerprint == often.fingerprint
    assert len({plain.fingerprint, looked.fingerprint, longer.fingerprint}) == 3


@pytest.mark.parametrize("looks", [[6, 3], [3, 3]])
def test_looks_that_do_not_rise_are_refused(looks):
    message = f"tiny.toml: confirm.looks: {looks}, expected rising numbers of seeds"
    assert refusal(altered("confirm", {"looks": looks})) == message
