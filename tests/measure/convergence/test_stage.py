"""A whole small study, really trained: its compilations, its rows, and its repetition after an interruption."""

import io
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from batchscale.config import plan
from batchscale.decisions import rate_choice
from batchscale.errors import InputError
from batchscale.measure.control.progress import Progress
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence import tiers, wave_loop
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.convergence.tiers import LanePrograms
from batchscale.measure.device.compiled_programs import TuningFile
from batchscale.records import results_folder, row_files
from batchscale.records.row_types import Stage, Trial
from long_proofs import long_unless
from tiny_workload import session, trials


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A finished convergence stage on one worker."""
    stage = Convergence(session(tmp_path_factory.mktemp("studied")))
    stage.run()
    return stage


def begun(folder, studied, check=None):
    """The stage in another folder, with the programs of a finished one."""
    stage = Convergence(session(folder))
    stage.training.programs.programs = studied.training.programs.programs
    if check is not None:
        stage.session.stopper.check = check
    return stage


def rows_of(folder, kind):
    return [row for row in row_files.read(folder / results_folder.CONVERGENCE) if isinstance(row, kind)]


def test_a_tier_compiles_at_most_three_training_programs(studied):
    (stage,) = rows_of(studied.session.folder, Stage)
    assert len(studied.tiers) <= stage.compilations <= 3 * len(studied.tiers)
    assert stage.compilations == sum(one.compilations for one in studied.training.programs.programs.values())
    assert stage.trained_examples > 0


def test_trials_say_of_how_many_examples_their_accuracies_are_shares(studied):
    for trial in rows_of(studied.session.folder, Trial):
        assert trial.validation_examples == len(studied.session.dataset.validation.labels)
        counts = np.array(trial.curve.scores["accuracy"]) * trial.validation_examples
        np.testing.assert_allclose(counts, counts.round(), atol=1e-9)


@pytest.mark.slow
def test_programs_of_a_lowering_that_lost_its_trial_are_counted_as_well(tmp_path):
    tables = {"seeds": {"search": 1, "confirm": 1}, "learning_rate": {"span": 0, "extend": 0}}
    made = Convergence(session(tmp_path, **tables))
    made.training.programs.programs[10, 10, "lost"] = SimpleNamespace(compilations=100)
    made.run()
    (stage,) = rows_of(tmp_path, Stage)
    assert 100 < stage.compilations <= 100 + 3 * len(made.tiers)


def test_a_stop_is_heard_before_each_trial_of_speed(tmp_path, monkeypatch):
    made = session(tmp_path)
    made.tuning, made.stopper.requested = TuningFile(tmp_path / "untried", made.lowerings), True
    monkeypatch.setattr(tiers.SpeedTrial, "examples_per_second", lambda _: pytest.fail("measured"))
    with pytest.raises(Stopped):
        Convergence(made).plan()


def test_every_claim_rests_on_confirmation_trials_of_the_chosen_rates(studied):
    found = rows_of(studied.session.folder, Trial)
    for size in (10, 50):
        search = [row for row in found if row.phase == "search" and row.batch_size == size]
        confirm = [row for row in found if row.phase == "confirm" and row.batch_size == size]
        chosen = rate_choice.choose(search, studied.session.experiment.goal, studied.session.duration.budget_examples)
        assert {row.point for row in confirm} == set(chosen.points)
        assert Counter(row.seed for row in confirm) == dict.fromkeys(
            plan.confirmation_seeds(studied.session.experiment), len(chosen.points)
        )
        assert all(row.status == "ok" and row.test_scores["accuracy"] is not None for row in confirm)


def test_curves_count_examples_and_steps_on_the_same_cadence(studied):
    for row in rows_of(studied.session.folder, Trial):
        assert all(at == step * row.batch_size for at, step in zip(row.curve.examples, row.curve.steps, strict=True))
        assert row.steps == row.curve.steps[-1]
        assert set(row.curve.examples) <= {
            point // row.batch_size * row.batch_size for point in studied.session.duration.evaluations
        }


def test_a_second_run_measures_nothing(studied, monkeypatch):
    before = (studied.session.folder / results_folder.CONVERGENCE).read_bytes()
    monkeypatch.setattr(wave_loop, "run", lambda *_: pytest.fail("something was trained again"))
    again = Convergence(session(studied.session.folder))
    again.plan()
    again.run()
    assert (studied.session.folder / results_folder.CONVERGENCE).read_bytes() == before


@pytest.mark.parametrize("stop_at", long_unless([7], [5, 7]))
def test_a_study_stopped_in_mid_training_and_resumed_is_the_uninterrupted_one_bit_for_bit(tmp_path, studied, stop_at):
    calls = Counter()

    def check():
        calls["check"] += 1
        if calls["check"] == stop_at:
            raise Stopped

    with pytest.raises(Stopped):
        begun(tmp_path, studied, check).run()
    assert (tmp_path / "checkpoint").exists()
    begun(tmp_path, studied).run()
    assert trials(tmp_path) == trials(studied.session.folder)
    assert not (tmp_path / "checkpoint").exists()


def test_every_run_of_a_stage_has_its_cost_and_the_last_says_that_it_finished(tmp_path, studied):
    (whole,) = rows_of(studied.session.folder, Stage)
    checks = Counter()

    def check():
        checks["asked"] += 1
        if checks["asked"] == 5:
            raise Stopped

    for _ in range(3):
        with suppress(Stopped):
            begun(tmp_path, studied, check).run()
    stopped, resumed = rows_of(tmp_path, Stage)
    assert (whole.finished, stopped.finished, resumed.finished) == (True, False, True)
    assert stopped.trained_examples > 0
    assert stopped.trained_examples + resumed.trained_examples == whole.trained_examples


def test_a_stage_with_nothing_left_to_do_is_finished_by_the_next_run(tmp_path, studied):
    shutil.copytree(studied.session.folder, tmp_path, dirs_exist_ok=True)
    rows = [row for row in row_files.read(tmp_path / results_folder.CONVERGENCE) if not isinstance(row, Stage)]
    (tmp_path / results_folder.CONVERGENCE).write_bytes(b"".join(map(row_files.encode, rows)))
    for _ in range(2):
        Convergence(session(tmp_path)).run()
    (row,) = rows_of(tmp_path, Stage)
    assert (row.finished, row.trained_examples) == (True, 0)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_stage_that_had_finished_and_goes_on_has_the_cost_of_that_too(tmp_path, studied, stopped):
    shutil.copytree(studied.session.folder, tmp_path, dirs_exist_ok=True)
    rows = list(row_files.read(tmp_path / results_folder.CONVERGENCE))
    lost = next(row for row in rows if isinstance(row, Trial))
    (tmp_path / results_folder.CONVERGENCE).write_bytes(
        b"".join(row_files.encode(row) for row in rows if row is not lost)
    )

    def check():
        if stopped:
            raise Stopped

    with suppress(Stopped):
        begun(tmp_path, studied, check).run()
    before, after = rows_of(tmp_path, Stage)
    assert (before.finished, after.finished) == (True, not stopped)
    assert stopped or after.trained_examples > 0


@pytest.mark.slow
def test_a_clock_set_back_in_mid_study_changes_no_number_and_mixes_no_row(tmp_path, studied, monkeypatch):
    class Backwards(datetime):
        """A year earlier at every look."""

        year_now = 2026

        @classmethod
        def now(cls, tz=None):
            cls.year_now -= 1
            return datetime(cls.year_now, 1, 1, tzinfo=tz)

    monkeypatch.setattr("batchscale.measure.session.datetime", Backwards)
    begun(tmp_path, studied).run()
    recorded = [row.recorded for row in rows_of(tmp_path, Trial)]
    assert recorded == sorted(recorded, reverse=True)
    assert len(set(recorded)) == len(recorded)
    assert trials(tmp_path) == trials(studied.session.folder)
    assert [row.seconds >= 0 for row in rows_of(tmp_path, Stage)] == [True]


@pytest.mark.slow
def test_workers_and_microbatches_are_not_seen_beyond_rounding(tmp_path, studied, monkeypatch):
    made = Convergence(session(tmp_path, workers=2))
    usual = made.training.programs.tiers
    monkeypatch.setattr(LanePrograms, "tiers", property(lambda self: plan.tiers(self.session.batch_sizes, widest=5)))
    assert made.training.programs.tiers != usual
    made.run()
    expected = trials(studied.session.folder)
    for key, trial in trials(tmp_path).items():
        assert trial["curve"]["examples"] == expected[key]["curve"]["examples"]
        assert trial["curve"]["scores"]["accuracy"] == pytest.approx(
            expected[key]["curve"]["scores"]["accuracy"], abs=1.01 / 60
        )


def test_a_torn_last_line_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Convergence, "tiers", [])
    made = session(tmp_path)
    made.progress = Progress(output=io.StringIO())
    (tmp_path / results_folder.CONVERGENCE).write_bytes(b'{"kind":"trial"')
    Convergence(made).run()
    assert "its last line was torn and is now in convergence.torn" in made.progress.output.getvalue()


def test_two_runs_on_one_folder_are_refused(studied):
    with (
        row_files.Writer(studied.session.folder / results_folder.CONVERGENCE),
        pytest.raises(InputError, match="another run is writing"),
    ):
        Convergence(session(studied.session.folder)).run()


def test_an_accelerator_has_one_program_for_all_lanes_of_a_tier_and_evaluates_few_examples_of_many(tmp_path):
    def programs_on(platform, **tables):
        one = session(tmp_path, **tables)
        one.host = replace(one.host, machine=msgspec.structs.replace(one.host.machine, platform=platform))
        of = LanePrograms(one)
        (tier, *_) = of.tiers
        return of.shard_width(tier), of.of(tier, None).evaluation_batch_size

    assert programs_on("cpu") == (1, 500)
    assert programs_on("gpu") == (None, 500)
    width, at_once = programs_on("gpu", seeds={"search": 100, "confirm": 2})
    assert width is None
    assert 0 < at_once * 300 < 20_000
