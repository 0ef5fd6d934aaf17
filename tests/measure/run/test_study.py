"""Studies with looks: seeds and rounds go where the answer is undecided; interruptions repeat the decisions."""

import msgspec
import pytest
from batchscale.config import plan
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.run import suite
from batchscale.measure.run.study import LATER, Study, shown
from batchscale.measure.throughput.stage import Throughput
from batchscale.records import results_folder
from batchscale.records.row_types import Round, Stage, Trial
from batchscale.records.taken_trials import Source
from simulated_study import TABLES, Pretence, looked, looks_of, rows_of
from tiny_workload import session

VALLEY = {4: -2.5, 8: -2.9, 16: -3.4, 32: -3.3, 64: -2.8}
FLAT = dict.fromkeys((4, 8, 16, 32, 64), -3.4)
CLOSE = {4: -2.5, 8: -3.35, 16: -3.4, 32: -3.35, 64: -2.8}


def sizes(arms):
    return [arm.batch_size for arm in arms]


def seeds_by_size(folder):
    found = {}
    for trial in rows_of(folder, Trial):
        if trial.phase == "confirm":
            found.setdefault(trial.batch_size, set()).add(trial.seed - plan.FIRST_CONFIRMATION_SEED)
    return found


def known_of(folder):
    """Return the rows of both files without what differs between runs."""
    kept = []
    for row in [*rows_of(folder, object), *rows_of(folder, object, results_folder.THROUGHPUT)]:
        if not isinstance(row, Stage):
            plain = msgspec.to_builtins(row)
            del plain["recorded"], plain["code"], plain["dirty"]
            kept.append(plain)
    return sorted(kept, key=msgspec.json.encode)


def test_batch_sizes_that_lost_get_no_more_seeds_and_no_more_rounds(tmp_path, monkeypatch):
    Pretence(monkeypatch, CLOSE, seed_spread=0.1)
    looked(tmp_path)
    opening, first, *_, last = looks_of(tmp_path)
    assert (opening.number, opening.alpha, opening.next_seeds) == (0, 0.0, 3)
    assert sizes(opening.added) == sorted(CLOSE)
    assert {4, 64} <= set(sizes(first.out))
    assert (first.seeds, first.alpha) == (3, 0.004)
    assert 16 not in {size for look in looks_of(tmp_path) for size in sizes(look.out)}
    trained = seeds_by_size(tmp_path)
    assert trained[4] == trained[64] == {0, 1, 2}
    assert trained[16] == set(range(last.seeds))
    assert last.seeds > 3
    later = {row.batch_size for row in rows_of(tmp_path, Round, results_folder.THROUGHPUT) if row.block}
    assert later == set(sizes(first.compared)) - set(sizes(first.out))


def test_a_study_ends_early_where_the_answer_suffices_and_says_why(tmp_path, monkeypatch):
    Pretence(monkeypatch, VALLEY, seed_spread=0.01)
    looked(tmp_path)
    last = looks_of(tmp_path)[-1]
    assert last.number == 1
    assert last.stop in ("one left", "within an octave", "within the tolerance")
    assert last.left > 0


def test_only_the_first_three_seeds_run_the_whole_budget(tmp_path, monkeypatch):
    Pretence(monkeypatch, FLAT, seed_spread=0.1)
    made = looked(tmp_path)
    budget = made.duration.budget_examples
    for trial in rows_of(tmp_path, Trial):
        if trial.phase == "confirm" and trial.seed < plan.FIRST_CONFIRMATION_SEED + 3:
            assert trial.curve.examples[-1] >= budget
        elif trial.phase == "confirm":
            assert (trial.ended, trial.status) == ("past_target", "ok")
            assert trial.curve.examples[-1] < 1.5 * budget


def test_no_more_is_spent_than_the_budget_allows(tmp_path, monkeypatch):
    Pretence(monkeypatch, FLAT, seed_spread=0.3)
    made = looked(tmp_path, seeds={"search": 1, "confirm": 4}, confirm={"looks": [3, 6, 96]})
    last = looks_of(tmp_path)[-1]
    assert last.stop == "budget"
    allowed = 4 * 5 * made.duration.budget_examples
    assert 0.9 * allowed < last.spent < 1.1 * allowed, "the last seeds are planned by what earlier ones took"
    assert last.left == max(0, allowed - last.spent)
    runs = [one for one in rows_of(tmp_path, Trial) if one.phase == "confirm"]
    first = [one for one in runs if one.seed < plan.FIRST_CONFIRMATION_SEED + 3]
    beyond = sum(one.curve.examples[-1] - made.duration.budget_examples for one in first)
    assert last.spent == sum(one.curve.examples[-1] for one in runs) - beyond, "a first seed counts as one budget"


@pytest.mark.slow
@pytest.mark.parametrize("every", [40, 90])
def test_a_study_interrupted_again_and_again_ends_with_the_same_rows(tmp_path, monkeypatch, every):
    Pretence(monkeypatch, CLOSE, seed_spread=0.1)
    looked(tmp_path / "whole")
    pretence, runs = Pretence(monkeypatch, CLOSE, seed_spread=0.1), 0
    while True:
        pretence.written, pretence.stop_after, runs = 0, every, runs + 1
        try:
            looked(tmp_path / "parts")
            break
        except Stopped:
            continue
    assert runs > 1
    assert known_of(tmp_path / "parts") == known_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_finished_study_adds_nothing(tmp_path, monkeypatch):
    Pretence(monkeypatch, CLOSE, seed_spread=0.1)
    looked(tmp_path)
    files = [tmp_path / name for name in (results_folder.CONVERGENCE, results_folder.THROUGHPUT)]
    before = [file.read_bytes() for file in files]
    looked(tmp_path)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.slow
def test_a_larger_budget_goes_on_where_the_smaller_one_ended(tmp_path, monkeypatch):
    Pretence(monkeypatch, FLAT, seed_spread=0.3)
    looked(tmp_path, seeds={"search": 1, "confirm": 4})
    ended = looks_of(tmp_path)[-1]
    assert ended.stop == "budget"
    looked(tmp_path, seeds={"search": 1, "confirm": 40})
    looks = looks_of(tmp_path)
    again = looks[looks.index(ended) + 1]
    assert (again.number, again.alpha, again.compared) == (ended.number, 0.0, []), "the same look spends no more error"
    assert looks[-1].seeds > ended.seeds
    assert sum(look.alpha for look in looks) <= 0.05


@pytest.mark.slow
def test_batch_sizes_that_are_added_to_the_experiment_join_with_as_many_seeds(tmp_path, monkeypatch):
    Pretence(monkeypatch, FLAT, seed_spread=0.1)
    few = {"batch_sizes": {"values": [4, 8, 16]}}
    looked(tmp_path, **few)
    held = max(map(len, seeds_by_size(tmp_path).values()))
    looked(tmp_path)
    assert [32, 64] in [sizes(look.added) for look in looks_of(tmp_path)]
    assert len(seeds_by_size(tmp_path)[64]) >= held


@pytest.mark.slow
def test_batch_sizes_between_distant_ones_join_with_the_rate_of_the_surface(tmp_path, monkeypatch):
    distant = {"batch_sizes": {"values": [4, 16, 64]}}
    Pretence(monkeypatch, {4: -3.0, 16: -3.4, 64: -3.1}, seed_spread=0.1)
    looked(tmp_path, **distant)
    added = [arm for look in looks_of(tmp_path)[1:] for arm in look.added]
    assert {arm.batch_size for arm in added} == {8, 32}
    assert all(arm.learning_rate == pytest.approx(0.01, rel=0.3) for arm in added)
    trained = seeds_by_size(tmp_path)
    assert {0, 1, 2} <= trained[8] <= trained[16]
    timed = {row.batch_size for row in rows_of(tmp_path, Round, results_folder.THROUGHPUT)}
    assert {8, 32} <= timed


@pytest.mark.slow
def test_without_timings_every_batch_size_gets_the_same_seeds_and_the_looks_follow_later(tmp_path, monkeypatch):
    Pretence(monkeypatch, CLOSE, seed_spread=0.1)
    looked(tmp_path, times=False)
    assert [look.number for look in looks_of(tmp_path)] == [0]
    assert set(map(len, seeds_by_size(tmp_path).values())) == {8}
    looked(tmp_path)
    assert looks_of(tmp_path)[-1].number >= 1


def test_the_stages_of_a_study_with_looks_are_one(tmp_path):
    with_looks, without = session(tmp_path, **TABLES), session(tmp_path)
    assert [type(one) for one in suite.planned_stages(with_looks, ["throughput", "convergence"])] == [Study]
    assert [type(one) for one in suite.planned_stages(with_looks, ["throughput"])] == [Throughput]
    assert [type(one) for one in suite.planned_stages(without, ["throughput", "convergence"])] == [
        Throughput,
        Convergence,
    ]


def test_the_progress_line_plans_the_worst_case_and_gives_back_what_is_saved(tmp_path, monkeypatch):
    Pretence(monkeypatch, VALLEY, seed_spread=0.01)
    made = session(tmp_path, **TABLES)
    made.prepare_folder()
    study = Study(made, times=True)
    study.plan()
    item = made.progress.items["", LATER]
    assert item.expected >= study.budget
    study.run()
    assert item.closed
    assert made.progress.note == ""


def test_batch_sizes_are_shown_in_few_words():
    assert shown([]) == ""
    assert shown([8, 16]) == "8, 16"
    assert shown([4, 8, 16, 32, 64]) == "4 to 64 (5)"


@pytest.mark.slow
@pytest.mark.parametrize("slower", [{}, {16: 2.0, 32: 2.0, 64: 4.0}])
@pytest.mark.parametrize(
    ("table", "spread", "tables"),
    [
        (FLAT, 0.3, {"seeds": {"search": 1, "confirm": 4}, "confirm": {"looks": [3, 6, 96]}}),
        ({4: -3.0, 16: -3.4, 64: -3.1}, 0.1, {"seeds": {"search": 1, "confirm": 6}}),
        (CLOSE, 0.1, {}),
    ],
)
def test_a_continued_study_looks_as_one_that_trained_everything_here(
    tmp_path, monkeypatch, table, spread, tables, slower
):
    tables = {"batch_sizes": {"values": sorted(table)}, **tables}
    Pretence(monkeypatch, table, seed_spread=spread)
    made = looked(tmp_path / "there", **tables)
    results_folder.prepare(tmp_path / "continued", made.experiment, made.host.machine, {})
    Source(tmp_path / "there", continues=True).take(tmp_path / "continued")
    for name in ("continued", "alone"):
        Pretence(monkeypatch, table, seed_spread=spread, slower=slower)
        looked(tmp_path / name, **tables)
    continued, alone = (
        [row for row in known_of(tmp_path / name) if row["kind"] == "look"] for name in ("continued", "alone")
    )
    assert continued == alone
    every = {trial.key for trial in rows_of(tmp_path / "continued", Trial)}
    assert every == {trial.key for name in ("there", "alone") for trial in rows_of(tmp_path / name, Trial)}
