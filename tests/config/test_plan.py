"""From an experiment to what is run: durations, grids and tiers."""

import math
import re
from itertools import pairwise

import pytest
from batchscale.config import plan
from batchscale.config.experiment import LearningRate
from batchscale.config.vocabulary import CellKey, Point
from batchscale.errors import InputError
from hypothesis import given
from hypothesis import strategies as st
from tiny_workload import experiment

TOO_OFTEN = "with evaluation.per_epoch = 1000 that is 100000 evaluations of each trial"
batch_sizes = st.lists(st.integers(1, 4096), min_size=1, max_size=16, unique=True)


@given(batch_sizes, st.integers(1, 512))
def test_tiers_hold_every_batch_size_once_as_whole_microbatches(sizes, widest):
    tiers = plan.tiers(sizes, widest)
    assert sorted(size for tier in tiers for size in tier.batch_sizes) == sorted(sizes)
    for tier in tiers:
        narrower = [size for size in range(1, widest + 1) if tier.microbatch_size % size == 0]
        assert tier.microbatch_size <= widest or max(narrower) * plan.NARROWEST_SHARE < widest
        assert all(size % tier.microbatch_size == 0 for size in tier.batch_sizes)


def test_loops_on_one_device_are_timed_as_graphs_too_where_a_graph_can_hold_them():
    both = experiment(throughput={"inputs": ["device", "host"], "precisions": ["float32", "bfloat16"]})
    plain, with_graphs = (plan.cells(both, [2, 4], [2], 100, graphs=graphs) for graphs in (False, True))
    added = [CellKey(size, "graph", "device", one) for one in ("float32", "bfloat16") for size in (2, 4)]
    assert [key for key in with_graphs if key not in plain] == added
    assert [key for key in with_graphs if key in plain] == plain
    dispatched = experiment(throughput={"loops": ["dispatch"]})
    assert plan.cells(dispatched, [2], [], 100, graphs=True) == plan.cells(dispatched, [2], [], 100)


@given(batch_sizes, st.integers(1, 8))
def test_spaced_sizes_leave_none_out_by_more_than_the_factor(sizes, factor):
    kept = plan.spaced(sizes, factor)
    assert kept[0] == min(sizes)
    assert all(after >= factor * before for before, after in pairwise(kept))
    assert all(any(one <= size < factor * one or one == size for one in kept) for size in sizes)


@given(batch_sizes, st.integers(1, 512), st.integers(1, 8))
def test_no_batch_size_is_split_much_finer_than_alone(sizes, widest, most_splitting):
    for tier in plan.tiers(sizes, widest, most_splitting):
        for size in tier.batch_sizes:
            (alone,) = plan.tiers([size], widest)
            assert alone.microbatch_size <= most_splitting * tier.microbatch_size
        assert tier.microbatch_size > 1 or len(tier.batch_sizes) == 1


def test_powers_of_two_need_few_programs():
    assert len(plan.tiers([2**power for power in range(13)])) <= 4
    assert len(plan.tiers([5, 10, 20, 50, 100, 256, 500, 1000, 2000, 5000])) <= 5


@pytest.mark.parametrize(("sizes", "label"), [([2], "B=2"), ([8, 32, 512], "B=8..512")])
def test_a_tier_is_labelled_with_its_ends(sizes, label):
    assert plan.Tier(sizes[0], sizes).label == label


@given(st.integers(10, 60_000), st.floats(0.1, 50), st.floats(1, 4), st.integers(1, 20), st.integers(1, 20))
def test_evaluations_ascend_to_the_longest_duration_and_hold_the_budget(examples, epochs, longer, first, later):
    one = experiment(
        budget={"epochs": epochs, "max_epochs": epochs * longer},
        evaluation={"first_epoch": first, "per_epoch": later},
    )
    duration = plan.duration(one, examples)
    assert all(a < b for a, b in pairwise([0, *duration.evaluations]))
    assert duration.evaluations[-1] == duration.max_examples
    assert duration.budget_examples in duration.evaluations
    quantum = examples / min(first, later)
    assert all(b - a <= quantum + 1 for a, b in pairwise([0, *duration.evaluations]))


@pytest.mark.parametrize(("rule", "ratio"), [("none", 1), ("sqrt", 2), ("linear", 4)])
def test_the_anchor_moves_by_the_rule(rule, ratio):
    table = LearningRate(anchor=0.1, anchor_batch_size=32, rule=rule)
    assert plan.anchor_rate(table, 128) == pytest.approx(0.1 * ratio)
    assert plan.anchor_rate(table, 32) == pytest.approx(0.1)


@given(st.floats(1e-6, 10), st.integers(0, 5), st.floats(1.1, 10), st.integers(1, 5000))
def test_a_grid_is_geometric_around_the_anchor_and_a_file_repeats_it(anchor, span, factor, size):
    table = LearningRate(anchor=anchor, span=span, factor=factor)
    rates = plan.learning_rates(table, size)
    assert len(rates) == 2 * span + 1
    assert rates[span] == pytest.approx(plan.anchor_rate(table, size), rel=1e-5)
    assert all(b / a == pytest.approx(factor, rel=1e-4) for a, b in pairwise(rates))
    assert [float(f"{rate:.6g}") for rate in rates] == rates


@given(st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_a_grid_grows_one_rate_at_a_time_and_stops(span, extend, upwards):
    table = LearningRate(anchor=0.1, span=span, extend=extend)
    options = (("momentum", 0.5),)
    tried = [Point(rate, options) for rate in plan.learning_rates(table, 64, options)]
    for _ in range(extend):
        point = plan.extension(table, 64, tried, upwards=upwards)
        assert point.options == options
        assert point > max(tried) if upwards else point < min(tried)
        tried.append(point)
    assert plan.extension(table, 64, tried, upwards=upwards) is None


def test_the_fraction_of_an_epoch_that_is_no_whole_number_is_rounded_once():
    duration = plan.duration(experiment(budget={"epochs": 1 / 3, "max_epochs": None}), 100)
    assert duration.budget_examples == duration.max_examples == 33
    assert math.isclose(duration.budget_examples / 100, 1 / 3, abs_tol=0.005)


def test_every_combination_of_options_is_tried_over_a_grid_of_effective_rates():
    searched = experiment(search={"weight_decay": [0.1, 0.0], "momentum": [0.9, 0.5, 0.0]})
    points, rates = plan.points(searched, 8), plan.learning_rates(searched.learning_rate, 8)
    assert {point.options for point in points} == {
        (("momentum", momentum), ("weight_decay", decay)) for momentum in (0, 0.5, 0.9) for decay in (0, 0.1)
    }
    assert len(points) == 6 * searched.learning_rate.grid_size == 6 * len(rates)
    for options in {point.options for point in points}:
        own = [point for point in points if point.options == options]
        assert [plan.effective_rate(point) for point in own] == pytest.approx(rates, rel=1e-5)
    assert plan.points(experiment(), 8) == [Point(rate) for rate in rates]


def test_a_batch_above_the_training_set_is_refused_once_the_dataset_is_known():
    one = experiment(batch_sizes={"values": [2000]})
    assert plan.batch_sizes(one, 2000) == [2000]
    with pytest.raises(
        InputError, match=r"^tiny: batch_sizes: 2000, expected at most the 1999 training examples of digits$"
    ):
        plan.batch_sizes(one, 1999)


@pytest.mark.parametrize(
    ("table", "rate"),
    [
        ({"anchor": 1e-3, "factor": 10.0, "span": 10, "extend": 3}, "1e+10"),
        ({"anchor": 1e-3, "factor": 10.0, "span": 20, "extend": 10}, "1e-33"),
        ({"anchor": 1e3, "factor": 10.0, "span": 5, "extend": 2}, "1e+10"),
    ],
)
def test_a_grid_that_would_grow_beyond_what_a_row_can_hold_is_refused(table, rate):
    plan.check_rates(experiment(), [1, 1024])
    with pytest.raises(
        InputError, match=re.escape(f"gives, with span and extend, the rate {rate} at batch size 8, expected")
    ):
        plan.check_rates(experiment(learning_rate={"rule": "none", **table}), [8])


@pytest.mark.parametrize(
    ("epochs", "field", "says"),
    [
        (1e-9, "epochs", "1e-09, expected at least 1 of 55000 examples"),
        (1.0, "max_epochs", f"expected at most 100: {TOO_OFTEN}"),
        (1e5, "epochs", f"expected at most 100: {TOO_OFTEN}"),
    ],
)
def test_a_budget_without_one_example_and_one_with_endless_evaluations_are_refused(epochs, field, says):
    endless = experiment(budget={"epochs": epochs, "max_epochs": 1e5}, evaluation={"per_epoch": 1000})
    with pytest.raises(InputError, match=f"^tiny: budget.{field}: .*{says}$"):
        plan.duration(endless, 55_000)


LOOKED = plan.Duration(800, 1200, [100, 200], 1.42)


@pytest.mark.parametrize(
    ("phase", "seed", "examples", "crossed", "ended"),
    [
        ("search", 1, 700, 100, None),
        ("search", 1, 800, 100, "budget"),
        ("search", 1, 900, 900, "target"),
        ("search", 1, 900, None, None),
        ("confirm", 1000, 799, 100, None),
        ("confirm", 1002, 800, 100, "budget"),
        ("confirm", 1002, 900, 700, None),
        ("confirm", 1002, 1000, 700, "past_target"),
        ("confirm", 1003, 141, 100, None),
        ("confirm", 1003, 142, 100, "past_target"),
        ("fixed", 1003, 142, 100, "past_target"),
        ("confirm", 1003, 1200, None, "max"),
    ],
)
def test_runs_end_past_their_target_and_the_first_three_seeds_not_before_the_budget(
    phase, seed, examples, crossed, ended
):
    assert LOOKED.ended(phase, seed, examples, crossed) == ended


def test_without_looks_every_phase_ends_at_the_target_or_the_budget_whichever_is_later():
    plain = plan.Duration(800, 1200, [100, 200])
    for phase in ("search", "confirm", "fixed"):
        found = [plain.ended(phase, 1005, examples, 500) for examples in (500, 799, 800, 900, 1200)]
        assert found == [None, None, "budget", "target", "max"]
