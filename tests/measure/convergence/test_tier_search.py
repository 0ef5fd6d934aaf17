"""Search, extend, confirm: which trials are run, on which seeds, and the same ones after any interruption."""

import msgspec
import pytest
from batchscale.config import plan
from batchscale.config.vocabulary import Point
from batchscale.errors import InputError
from batchscale.measure.control.progress import BEYOND_BUDGET
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence.stage import Convergence
from batchscale.records.results_folder import CONVERGENCE
from batchscale.records.row_types import TrialKey
from fake_training import best_at, study
from long_proofs import long_unless
from tiny_workload import experiment, session, trials


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


def test_the_time_left_leaves_out_the_trials_at_the_fixed_rate_that_are_done(tmp_path, monkeypatch):
    found = study(tmp_path, monkeypatch, best_at(0.01), learning_rate={"fixed": 0.02})
    lines = (tmp_path / CONVERGENCE).read_bytes().splitlines(keepends=True)
    planned = []
    for left_out in ({"confirm"}, {"confirm", "fixed"}):
        kept = [line for line in lines if msgspec.json.decode(line).get("phase") not in left_out]
        (tmp_path / CONVERGENCE).write_bytes(b"".join(kept))
        stage = Convergence(session(tmp_path, learning_rate={"fixed": 0.02}))
        stage.plan()
        items = stage.session.progress.items
        planned.append(sum(item.expected for (_, name), item in items.items() if name.startswith("confirm")))
    fixed = sum(key.phase == "fixed" for key in found)
    assert planned[1] - planned[0] == pytest.approx(BEYOND_BUDGET * fixed * stage.session.duration.budget_examples)


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
    stage = Convergence(made)
    one = Point(0.01, (("momentum", 0.0),))
    (size, found), *others = stage.training.rivals({TrialKey("search", 10, one, seed) for seed in (1, 2)}).items()
    assert (size, others) == (10, [])
    assert set(found) == set(plan.points(made.experiment, 10)) - {one}
    assert {len(curves) for curves in found.values()} == {2}, "one for each search seed"
    (size, found), *_ = stage.training.rivals({TrialKey("search", 10, one, 2)}).items()
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


@pytest.mark.parametrize("best", long_unless([0.2], [0.011, 0.2]))
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
