"""What is read of a study with looks: the comparison of its last look, why it ended, and only whole runs' scores."""

import shutil
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from batchscale.analysis import number_format
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import report
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.text import answer, method
from batchscale.config import plan
from batchscale.decisions import looks
from batchscale.decisions.looks import replay
from batchscale.records import results_folder, row_files
from batchscale.records.machine_file import TrainedOn
from batchscale.records.row_types import Look, Trial
from batchscale.statistics.looks import ALPHAS
from simulated_study import Pretence, looked, looks_of, rows_of

CLOSE = {4: -2.5, 8: -3.35, 16: -3.4, 32: -3.35, 64: -2.8}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study that ended after several looks, and what each of them found."""
    made, found = tmp_path_factory.mktemp("looked"), []
    with pytest.MonkeyPatch.context() as patch:
        Pretence(patch, CLOSE, seed_spread=0.1)
        decide = looks.decide
        patch.setattr(looks, "decide", lambda *args: found.append(decide(*args)) or found[-1])
        looked(made)
    return made, found


@pytest.fixture(scope="module")
def folder(study):
    return study[0]


def sizes(arms):
    return {arm.batch_size for arm in arms}


def until(folder, number, copy):
    """Copy a folder as it was right after a look."""
    for name in ("experiment.toml", "machine.json", results_folder.THROUGHPUT):
        (copy / name).write_bytes((folder / name).read_bytes())
    with (copy / results_folder.CONVERGENCE).open("wb") as file:
        for row in rows_of(folder, object):
            file.write(msgspec.json.encode(row) + b"\n")
            if isinstance(row, Look) and row.number == number:
                return copy
    raise AssertionError(f"no look {number}")


def test_reading_repeats_the_comparison_of_the_last_look(folder):
    of, last = Sweep.of(frames.load(folder)), looks_of(folder)[-1]
    assert last.number > 1
    assert of.comparison.alpha == last.alpha
    assert of.tied_in_time == sizes(last.compared) - sizes(last.out)
    gone = {size for look in looks_of(folder) for size in sizes(look.out)}
    assert all(np.isinf(of.comparison.bounds[at]) for at, arm in enumerate(of.arms) if arm.batch_size in gone)
    found = summarize(of)
    assert found.time_optimal.recommended.bound == pytest.approx(np.expm1(min(of.comparison.bounds)), rel=1e-9)
    assert [(one.number, one.seeds, one.alpha) for one in found.looks.made] == [
        (one.number, one.seeds, one.alpha) for one in looks_of(folder) if one.alpha
    ]


def test_the_page_repeats_the_last_look_although_other_rates_were_confirmed_as_well(study, tmp_path):
    folder, found = study
    shutil.copytree(folder, tmp_path / "more")
    with row_files.Writer(tmp_path / "more" / results_folder.CONVERGENCE) as rows:
        for trial in rows_of(folder, Trial):
            if trial.phase == "confirm" and trial.batch_size != 16:
                rows.append(msgspec.structs.replace(trial, learning_rate=2 * trial.learning_rate))
    of, last = Sweep.of(frames.load(tmp_path / "more")), found[-1].comparison
    joined = replay(looks_of(folder)).arms
    assert len(of.arms) == 2 * len(joined) - 1
    places = [[arm.key for arm in of.arms].index((arm.batch_size, arm.point)) for arm in joined]
    bounds = np.where(found[-1].out, np.inf, last.bounds)
    np.testing.assert_allclose(of.comparison.bounds[places], bounds, rtol=1e-9)
    np.testing.assert_allclose(of.comparison.centres[places], last.centres, rtol=1e-9)
    assert of.comparison.critical == pytest.approx(last.critical, rel=1e-9)


def test_a_study_that_goes_on_is_read_with_the_error_of_the_look_that_follows(folder, tmp_path):
    of = Sweep.of(frames.load(until(folder, 1, tmp_path)))
    first = next(one for one in looks_of(folder) if one.number == 1)
    assert of.comparison.alpha == pytest.approx(ALPHAS[1])
    assert of.tied_in_time <= sizes(first.compared) - sizes(first.out)
    assert "The study has not ended" in answer.answer(summarize(of))[0]


def test_another_target_is_compared_among_all_with_no_more_error_than_the_last_look_had(folder):
    of = Sweep.of(frames.load(folder))
    other = of.towards(of.target - 0.05)
    assert other.comparison.alpha == of.comparison.alpha
    assert {size for size, among in zip(other._arm_sizes, other.comparison.among, strict=True) if among} == set(CLOSE)


def test_a_harder_target_is_judged_by_the_runs_that_trained_the_whole_budget(folder):
    of = Sweep.of(frames.load(folder))
    harder = of.towards(of.target + 0.05)
    assert len(harder.claims[16].for_target) == plan.WHOLE_BUDGET_SEEDS < len(of.claims[16].for_target)


def test_the_page_says_why_a_study_ended_and_lists_its_looks(folder):
    of = Sweep.of(frames.load(folder))
    found = summarize(of)
    assert f"The study ended after look {found.looks.made[-1].number}" in answer.answer(found)[0]
    assert len(report.looks(found).rows) == len(found.looks.made)
    spent = sum(one.alpha for one in found.looks.made)
    assert f"these sum to {number_format.percent(spent)}, and never to more" in " ".join(method.paragraphs(of, found))
    assert found.time_optimal.recommended.seconds_of_doubling["blocks"] > 0


@pytest.mark.parametrize(
    ("stop", "says"),
    [("one left", "one batch size is left"), ("within the tolerance", "at most 5% slower"), ("budget", "may spend")],
)
def test_each_stop_is_said_in_words(folder, stop, says):
    found = summarize(Sweep.of(frames.load(folder)))
    changed = msgspec.structs.replace(found, looks=msgspec.structs.replace(found.looks, stop=stop))
    assert says in answer.answer(changed)[0]


def test_scores_rest_on_the_runs_that_trained_the_whole_budget(folder):
    of = Sweep.of(frames.load(folder))
    whole = {plan.FIRST_CONFIRMATION_SEED + seed for seed in range(plan.WHOLE_BUDGET_SEEDS)}
    assert len(of.claims[16].for_target) > len(whole)
    assert set(of.claims[16].for_score["seed"]) == whole


def test_all_arms_are_compared_where_the_looks_of_another_machine_chose_their_seeds(folder):
    own = frames.load(folder)
    before = TrainedOn(machine=own.machine.machine, trials=1)
    continued = Sweep.of(replace(own, machine=msgspec.structs.replace(own.machine, trained_on=[before])))
    assert not Sweep.of(own).comparison.among.all()
    assert continued.comparison.among.all()
