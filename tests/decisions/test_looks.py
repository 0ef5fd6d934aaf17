"""Looks are replayed from their rows, and decide from rows alone."""

import math

import msgspec
import numpy as np
import pytest
from batchscale.config import plan
from batchscale.config.vocabulary import CellKey
from batchscale.decisions.looks import Evidence, decide, reading, replay
from batchscale.records.row_types import Arm, Curve, Look, Round, Trial
from sample_rows import ORIGIN
from tiny_workload import experiment

DURATION = plan.Duration(2000, 6000, list(range(100, 6001, 100)), 1.42)
ARMS = [Arm(batch_size=size, learning_rate=0.01) for size in (8, 16, 32)]
ASKED = experiment(confirm={"looks": [3, 6, 12]}, seeds={"search": 1, "confirm": 8})


def look(**fields):
    return Look(**{**ORIGIN, "number": 0, "seeds": 0, "alpha": 0.0, "next_seeds": 3, "spent": 0, "left": 9, **fields})


def a_round(size, loop="scan", block=0, number=0, seconds=1.0):
    return Round(**ORIGIN, batch_size=size, loop=loop, round=number, block=block, steps=1, seconds=seconds)


def run(arm, seed, at):
    """Return a confirmation run that crosses the target of 0.75 after `at` examples."""
    points = [point for point in DURATION.evaluations if point <= 1.5 * at]
    scores = [max(0.0, 1 - 0.25 * (point / at) ** -0.3) for point in points]
    curve = Curve(examples=points, steps=[max(1, point // arm.batch_size) for point in points], accuracy=scores)
    return Trial(
        **ORIGIN,
        phase="confirm",
        status="ok",
        batch_size=arm.batch_size,
        learning_rate=arm.learning_rate,
        seed=plan.FIRST_CONFIRMATION_SEED + seed,
        train_examples=100,
        steps=1,
        curve=curve,
        microbatch_size=8,
        lanes=1,
    )


def evidence(factors, seeds=3):
    """Return rows of runs whose batch sizes take these times: seconds per step grow with the batch size alone."""
    random = np.random.default_rng(0)
    trials = [
        run(arm, seed, 1000 * factor * math.exp(random.normal(0, 0.02)))
        for arm, factor in zip(ARMS, factors, strict=True)
        for seed in range(seeds)
    ]
    rounds = [
        a_round(arm.batch_size, number=number, seconds=arm.batch_size * math.exp(random.normal(0, 0.01)))
        for arm in ARMS
        for number in range(7)
    ]
    return Evidence(ASKED, DURATION, trials, rounds)


def test_replayed_looks_say_what_is_left_and_what_was_to_be_trained():
    rows = [
        look(added=ARMS),
        look(
            number=1, seeds=3, compared=ARMS, out=ARMS[2:], added=[Arm(batch_size=24, learning_rate=0.02)], next_seeds=6
        ),
        look(number=2, seeds=6, next_seeds=6, stop="one left"),
    ]
    found = replay(rows)
    joined = rows[1].added[0]
    assert (found.number, found.seeds, found.stop, found.budget) == (2, 6, "one left", 9)
    assert found.left == (*ARMS[:2], joined)
    assert [(batch.arms, batch.seeds) for batch in found.batches] == [
        (tuple(ARMS), range(3)),
        ((joined,), range(3)),
        ((*ARMS[:2], joined), range(3, 6)),
    ]


def test_rows_are_read_with_the_last_looks_error_or_the_next_ones_where_the_study_goes_on():
    opening, first = look(added=ARMS), look(number=1, seeds=3, alpha=0.004, compared=ARMS, out=ARMS[2:], next_seeds=6)
    last = look(number=2, seeds=6, alpha=0.008, compared=ARMS[:2], out=ARMS[:1], next_seeds=6, stop="one left")
    assert reading([opening]) is None
    going, ended = reading([opening, first]), reading([opening, first, last])
    assert (going.alpha, going.stream, going.out) == (pytest.approx(0.008), 1, frozenset())
    assert [size for size, _ in going.arms] == [8, 16, 32], "an arm that is out counts for what seeds have in common"
    assert (ended.alpha, ended.stream) == (0.008, 1)
    assert {size for size, _ in going.compared} == {size for size, _ in ended.compared} == {8, 16}
    assert {size for size, _ in ended.out} == {8}


def test_only_runs_of_arms_are_spent():
    rows = evidence([1.0, 1.0, 1.0])
    assert 0 < rows.spent(ARMS[:1]) < rows.spent(ARMS)
    other = Arm(batch_size=8, learning_rate=0.02)
    assert rows.spent([other]) == 0


def test_a_look_calls_out_what_is_clearly_slower_and_asks_for_seeds_of_the_others():
    standing = replay([look(added=ARMS)])
    found = decide(evidence([1.0, 1.02, 2.0]), standing, 10**9, lambda _: 8)
    assert found.out.tolist() == [False, False, True]
    assert found.comparison.alpha == pytest.approx(0.004)
    close = decide(evidence([1.0, 1.02, 1.01]), standing, 10**9, lambda _: 8)
    assert (close.out.any(), close.seeds, close.stop) == (False, 6, None)


def test_an_arm_that_all_first_seeds_missed_is_out_by_how_far_they_came_and_a_stuck_one_is_not():
    far = [one for one in evidence([1.0, 1.02, 1.0]).trials if one.batch_size != 32]
    slow = [cut(run(ARMS[2], seed, 20_000 + 100 * seed)) for seed in range(3)]
    stuck = [changed_curve(one, 0.5) for one in slow]
    rows, standing = evidence([1.0, 1.02, 1.0]), replay([look(added=ARMS)])
    found = decide(changed_rows(rows, trials=far + slow), standing, 10**9, lambda _: 8)
    assert found.out.tolist() == [False, False, True]
    assert np.isfinite(found.comparison.bounds[:2]).all()
    doubtful = decide(changed_rows(rows, trials=far + stuck), standing, 10**9, lambda _: 8)
    assert doubtful.out.tolist() == [False, False, False]
    assert np.isinf(doubtful.comparison.bounds).all()


def cut(trial):
    """End a run where the longest one may end."""
    count = len(DURATION.evaluations)
    curve = msgspec.structs.replace(
        trial.curve,
        examples=trial.curve.examples[:count],
        steps=trial.curve.steps[:count],
        scores={"accuracy": trial.curve.values("accuracy")[:count]},
    )
    return msgspec.structs.replace(trial, curve=curve)


def changed_curve(trial, score):
    scores = [score] * len(trial.curve.examples)
    return msgspec.structs.replace(trial, curve=msgspec.structs.replace(trial.curve, scores={"accuracy": scores}))


def test_a_first_seed_is_charged_the_epoch_budget_at_most_and_a_later_one_what_it_took():
    first, later = cut(run(ARMS[0], 0, 20_000)), cut(run(ARMS[0], 3, 20_000))
    short = run(ARMS[0], 1, 1000)
    rows = Evidence(ASKED, DURATION, [first, later, short], [])
    assert short.curve.examples[-1] == 1500
    assert rows.spent(ARMS[:1]) == 2000 + 6000 + 1500
    assert rows.expected(ARMS[1], [plan.FIRST_CONFIRMATION_SEED + seed for seed in (0, 1, 3)]) == 2000 + 2000 + 6000, (
        "an arm that never ran may need the most"
    )


def test_an_arm_that_was_not_timed_or_never_ran_is_out():
    rows = evidence([1.0, 1.0, 1.0])
    untimed = changed_rows(rows, rounds=[one for one in rows.rounds if one.batch_size != 16])
    assert decide(untimed, replay([look(added=ARMS)]), 10**9, lambda _: 8).out.tolist() == [False, True, False]
    unrun = changed_rows(rows, trials=[one for one in rows.trials if one.batch_size != 8])
    assert decide(unrun, replay([look(added=ARMS)]), 10**9, lambda _: 8).out.tolist() == [True, False, False]


def changed_rows(rows, **changed):
    return Evidence(
        rows.experiment, rows.duration, changed.get("trials", rows.trials), changed.get("rounds", rows.rounds)
    )


def test_a_seed_costs_what_runs_took_to_past_their_target_and_no_more_than_the_longest_run():
    rows = Evidence(ASKED, DURATION, [run(ARMS[0], 0, 950), run(ARMS[1], 0, 5950)], [])
    assert rows.a_seed(ARMS[0]) == pytest.approx(1.42 * 1000)
    assert rows.a_seed(ARMS[1]) == 6000
    assert rows.a_seed(ARMS[2]) == 6000


def test_rounds_are_tables_by_block_of_the_faster_loop():
    rows = [a_round(8, "dispatch", 0, 0, 3.0), a_round(8, "scan", 0, 0), a_round(8, "scan", 1, 1, math.e)]
    rows += [a_round(16, "dispatch", 0, 0, 1.05), a_round(16, "scan", 0, 0)]
    found = Evidence(ASKED, DURATION, [], rows)
    table = found.log_seconds([8, 16, 32])
    np.testing.assert_allclose(table, [[[0, 0, np.nan]], [[1, np.nan, np.nan]]], atol=1e-12)
    assert found.cells([8]) == [CellKey(8, "scan")], "the dispatch loop is no rival"
    assert found.cells([16]) == [CellKey(16, "dispatch"), CellKey(16, "scan")]
    assert found.cells([32]) == [CellKey(32, "dispatch"), CellKey(32, "scan")], "neither was timed yet"
    on_a_gpu = Evidence(ASKED, DURATION, [], [*rows, a_round(8, "graph", 0, 0, 9.0)])
    assert [key.loop for key in on_a_gpu.cells([32])] == ["dispatch", "graph", "scan"]
