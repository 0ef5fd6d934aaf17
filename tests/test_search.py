"""Search, extend, confirm: which trials are run, on which seeds, and the same ones after any interruption.

Curves here are pretended: `worth` says which rate is best, so the truth is known.
"""

import math

import jax
import pytest
from workbench import experiment, session, trials

from bench import plan, store
from bench.errors import DeviceError, InputError
from bench.measure import convergence, runner, wave
from bench.measure.host import Host
from bench.measure.interrupts import Stopped
from bench.measure.lanes import Lanes, Programs
from bench.measure.learner import TrainState
from bench.measure.shapes import LARGEST_SHARE_OF_MEMORY, SHARE_OF_LANES
from bench.measure.tuning import TuningFile
from bench.rows import Curve, Point, Trial


def pretend(worth, stop_after=None, trained=None):
    """A `convergence.run` that trains nothing: a rate reaches the target the sooner, the higher its worth in (0, 1].

    `trained` gets the records of all lanes that a real one would have trained.
    """
    told = 0

    def run(wave, reporter):
        nonlocal told
        if trained is not None:
            trained.extend(wave.records)
        for record in wave.records:
            value = worth(record.setting.batch_size, record.setting.point) * (1 - 0.001 * (record.seed % 10))
            first = math.ceil(100 / value)
            points = [first - 1, first]
            record.curve = Curve(examples=points, steps=points, accuracy=[0.1, 0.75 + value / 10], loss=[1.0, 1.0])
            record.finish("ok")
            if told == stop_after:
                raise Stopped
            told += 1
            reporter.finished(record)

    return run


def best_at(rate):
    """A worth whose logarithmic peak is at the effective `rate` for every batch size."""
    return lambda _, point: math.exp(-abs(math.log(plan.effective_rate(point) / rate)))


def study(folder, monkeypatch, worth, stop_after=None, trained=None, **tables):
    monkeypatch.setattr(convergence, "run", pretend(worth, stop_after, trained))
    monkeypatch.setattr(Programs, "fit", lambda _, shape, *given: shape)
    monkeypatch.setattr(wave, "first_lanes", lambda *_: Lanes(TrainState((), ()), ()))
    made = session(folder, **tables)
    made.prepare_folder()
    runner.measure_convergence(made)
    return trials(folder)


def rates(found, phase, batch_size=10):
    return sorted({key.point.learning_rate for key in found if key.phase == phase and key.batch_size == batch_size})


def test_a_best_rate_inside_the_grid_extends_nothing(tmp_path, monkeypatch):
    found = study(tmp_path, monkeypatch, best_at(0.011))
    assert rates(found, "search") == [0.0025, 0.01, 0.04]
    assert rates(found, "confirm") == [0.01]


@pytest.mark.parametrize(("best", "beyond"), [(0.03, [0.16]), (0.12, [0.16, 0.64]), (100.0, [0.16, 0.64])])
def test_a_best_rate_at_the_edge_extends_the_grid_as_far_as_the_experiment_allows(tmp_path, monkeypatch, best, beyond):
    searched = rates(study(tmp_path, monkeypatch, best_at(best)), "search")
    assert searched[:3] == [0.0025, 0.01, 0.04]
    assert searched[3:] == beyond


def test_the_grid_extends_downwards_and_only_where_it_must(tmp_path, monkeypatch):
    def worth(batch_size, point):
        return best_at(0.0001 if batch_size == 10 else 0.0224)(batch_size, point)

    found = study(tmp_path, monkeypatch, worth)
    assert rates(found, "search") == [0.00015625, 0.000625, 0.0025, 0.01, 0.04]
    assert len(rates(found, "search", 50)) == 3


def test_no_extension_where_none_is_wanted(tmp_path, monkeypatch):
    assert len(rates(study(tmp_path, monkeypatch, best_at(9), learning_rate={"extend": 0}), "search")) == 3


def test_claims_rest_on_seeds_that_chose_nothing(tmp_path, monkeypatch):
    found = study(tmp_path, monkeypatch, best_at(0.01), learning_rate={"fixed": 0.02})
    seeds = {phase: {key.seed for key in found if key.phase == phase} for phase in ("search", "confirm", "fixed")}
    assert not seeds["search"] & seeds["confirm"]
    assert not seeds["search"] & seeds["fixed"]
    assert rates(found, "fixed") == [0.02]
    most = experiment(seeds={"search": plan.FIRST_CONFIRMATION_SEED - 1, "confirm": 1000})
    assert not set(plan.search_seeds(most)) & set(plan.confirmation_seeds(most))


def with_momentum(best):
    """A worth that peaks at one momentum."""

    def worth(_, point):
        momentum = dict(point.options)["momentum"]
        return best_at(0.011)(_, point) * (1.0 if momentum == best else 0.1)

    return worth


def test_options_are_tried_at_every_rate_and_claims_rest_on_the_best_of_them(tmp_path, monkeypatch):
    options, fixed = {"momentum": [0.5, 0.0]}, {"fixed": 0.02}
    found = study(tmp_path, monkeypatch, with_momentum(0.5), search=options, learning_rate=fixed)
    tried = [key.point for key in found if (key.phase, key.batch_size, key.seed) == ("search", 10, 1)]
    assert sorted(tried) == sorted(
        Point(rate * (1 - momentum), (("momentum", momentum),))
        for rate in (0.0025, 0.01, 0.04)
        for momentum in (0.0, 0.5)
    )
    confirmed = {key.point for key in found if (key.phase, key.batch_size) == ("confirm", 10)}
    assert confirmed == {Point(0.005, (("momentum", 0.5),))}
    assert {key.point for key in found if key.phase == "fixed"} == {Point(0.02, (("momentum", 0.9),))}, (
        "the optimizer's own"
    )


def test_a_grid_extends_with_the_options_that_are_best_at_its_edge(tmp_path, monkeypatch):
    def worth(_, point):
        return best_at(100.0)(_, point) * (1.0 if point.options == (("momentum", 0.5),) else 0.001)

    found = study(tmp_path, monkeypatch, worth, search={"momentum": [0.0, 0.5]})
    searched = {key.point for key in found if key.phase == "search" and key.batch_size == 10}
    by_momentum = {
        momentum: sorted(point.learning_rate for point in searched if point.options == (("momentum", momentum),))
        for momentum in (0.0, 0.5)
    }
    assert by_momentum == {0.0: [0.0025, 0.01, 0.04], 0.5: [0.00125, 0.005, 0.02, 0.08, 0.32]}


def test_a_wave_races_against_all_other_points_and_none_is_taken_for_another(tmp_path, monkeypatch):
    momenta = {"momentum": [0.0, 0.5]}
    study(tmp_path, monkeypatch, with_momentum(0.5), search=momenta)
    made = session(tmp_path, search=momenta)
    tier, *_ = runner.tier_studies(made, runner.make_study(made, pytest.fail))
    one = Point(0.01, (("momentum", 0.0),))
    (size, found), *others = tier.study.rivals({(wave.Setting("search", 10, one), seed) for seed in (1, 2)}).items()
    assert (size, others) == (10, [])
    assert set(found) == set(plan.points(made.experiment, 10)) - {one}
    assert {len(curves) for curves in found.values()} == {2}, "one for each search seed"
    (size, found), *_ = tier.study.rivals({(wave.Setting("search", 10, one), 2)}).items()
    assert len(found[one]) == 1, "the seed that is not trained again"


def test_more_values_later_train_only_the_trials_they_add(tmp_path, monkeypatch):
    before = study(tmp_path, monkeypatch, with_momentum(0.5), search={"momentum": [0.0, 0.5]})
    trained, more = [], {"momentum": [0.0, 0.5, 0.9]}
    after = study(tmp_path, monkeypatch, with_momentum(0.5), trained=trained, search=more)
    assert before.items() <= after.items()
    assert len(after) - len(before) == len(trained) == 2 * 2 * 3, "batch sizes, search seeds and rates"


def test_other_options_than_those_searched_before_are_another_protocol(tmp_path, monkeypatch):
    study(tmp_path, monkeypatch, best_at(0.01))
    with pytest.raises(InputError, match=r"another protocol \(search: None there, \['momentum'\] here\)"):
        study(tmp_path, monkeypatch, with_momentum(0.5), search={"momentum": [0.0, 0.5]})


def test_more_seeds_later_train_only_the_trials_they_add(tmp_path, monkeypatch):
    before = study(tmp_path, monkeypatch, best_at(0.011))
    trained = []
    after = study(tmp_path, monkeypatch, best_at(0.011), trained=trained, seeds={"confirm": 4})
    assert before.items() <= after.items()
    assert len(after) - len(before) == len(trained) == 2 * 2


@pytest.mark.parametrize("best", [0.011, 0.2])
def test_a_study_stopped_after_any_row_ends_with_the_trials_of_an_uninterrupted_one(tmp_path, monkeypatch, best):
    worth = best_at(best)
    whole = study(tmp_path / "whole", monkeypatch, worth)
    for stop_after in range(len(whole)):
        folder = tmp_path / str(stop_after)
        with pytest.raises(Stopped):
            study(folder, monkeypatch, worth, stop_after)
        assert len(trials(folder)) == stop_after
        assert study(folder, monkeypatch, worth) == whole


def test_a_finished_study_trains_and_writes_nothing(tmp_path, monkeypatch):
    study(tmp_path, monkeypatch, best_at(0.2))
    before = (tmp_path / "convergence.jsonl").read_bytes()
    study(tmp_path, monkeypatch, best_at(0.2), stop_after=0)
    assert (tmp_path / "convergence.jsonl").read_bytes() == before


def hold(lanes, monkeypatch):
    """As on a device whose memory holds so many lanes."""
    monkeypatch.setattr(Programs, "lane_bytes", int((1 << 30) * LARGEST_SHARE_OF_MEMORY * SHARE_OF_LANES / lanes))
    monkeypatch.setattr(Host, "free_memory_bytes", lambda _: 3 << 29)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_lanes_that_are_too_many_for_memory_train_one_wave_after_another(tmp_path, monkeypatch, most):
    whole = study(tmp_path / "whole", monkeypatch, best_at(0.01))
    sizes, start = [], wave.start

    def started(*given):
        made = start(*given)
        sizes.append(len(made.records))
        return made

    monkeypatch.setattr(wave, "start", started)
    hold(most, monkeypatch)
    assert study(tmp_path / "parts", monkeypatch, best_at(0.01)) == whole
    assert sum(sizes) == len(whole)
    assert max(sizes) == (2 * (most // 2) or 1), "of two seeds"


def failing(of_phase, message, times=math.inf):
    """A `convergence.run` on a device that is lost in training waves of a phase, after one lane was finished."""
    left = times
    well = pretend(best_at(0.01))

    def run(lanes, reporter):
        nonlocal left
        if lanes.records[0].setting.phase != of_phase or left <= 0:
            return well(lanes, reporter)
        left -= 1
        first = lanes.records[0]
        first.curve = Curve(examples=[100], steps=[10], accuracy=[0.8], loss=[1.0])
        first.finish("ok")
        reporter.finished(first)
        raise jax.errors.JaxRuntimeError(message)

    return run


def unlucky(folder, monkeypatch, run, retries_failed=False, workers=1, **tables):
    monkeypatch.setattr(convergence, "run", run)
    monkeypatch.setattr(Programs, "fit", lambda _, shape, *given: shape)
    monkeypatch.setattr(wave, "first_lanes", lambda *_: Lanes(TrainState((), ()), ()))
    made = session(folder, workers, **tables)
    made.retries_failed = retries_failed
    made.prepare_folder()
    runner.measure_convergence(made)
    return [row for row in store.read(folder / "convergence.jsonl") if isinstance(row, Trial)]


TWO_TIERS = {"batch_sizes": {"values": [7, 50]}, "evaluation": {"first_epoch": 2}}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_device_lost_in_training_fails_the_trials_it_was_at_and_other_tiers_go_on(tmp_path, monkeypatch, workers):
    run = failing("search", "INTERNAL: device lost", times=1)
    rows = unlucky(tmp_path, monkeypatch, run, workers=workers, **TWO_TIERS)
    failed = [row for row in rows if row.status == "failed"]
    assert {(row.phase, row.batch_size, row.reason) for row in failed} == {("search", 7, "INTERNAL: device lost")}
    assert len(failed) == 2 * 3 - 1
    assert all(row.steps == 0 and row.curve.accuracy == [] for row in failed)
    assert {row.phase for row in rows if row.batch_size == 7} == {"search"}
    assert {row.phase for row in rows if row.batch_size == 50} == {"search", "confirm"}
    assert all(row.status == "ok" for row in rows if row.batch_size == 50)


def test_failed_trials_are_done_until_they_are_to_be_tried_again(tmp_path, monkeypatch):
    first = unlucky(tmp_path, monkeypatch, failing("confirm", "INTERNAL: device lost"))
    trained = failing("confirm", "trained again", times=0)
    assert len(unlucky(tmp_path, monkeypatch, lambda *_: pytest.fail("trained again"))) == len(first)
    rows = unlucky(tmp_path, monkeypatch, trained, retries_failed=True)
    failed = sum(row.status == "failed" for row in first)
    assert failed > 0
    assert len(rows) == len(first) + failed
    assert all(row.status == "ok" for row in rows[len(first) :])
    assert len(unlucky(tmp_path, monkeypatch, lambda *_: pytest.fail("trained again"))) == len(rows)


def test_a_wave_out_of_memory_leaves_the_others_of_its_grid_to_be_trained(tmp_path, monkeypatch):
    hold(2, monkeypatch)
    rows = unlucky(tmp_path, monkeypatch, failing("search", "RESOURCE_EXHAUSTED: out of memory", times=1))
    search = [row for row in rows if row.phase == "search"]
    assert [row.status for row in search].count("failed") == 1, "of two lanes, one was finished before"
    assert len(search) > 2
    failed_at = {row.batch_size for row in search if row.status == "failed"}
    assert {row.batch_size for row in rows if row.phase == "confirm"} == {10, 50} - failed_at


def test_the_third_wave_in_a_row_that_fails_stops_the_study(tmp_path, monkeypatch):
    tables = {"batch_sizes": {"values": [7, 11, 13, 50]}, "evaluation": {"first_epoch": 2}}
    with pytest.raises(DeviceError, match=r"3 failures in a row, the last at search .*device lost.*--retry-failed"):
        unlucky(tmp_path, monkeypatch, failing("search", "INTERNAL: device lost"), **tables)
    rows = [row for row in store.read(tmp_path / "convergence.jsonl") if isinstance(row, Trial)]
    assert len({row.batch_size for row in rows if row.status == "failed"}) == 3


def test_a_tier_whose_compilation_fails_becomes_rows(tmp_path, monkeypatch):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: cannot compile")

    monkeypatch.setattr(Programs, "program", refuse)
    made = session(tmp_path, seeds={"confirm": 1})
    monkeypatch.setattr(TuningFile, "get", lambda _, __, measure: measure())
    made.prepare_folder()
    runner.announce(made, ["convergence"])
    runner.measure_convergence(made)
    rows = [row for row in store.read(tmp_path / "convergence.jsonl") if isinstance(row, Trial)]
    assert {(row.status, row.reason) for row in rows} == {("failed", "INTERNAL: cannot compile")}
    assert {row.batch_size for row in rows} == {10, 50}
