"""One function per metric: which rows count for a batch size, and what they come to."""

import numpy as np
import pandas as pd
import pytest
import simulated_folder
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics import observations
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.config.goal import Goal
from batchscale.records.row_types import Compilation, Curve, Round, Trial
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_rows import ROWS, TARGET, TRUTH, change, made, of, timed, trained


def test_a_batch_size_counts_whichever_kind_of_row_it_has():
    rows = [
        *(change(row, batch_size=size) for row, size in zip(of(Round)[:2], (7, 3), strict=True)),
        change(of(Compilation)[0], batch_size=5),
        *(
            change(row, batch_size=size, curve=Curve(examples=[], steps=[], accuracy=[], loss=[]))
            for row, size in zip(of(Trial)[:2], (9, 3), strict=True)
        ),
    ]
    assert Sweep.of(made(rows)).sizes.tolist() == [3, 5, 7, 9]
    assert Sweep.of(made([])).sizes.tolist() == []


@pytest.mark.parametrize("loops", [("scan", "dispatch"), ("dispatch", "scan")])
def test_the_faster_loop_counts_by_its_median(loops):
    quick, slow = loops
    rows = [*timed([2.0, 2.0, 2.0], loop=slow), *timed([1.0, 1.0, 9.0], loop=quick)]
    for order in (rows, rows[::-1]):
        found = observations.fastest_loops(made(order))[16]
        assert (found.loop, found.accumulation) == (quick, 1)
        assert sorted(found.rounds["seconds_per_step"]) == [0.1, 0.1, 0.9]


def test_of_loops_that_are_equally_fast_the_first_counts():
    for first, second in (("scan", "dispatch"), ("dispatch", "scan")):
        rows = [*timed([1.0], loop=first), *timed([1.0], loop=second)]
        assert observations.fastest_loops(made(rows))[16].loop == first


def test_an_accumulated_batch_counts_only_where_no_whole_one_was_timed():
    halves, quarters = timed([0.1], accumulation=2), timed([0.05], accumulation=4)
    assert observations.fastest_loops(made([*quarters, *halves, *timed([9.0])]))[16].accumulation == 1
    assert observations.fastest_loops(made([*quarters, *halves]))[16].accumulation == 2
    faster = timed([0.01], accumulation=2, loop="dispatch")
    assert observations.fastest_loops(made([*quarters, *halves, *faster]))[16].loop == "dispatch"


def test_a_whole_batch_that_ran_out_of_memory_between_rounds_does_not_count():
    full = change(of(Compilation)[0], batch_size=16, loop="scan", status="out_of_memory")
    found = observations.fastest_loops(
        made([*timed([0.1], loop="scan"), *timed([9.0], loop="scan", accumulation=2), full])
    )
    assert found[16].accumulation == 2


@pytest.mark.parametrize("unlike", [{"input": "host"}, {"devices": 2}, {"precision": "bfloat16"}])
def test_rounds_that_timed_something_else_are_not_joined(unlike):
    assert observations.fastest_loops(made(timed([1.0], **unlike))) == {}
    found = made([*timed([1.0], **unlike), *timed([2.0])])
    assert observations.comparable(found, found.rounds)["seconds"].tolist() == [2.0]


def test_every_batch_size_has_its_own_speed():
    found = observations.fastest_loops(made(ROWS))
    assert set(found) == {16, 64}
    for size, speed in found.items():
        assert speed.loop == "scan"
        assert set(speed.rounds["batch_size"]) == {size}
        assert len(speed.rounds) == TRUTH.rounds


def test_several_devices_have_speeds_of_their_own_and_add_no_batch_size():
    rows = [*timed([1.0]), *timed([0.5], devices=2), *(change(row, batch_size=9) for row in timed([3.0], devices=2))]
    found = made(rows)
    assert Sweep.of(found).sizes.tolist() == [16]
    assert {size: speed.rounds["seconds"].tolist() for size, speed in observations.fastest_loops(found, 2).items()} == {
        16: [0.5],
        9: [3.0],
    }


def test_what_the_compiler_said_is_of_the_program_that_is_timed():
    (first, *_) = of(Compilation, batch_size=16, loop="scan")
    said = [
        change(first, loop="dispatch", compile_seconds=1.0, peak_bytes=None),
        change(first, accumulation=2, compile_seconds=2.0),
        change(first, compile_seconds=3.0, peak_bytes=77),
        change(first, batch_size=64, compile_seconds=4.0),
        change(first, devices=2, compile_seconds=5.0),
    ]
    found = made([*said, *timed([1.0])])
    whole = observations.compiled(found, 16, observations.fastest_loops(found)[16])
    assert (whole["compile_seconds"], whole["peak_bytes"]) == (3.0, 77)
    assert set(whole) == set(observations.OF_PROGRAM)
    untimed = observations.compiled(found, 16, None)
    assert untimed["compile_seconds"] == 1.0
    assert np.isnan(untimed["peak_bytes"])
    assert np.isnan([*observations.compiled(found, 5, None).values()]).all()


def test_times_powers_and_energies_are_logarithms_of_what_was_measured():
    rows = [change(row, joules=joules) for row, joules in zip(timed([2.0, 3.0], steps=4), (10.0, 60.0), strict=True)]
    speed = observations.fastest_loops(made(rows))[16]
    for measure, expected in (
        (observations.log_seconds, [0.5, 0.75]),
        (observations.log_joules, [2.5, 15.0]),
    ):
        found = measure(speed)
        np.testing.assert_allclose(np.sort(np.exp(found.high)), expected)
        np.testing.assert_array_equal(found.low, found.high)
        assert (found.misses, found.logarithmic) == (0, True)
        assert measure(None).count == 0


def test_energy_that_was_not_measured_is_no_energy():
    some = [change(row, joules=joules) for row, joules in zip(timed([1.0] * 3), (None, 0.0, 5.0), strict=True)]
    speed = observations.fastest_loops(made(some))[16]
    assert np.exp(observations.log_joules(speed).high) == pytest.approx([0.5])
    assert observations.log_joules(observations.fastest_loops(made(timed([1.0])))[16]).count == 0


ACCURACIES = st.floats(0, 1) | st.sampled_from([0.25, 0.5, 0.75])
accuracies = st.lists(ACCURACIES, max_size=12)


@settings(max_examples=60)
@given(st.lists(accuracies, min_size=1, max_size=5), st.floats(0.01, 0.99) | st.sampled_from([0.25, 0.5, TARGET]))
def test_crossings_are_the_first_evaluation_at_or_above_any_target(curves, target):
    found = observations.crossings(made([trained(accuracy, seed=seed) for seed, accuracy in enumerate(curves)]), target)
    assert list(found.columns) == ["examples_to_target", "previous_examples"]
    for seed, accuracy in enumerate(curves):
        first = next((at for at, value in enumerate(accuracy, 1) if value >= target), np.inf)
        assert found["examples_to_target"][seed] == 16 * first
        before = len(accuracy) if first == np.inf else first - 1
        assert found["previous_examples"][seed] == 16 * before


def test_trials_that_were_never_evaluated_lend_nothing_to_their_neighbours():
    curves = [[], [0.9], [0.1, 0.2], [0.1, 0.9, 0.1], []]
    found = observations.crossings(made([trained(curve, seed=seed) for seed, curve in enumerate(curves)]), 0.5)
    assert found["examples_to_target"].tolist() == [np.inf, 16, np.inf, 32, np.inf]
    assert found["previous_examples"].tolist() == [0, 0, 32, 16, 0]


def test_needs_are_bracketed_by_evaluations_sorted_and_missed_beyond_the_limit():
    curves = [[0.1, 0.1, 0.96], [0.96], [0.1, 0.1], [0.1, 0.96]]
    found = made([trained(curve, seed=seed) for seed, curve in enumerate(curves)])
    needs = observations.log_needs(found.trials, observations.crossings(found, TARGET), 1000.0)
    np.testing.assert_allclose(np.exp(needs.low), [1, 16, 32])
    np.testing.assert_allclose(np.exp(needs.high), [16, 32, 48])
    assert (needs.misses, needs.count, needs.logarithmic) == (1, 4, True)
    assert needs.limit == pytest.approx(np.log(1000))
    for unknown in (np.inf, np.nan):
        assert observations.log_needs(found.trials, observations.crossings(found, TARGET), unknown).limit == np.inf
    some = observations.log_needs(found.trials.iloc[1:3], observations.crossings(found, TARGET), np.inf)
    assert (np.exp(some.high).tolist(), some.misses, some.limit) == ([pytest.approx(16)], 1, np.inf)
    assert observations.log_needs(found.trials.iloc[:0], observations.crossings(found, TARGET), 1.0).count == 0


def test_a_target_within_one_example_is_one_example():
    curve = Curve(examples=[1], steps=[1], accuracy=[0.99], loss=[None])
    found = made([change(trained(), batch_size=1, curve=curve)])
    needs = observations.log_needs(found.trials, observations.crossings(found, TARGET), np.inf)
    assert (needs.low.tolist(), needs.high.tolist()) == ([0.0], [0.0])


GOAL = Goal(metric="accuracy", threshold=TARGET)


def test_the_best_accuracy_is_negated_and_what_is_not_known_is_left_out():
    rows = [trained([0.5, 0.9, 0.7], seed=1), trained([0.8], seed=2)]
    best = observations.best_scores(GOAL, made(rows).trials)
    assert sorted(best.high) == [-0.9, -0.8]
    assert (best.misses, best.logarithmic) == (0, False)
    untold = frames.Imported(train_examples=None, target_accuracy=None, learning_rates=True)
    imported = frames.from_rows(
        simulated_folder.experiment(TRUTH), simulated_folder.machine_file(), rows, imported=untold
    )
    assert observations.best_scores(GOAL, imported.trials).count == 0


def test_averaged_parameters_are_compared_with_their_own_run():
    runs = pd.DataFrame({"best_score": [0.5, 0.75, np.nan], "best_averaged_score": [0.75, 0.5, 0.25]})
    averaged, gains = observations.best_averaged_scores(GOAL, runs), observations.averaged_score_gains(GOAL, runs)
    np.testing.assert_array_equal(averaged.low, [-0.75, -0.5, -0.25])
    np.testing.assert_array_equal(gains.high, [-0.25, 0.25])


def test_a_budget_of_steps_counts_evaluations_up_to_and_at_it():
    found = made([trained([0.5, 0.7, 0.9], seed=1), trained([0.8, 0.1], seed=2), trained([0.99] * 3, seed=3)])
    own = found.trials.iloc[:2]
    for steps, expected in ((0, []), (1, [-0.8, -0.5]), (2, [-0.8, -0.7]), (3, [-0.9, -0.8])):
        assert sorted(observations.best_scores_by_steps(found, own, steps).high) == expected
