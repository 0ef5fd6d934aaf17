"""A wave from first step to last row: only the trial itself decides its curve."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from batchscale.config.vocabulary import Point
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence import wave_loop
from batchscale.measure.convergence.lanes import Moments
from batchscale.measure.convergence.wave import Setting
from batchscale.measure.convergence.wave_loop import Workers
from batchscale.records.row_types import Curve
from hypothesis import given
from hypothesis import strategies as st
from tiny_workload import DURATION, RACE, Bench, grid_of, held_out_split, learner, train_alone

ONE_EXAMPLE = 1 / 60
"""Rounding may tip one example of the validation split."""


def by_lane(records):
    return {(record.setting, record.seed): record for record in records}


def noise_agrees(found, expected):
    assert found.examples == expected.examples
    for name in ("gradient_squared", "noise_trace"):
        one, other = (np.array(getattr(series, name)) for series in (found, expected))
        np.testing.assert_allclose(one, other, rtol=0, atol=0.01 * np.abs(other).max())


def curves_agree(found, expected, tolerance=0.0):
    assert found.examples == expected.examples
    assert found.steps == expected.steps
    np.testing.assert_allclose(found.scores["accuracy"], expected.scores["accuracy"], rtol=0, atol=1.01 * tolerance)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The wave that the others are compared with: one shard, one worker, no compaction, no interruption."""
    bench = Bench(tmp_path_factory.mktemp("plain"))
    return by_lane(bench.run().records)


COMPACTED = ((2, 6), (2, 3), (1, 3))


@pytest.fixture(scope="module")
def compacted(tmp_path_factory):
    """The same wave in shards that become smaller, not interrupted."""
    return by_lane(Bench(tmp_path_factory.mktemp("compacted"), shapes=COMPACTED).run().records)


@pytest.fixture(scope="module")
def unraced(tmp_path_factory):
    """The same lanes as confirmation trials, which are never stopped early."""
    return by_lane(Bench(tmp_path_factory.mktemp("unraced"), settings=grid_of("confirm")).run().records)


def test_a_curve_is_what_training_alone_evaluates_to(unraced):
    setting, seed = Setting("confirm", 50, Point(0.05)), 2
    curve, one = unraced[setting, seed].curve, learner("linear", "momentum")
    for examples, steps, accuracy in itertools.islice(
        zip(curve.examples, curve.steps, curve.scores["accuracy"], strict=True), 0, None, 3
    ):
        assert examples == steps * 50
        alone = one.scores(train_alone(one, seed, 50, 0.05, examples).params, held_out_split())
        assert accuracy == pytest.approx(float(np.mean(alone["accuracy"])), abs=1.01 * ONE_EXAMPLE)


def test_every_lane_is_reported_once_with_a_verdict(tmp_path):
    bench = Bench(tmp_path)
    records = bench.run().records
    assert len(bench.reported) == len(records) == len(by_lane(bench.reported)) == 12
    assert all(record.status is not None for record in records)
    assert not bench.checkpoint.path.exists()


def test_a_lane_at_its_target_ends_with_the_budget_and_another_goes_on(unraced):
    ends = set()
    for record in unraced.values():
        seen = zip(record.curve.examples, record.curve.scores["accuracy"], strict=True)
        reached = next((examples for examples, accuracy in seen if RACE.goal.reached(accuracy)), math.inf)
        ends.add(record.curve.examples[-1])
        assert record.curve.examples[-1] == min(max(reached, DURATION.budget_examples), DURATION.max_examples)
        assert record.status == "ok"
        assert record.test_scores.get("accuracy") is not None
    assert {DURATION.budget_examples, DURATION.max_examples} <= ends


def test_after_the_budget_the_most_that_lanes_still_train_is_known(tmp_path):
    bench, seen = Bench(tmp_path, settings=grid_of("confirm")), []
    lanes = bench.fresh()

    def advanced(lane_examples):
        seen.append((lanes.tick * lanes.programs.microbatch_size, lane_examples, lanes.most_beyond_budget()))

    wave_loop.run(lanes, replace(bench.reporter(lambda: None), advanced=advanced))
    assert {most for trained, _, most in seen if trained <= DURATION.budget_examples} == {0}
    beyond = [one for one in seen if one[0] > DURATION.budget_examples]
    for trained, lane_examples, most in beyond:
        living = lane_examples // DURATION.evaluations[0]
        assert most == living * (DURATION.max_examples - trained)
    assert beyond[0][2] > beyond[-1][2] == 0


@pytest.mark.parametrize(
    "stops", [pytest.param((1,), marks=pytest.mark.slow), (3, 2, 1), pytest.param((7,), marks=pytest.mark.slow)]
)
def test_a_wave_interrupted_anywhere_and_resumed_is_the_uninterrupted_one_bit_for_bit(tmp_path, compacted, stops):
    bench = Bench(tmp_path, shapes=COMPACTED)
    for stop in stops:
        with pytest.raises(Stopped):
            bench.run(stop_after=stop)
    records = by_lane(bench.run().records)
    assert msgspec.to_builtins(list(records.values())) == msgspec.to_builtins(list(compacted.values()))
    assert {lane: msgspec.to_builtins(record) for lane, record in by_lane(bench.reported).items()} == {
        lane: msgspec.to_builtins(record) for lane, record in compacted.items()
    }


def test_a_verdict_whose_row_was_lost_after_the_checkpoint_is_reported_again(tmp_path):
    bench = searching(tmp_path)
    with pytest.raises(Stopped):
        bench.run(stop_after=DURATION.evaluations.index(DURATION.budget_examples))
    lost = bench.reported.pop()
    records = by_lane(bench.run().records)
    assert len(bench.reported) == len(records)
    assert by_lane(bench.reported) == records
    assert records[lost.setting, lost.seed] == lost


@pytest.mark.parametrize("stops", [(9,), (30, 4)])
def test_a_wave_stops_between_evaluations_and_goes_on_from_there(tmp_path, compacted, stops):
    """With no time between checks every tick is followed by one; there are 20 ticks between evaluations."""
    bench = Bench(tmp_path, shapes=COMPACTED, check_seconds=0.0)
    for stop in stops:
        with pytest.raises(Stopped):
            bench.run(stop_after=stop)
        halfway = bench.fresh()
        assert bench.checkpoint.restore(halfway, set())
        assert halfway.tick % 20 != 0
    records = by_lane(bench.run().records)
    assert msgspec.to_builtins(list(records.values())) == msgspec.to_builtins(list(compacted.values()))


@pytest.mark.parametrize(
    "how",
    [
        {"shapes": ((1, 3),), "workers": 2},
        {"shapes": ((2, 2),), "workers": 2},
        {"shapes": COMPACTED},
        {"settings": grid_of()[::-1]},
        {"ticks_per_call": 7},
    ],
    ids=["shards and workers", "three shards, two workers", "compaction", "lane order", "chunks"],
)
def test_how_lanes_are_run_is_not_seen_in_their_curves(tmp_path, plain, how):
    for lane, record in by_lane(Bench(tmp_path, **how).run().records).items():
        assert record.status == plain[lane].status
        curves_agree(record.curve, plain[lane].curve, ONE_EXAMPLE)
        noise_agrees(record.noise, plain[lane].noise)


@pytest.mark.slow
def test_chunks_and_lane_order_change_no_bit(tmp_path, plain):
    for how in ({"ticks_per_call": 7}, {"settings": grid_of()[::-1]}):
        for lane, record in by_lane(Bench(tmp_path, **how).run().records).items():
            assert record == plain[lane]


def test_racing_shortens_a_curve_and_changes_nothing_else(plain, unraced):
    stopped = 0
    for (setting, seed), record in plain.items():
        free = unraced[msgspec.structs.replace(setting, phase="confirm"), seed]
        kept = len(record.curve.scores["accuracy"])
        assert record.curve.scores["accuracy"] == free.curve.scores["accuracy"][:kept]
        assert record.curve.scores["loss"] == free.curve.scores["loss"][:kept]
        if record.status == "stopped":
            stopped += 1
            assert record.reason
    assert stopped > 0
    assert all(record.status != "stopped" for record in unraced.values())


def test_what_leaves_the_numbers_is_diverged_and_its_neighbours_do_not_notice(tmp_path, unraced):
    settings = [*grid_of("confirm")[:5], Setting("confirm", 50, Point(3e38))]
    found = by_lane(Bench(tmp_path, settings=settings).run().records)
    for lane, record in found.items():
        if lane[0].point.learning_rate == 3e38:
            assert record.status == "diverged"
            assert "after 100 examples" in record.reason
            assert record.curve.scores["loss"] == [None]
            msgspec.json.decode(msgspec.json.encode(record.curve), type=Curve)
        else:
            assert record == unraced[lane]


@pytest.mark.parametrize("loss", [1e31, math.inf, math.nan])
def test_a_loss_that_no_row_may_hold_is_null_and_diverged(tmp_path, monkeypatch, loss):
    bench = Bench(tmp_path)
    monkeypatch.setattr(
        "batchscale.measure.convergence.lanes.Programs.evaluate",
        lambda *_: {"loss": Moments(np.full((2, 6), loss), np.full((2, 6), 0.1))},
    )
    for record in bench.run().records:
        assert record.status == "diverged"
        assert record.curve.scores["loss"] == [None]


def test_test_accuracy_is_read_at_the_budget_or_at_every_evaluation(tmp_path, unraced):
    always = by_lane(Bench(tmp_path, settings=grid_of("confirm"), tests_always=True).run().records)
    for lane, record in always.items():
        assert len(record.curve.test_scores["accuracy"]) == len(record.curve.scores["accuracy"])
        at_budget = record.curve.examples.index(DURATION.budget_examples)
        assert (
            record.test_scores.get("accuracy")
            == record.curve.test_scores["accuracy"][at_budget]
            == unraced[lane].test_scores.get("accuracy")
        )
        assert unraced[lane].curve.test_scores == {}


def test_parameters_without_an_update_at_the_budget_are_not_tested(tmp_path):
    larger = Setting("confirm", DURATION.budget_examples + 100, Point(0.01))
    for record in Bench(tmp_path, settings=[larger], shapes=((2, 1),)).run().records:
        assert (record.steps, record.test_scores.get("accuracy")) == (1, None)


@pytest.mark.parametrize(("shards", "workers"), [(1, 2), (3, 2), (4, 2), (5, 4), (2, 1)])
def test_workers_take_every_tick_of_every_shard_once_in_order_and_share_evenly(tmp_path, monkeypatch, shards, workers):
    taken = []
    monkeypatch.setattr(
        wave_loop, "_advance_shard", lambda _, shard, first, ticks: taken.append((id(shard), first, ticks))
    )
    one = Bench(tmp_path, shapes=((1, 2),)).fresh()
    with ThreadPoolExecutor(workers) as pool:
        Workers(pool, workers).train(one, one.shards[:shards], 40)
    for shard in one.shards[:shards]:
        turns = [(first, ticks) for name, first, ticks in taken if name == id(shard)]
        assert [first for first, _ in turns] == [sum(ticks for _, ticks in turns[:i]) for i in range(len(turns))]
        assert sum(ticks for _, ticks in turns) == 40
    assert max(ticks for _, _, ticks in taken) == math.ceil(40 / wave_loop.turns_per_shard(shards, workers))


@given(st.integers(1, 500), st.integers(1, 16))
def test_shards_are_cut_no_further_than_keeps_workers_busy(shards, workers):
    def busy(turns_each):
        turns = turns_each * shards
        return turns / (workers * math.ceil(turns / workers))

    needed = wave_loop.turns_per_shard(shards, workers)
    assert busy(needed) >= wave_loop.BUSY_SHARE
    assert all(busy(fewer) < wave_loop.BUSY_SHARE for fewer in range(1, needed))


def test_a_mistake_in_training_is_never_taken_for_the_end_of_the_line(tmp_path, monkeypatch):
    def mistaken(*_):
        raise IndexError("of an order that is too short")

    monkeypatch.setattr(wave_loop, "_advance_shard", mistaken)
    one = Bench(tmp_path).fresh()
    with ThreadPoolExecutor(2) as pool, pytest.raises(IndexError, match="too short"):
        Workers(pool, 2).train(one, one.shards, 40)


@pytest.mark.slow
def test_a_stop_asked_for_when_every_lane_has_its_verdict_changes_nothing(tmp_path):
    evaluations = Bench(tmp_path).run().evaluation
    last = Bench(tmp_path)
    records = last.run(stop_after=evaluations).records
    assert all(record.status for record in records)
    assert not last.checkpoint.path.exists()


def test_stopped_workers_train_no_further(tmp_path):
    one = Bench(tmp_path).fresh()
    with Workers.started(2) as workers:
        workers.stop.set()
        with pytest.raises(InterruptedError):
            workers.train(one, one.shards, 40)


def searching(folder, **changes):
    """Lanes that differ in momentum alone, one of them far too slow."""
    momenta = [Point(0.0005, (("momentum", momentum),)) for momentum in (0.0, 0.5, 0.99)]
    settings = [Setting("search", 10, point) for point in momenta]
    return Bench(folder, settings=settings, shapes=((2, 3),), searched=("momentum",), **changes)


def test_options_race_against_each_other_at_the_same_rate(tmp_path):
    status = {record.setting.point.options[0][1]: record.status for record in searching(tmp_path).run().records}
    assert (status[0.0], status[0.99]) == ("stopped", "ok")


def test_lanes_with_searched_options_continue_as_if_never_stopped(tmp_path):
    whole = searching(tmp_path / "whole").run()
    for stop_after in (1, 3):
        with pytest.raises(Stopped):
            searching(tmp_path / "stopped").run(stop_after)
        (tmp_path / "stopped" / "checkpoint").stat()
        assert by_lane(searching(tmp_path / "stopped").run().records) == by_lane(whole.records)
