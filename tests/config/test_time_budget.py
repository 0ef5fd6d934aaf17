"""Minutes to a study: monotone, within its estimate, and named so that a file can say it."""

import msgspec
import pytest
from batchscale.config import experiment as experiments
from batchscale.config import plan, time_budget
from batchscale.errors import InputError
from batchscale.measure.control.progress import lowering_trials, timing_seconds
from batchscale.measure.convergence.tiers import trial_seconds
from batchscale.measure.device.compiled_programs import Tuned
from batchscale.measure.device.platform_policy import SHAPES_OF_A_TIER, CompileSeconds
from batchscale.measure.run import time_estimate
from batchscale.records import results_folder
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_workload import experiment

TIERS = plan.tiers([1, 16, 64, 1024])
TRAIN_EXAMPLES = 50_000
COMPILING = CompileSeconds(cell=1.0, training=2.0, evaluation=0.5)


def seconds(rates, devices=(), compiling=COMPILING, lowerings=1):
    tuned = [Tuned(None, rate) for rate in rates]
    return lambda scaled: time_estimate.seconds(scaled, TRAIN_EXAMPLES, TIERS, tuned, compiling, devices, lowerings)


speeds = st.lists(st.floats(1e2, 1e6), min_size=len(TIERS), max_size=len(TIERS))
some_minutes = st.floats(0.01, 100_000)
studies = st.sampled_from([experiment(), experiment(confirm={}), experiment(confirm={"looks": [2, 5]})])


@given(studies, some_minutes, some_minutes, speeds)
def test_more_minutes_never_buy_less(study, some, other, rates):
    less, more = sorted((some, other))
    costs = [seconds(rates)(time_budget.fit(study, one, seconds(rates))) for one in (less, more)]
    assert costs[0] <= costs[1]


@given(some_minutes, speeds)
def test_looks_spend_what_the_rung_leaves_on_seeds(minutes, rates):
    chosen = time_budget.fit(experiment(confirm={}), minutes, seconds(rates))
    more = time_budget.with_seeds(chosen, chosen.seeds.confirm + 1)
    enough = chosen.seeds.confirm == time_budget.MOST_SEEDS
    assert enough or seconds(rates)(more) > minutes * 60
    looks = chosen.confirm.looks
    assert looks[:4] == [3, 6, 12, 24]
    assert looks[-1] >= 3 * chosen.seeds.confirm or len(looks) == experiments.MOST_LOOKS


@example(experiment(confirm={"looks": [2, 5]}), 2.2064264, [594163.6, 346166.4, 572149.3])
@given(studies, some_minutes, speeds)
def test_the_estimate_stays_within_the_minutes_unless_nothing_does(study, minutes, rates):
    chosen = time_budget.fit(study, minutes, seconds(rates))
    lowest = time_budget.climb(study, time_budget.LADDER[0])
    fits = seconds(rates)(chosen) <= minutes * 60
    assert fits or chosen.fingerprint == lowest.fingerprint


def test_the_ladder_climbs_in_cost():
    costs = [seconds([1e4] * len(TIERS))(time_budget.climb(experiment(), rung)) for rung in time_budget.LADDER]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("table", "devices", "cells"),
    [
        ({}, (), 8),
        ({"precisions": ["float32", "default", "bfloat16"]}, (), 24),
        ({"inputs": ["device", "host"]}, (), 12),
        ({}, (2, 4), 8 + 2 * (7 + 6)),
    ],
)
def test_every_way_that_a_step_is_timed_counts(table, devices, cells):
    """Four batch sizes in two loops; larger ones on devices; one loop alone takes host input."""
    rates = [1e4] * len(TIERS)
    planned = experiment(throughput=table)
    timing = seconds(rates, devices)(planned) - seconds(rates)(experiment())
    assert timing == pytest.approx(timing_seconds(planned, cells - 8) + (cells - 8) * COMPILING.cell)


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_an_estimate_knows_how_long_programs_compile_and_how_many_at_a_time(threads):
    """Eight cells, eight lowerings tried, and the programs of every tier."""
    slow = CompileSeconds(cell=30.0, training=100.0, evaluation=40.0, threads=threads)
    free = CompileSeconds(cell=0.0, training=0.0, evaluation=0.0)
    rates, planned = [1e4] * len(TIERS), experiment()
    compiling = seconds(rates, (), slow, 2)(planned) - seconds(rates, (), free, 2)(planned)
    tried = lowering_trials(planned, [1, 16, 64, 1024], 2)
    of_cells = 30.0 * (8 / min(8, threads) + tried / min(tried, threads))
    of_tiers = len(TIERS) * SHAPES_OF_A_TIER * 140.0 / min(SHAPES_OF_A_TIER, threads)
    assert compiling == pytest.approx(of_cells + of_tiers)


@pytest.mark.parametrize(
    ("precisions", "lowerings", "trials"), [([], 1, 0), ([], 2, 6), (["float32", "default"], 3, 18)]
)
def test_lowerings_are_tried_at_sizes_a_factor_of_4_apart(precisions, lowerings, trials):
    planned = experiment(throughput={"precisions": precisions})
    assert lowering_trials(planned, [1, 2, 4, 8, 16], lowerings) == trials


def test_evaluations_to_the_epoch_budget_count_as_often_as_the_plan_has_them():
    planned = experiment(budget={"epochs": 3, "max_epochs": 9}, evaluation={"first_epoch": 10, "per_epoch": 4})
    duration = plan.duration(planned, TRAIN_EXAMPLES)
    free, dear = (trial_seconds(duration, Tuned(None, 1e4, cost)) for cost in (0.0, 0.25))
    assert free == pytest.approx(3 * TRAIN_EXAMPLES / 1e4)
    assert dear - free == pytest.approx((10 + 2 * 4) * 0.25)


@pytest.mark.parametrize("rung", time_budget.LADDER)
def test_a_warm_up_keeps_its_share_of_the_budget(rung):
    warm = experiment(
        learning_rate={"schedule": "warmup_cosine", "warmup_epochs": 1}, budget={"epochs": 4, "max_epochs": 4}
    )
    scaled = time_budget.climb(warm, rung)
    assert scaled.learning_rate.warmup_epochs / scaled.budget.epochs == pytest.approx(1 / warm.budget.epochs)
    assert scaled.max_epochs == scaled.budget.epochs


def test_a_rate_that_is_given_is_never_searched():
    given = experiment(learning_rate={"span": 0, "extend": 0})
    assert {time_budget.climb(given, rung).learning_rate.grid_size for rung in time_budget.LADDER} == {1}


def test_looks_spend_many_minutes_on_seeds_rather_than_on_epochs():
    small = experiment(confirm={}, budget={"epochs": 8, "max_epochs": 24})
    chosen = time_budget.fit(small, 1e5, seconds([1e6] * len(TIERS)))
    assert (chosen.budget.epochs, chosen.max_epochs) == (32, 96)
    assert chosen.seeds.confirm == time_budget.MOST_SEEDS


def test_a_rung_whose_trials_would_be_evaluated_too_often_is_not_taken():
    often = experiment(budget={"epochs": 2, "max_epochs": 6}, evaluation={"per_epoch": 1000})
    chosen = time_budget.fit(often, 1e9, seconds([1e6] * len(TIERS)))
    longest = [6 * rung.epochs_factor for rung in time_budget.LADDER]
    assert chosen.max_epochs == max(one for one in longest if one * 1000 <= plan.MOST_EVALUATIONS)


@given(st.from_regex(r"\A[a-z][a-z0-9_]{0,39}\Z"), st.floats(0, 100_000, exclude_min=True))
def test_a_scaled_study_can_be_written_and_read_again(name, minutes):
    named = time_budget.named(msgspec.structs.replace(experiment(), name=name), minutes)
    text = results_folder.to_toml(named).decode()
    assert experiments.parse(experiments.tomllib.loads(text), named.name, "tiny.toml") == named


def test_a_name_says_the_minutes():
    lenet = experiments.find("lenet_mnist")
    assert time_budget.named(lenet, 30.0).name == "lenet_mnist_30min"
    assert time_budget.named(lenet, 2.5).name == "lenet_mnist_2p5min"


@given(studies, some_minutes, speeds)
def test_what_was_scaled_before_is_found_again(study, minutes, rates):
    known = time_budget.fit(study, minutes, seconds(rates))
    assert time_budget.scaled_before(study, known) == known


def test_what_was_scaled_before_may_get_other_batch_sizes_and_no_other_edit():
    rates = [1e4] * len(TIERS)
    known = time_budget.fit(experiment(), 10.0, seconds(rates))
    wider = experiment(batch_sizes={"values": [10, 50, 100]})
    assert time_budget.scaled_before(wider, known).batch_sizes == wider.batch_sizes
    with pytest.raises(InputError, match="was scaled from tiny, which has been edited since"):
        time_budget.scaled_before(experiment(target={"accuracy": 0.5}), known)


@pytest.mark.parametrize("rung", time_budget.LADDER)
def test_a_study_is_scaled_like_another_only_at_the_same_rung(rung):
    known = time_budget.climb(experiment(), rung)
    assert time_budget.scaled_like(experiment(), known) == known
    assert time_budget.scaled_like(experiment(target={"accuracy": 0.5}), known) is None
