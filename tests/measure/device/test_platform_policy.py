"""One table of what depends on the platform: every platform has an entry, whose numbers fit together."""

import re
import tomllib
from dataclasses import replace
from itertools import product
from statistics import mean
from typing import get_args, get_type_hints

import pytest
from batchscale.measure.device.compile_ahead import MOST_THREADS
from batchscale.measure.device.machine import platform_name
from batchscale.measure.device.platform_policy import POLICIES
from batchscale.measure.training.learner import model_names
from batchscale.models import _layers
from repository import ROOT


def test_every_platform_that_a_machine_may_have_is_in_the_table():
    assert set(POLICIES) == set(get_args(get_type_hints(platform_name)["return"]))
    assert [platform_name(name) for name in ("cpu", "tpu", "gpu", "cuda", "rocm", "metal")] == [
        "cpu",
        "tpu",
        *["gpu"] * 4,
    ]


@pytest.mark.parametrize("platform", POLICIES)
def test_only_lowerings_that_exist_are_tried(platform):
    policy = POLICIES[platform]
    assert set(policy.convolutional.lowerings) <= set(_layers.LOWERINGS)
    assert policy.other.lowerings == (None,)


@pytest.mark.parametrize("platform", POLICIES)
def test_lanes_are_bounded_by_core_or_by_evaluation(platform):
    """A core of a CPU holds a few settings; an accelerator holds all lanes, and so bounds what it evaluates at once."""
    for lanes in (POLICIES[platform].convolutional, POLICIES[platform].other):
        assert (lanes.shard_examples is None) == (lanes.evaluated_at_once is not None)
        assert (lanes.shard_examples is not None) == POLICIES[platform].program_per_core


@pytest.mark.parametrize("platform", POLICIES)
def test_shapes_are_tried_for_the_models_that_nobody_measured(platform):
    for lanes in (POLICIES[platform].convolutional, POLICIES[platform].other):
        assert set(lanes.measured_with) <= set(model_names())
        assert lanes.microbatches[-1] <= lanes.widest_microbatch
        assert {1, None} <= set(lanes.settings)


SEEN = tomllib.loads((ROOT / "tests" / "accelerators" / "last_seen.toml").read_text())


@pytest.mark.parametrize(
    ("target", "model"), [*product(("h100", "a100-80"), ("lenet_mnist", "mlp_mnist")), ("tpu-v5e", "mlp_mnist")]
)
def test_guessed_seconds_of_compiling_are_those_that_were_seen(target, model):
    """Within a factor of 1.5, as devices and versions of JAX differ; no less for a GPU, which tries kernels besides."""
    policy = POLICIES["tpu" if target.startswith("tpu") else "gpu"]
    guessed = (policy.convolutional if model.startswith("lenet") else policy.other).compiling
    seen = {name: seconds for name, (_, _, seconds) in SEEN[target].items() if name.startswith(model)}
    # Lanes over several devices are narrower, and the guesses are of one device.
    seen = {name: seconds for name, seconds in seen.items() if not re.search(r" x\d+$", name)}
    kinds = {"training": " train ", "evaluation": " evaluate ", "cell": " B="}
    for kind, word in kinds.items():
        mine = [seconds for name, seconds in seen.items() if word in name]
        seen = {name: seconds for name, seconds in seen.items() if word not in name}
        assert getattr(guessed, kind) >= mean(mine) / 1.5, kind
        if target.startswith("tpu"):
            assert getattr(guessed, kind) <= mean(mine) * 1.5, kind


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_child_whose_programs_are_all_late_is_not_taken_for_one_that_hangs(policy):
    """Programs of one kind are compiled in turn, one for each loop, and the last is waited for twice as long."""
    if policy.silent_seconds is not None and policy.compile_seconds is not None:
        assert policy.silent_seconds > 4 * policy.compile_seconds


def test_the_guess_for_a_gpu_is_what_an_h100_took():
    """27 cells of a perceptron were compiled in 39 s, on 16 cores."""
    assert 27 * replace(POLICIES["gpu"].other.compiling, threads=16).of_a_cell(27) == pytest.approx(39, rel=0.05)


@pytest.mark.parametrize("platform", POLICIES)
def test_programs_compile_together_only_where_they_may(platform):
    policy = POLICIES[platform]
    assert policy.compile_threads(8) == (8 if policy.compiles_together else 1)
    assert policy.compile_threads(1000) <= MOST_THREADS
