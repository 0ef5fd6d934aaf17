"""The commands that measure, in one process: a tiny experiment is run, verified, joined and stopped."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sys

import msgspec
import pytest
import simulated_folder
from batchscale.analysis import figures
from batchscale.analysis.summary import build
from batchscale.cli import command_line, measuring
from batchscale.config import experiment as experiments
from batchscale.config.vocabulary import STAGES
from batchscale.measure.control import signals
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.convergence.tiers import LanePrograms
from batchscale.measure.data import datasets
from batchscale.measure.device import compiled_programs
from batchscale.measure.device.machine import Host
from batchscale.measure.run import suite, verify
from batchscale.measure.throughput import rounds
from batchscale.measure.training.learner import Learner
from batchscale.records import results_folder, row_files
from batchscale.records.row_types import Curve, Round, Stage, Trial, Verification
from long_proofs import long_unless
from sample_rows import ORIGIN
from tiny_workload import experiment, host, session, tiny_dataset

SWEEP = {
    "seeds": {"search": 1, "confirm": 2},
    "learning_rate": {"anchor": 0.02, "span": 0, "extend": 0},
    "search": {"momentum": [0.5, 0.8]},
    "budget": {"epochs": 4, "max_epochs": 20},
    "throughput": {"rounds": 5, "round_seconds": 0.001, "loops": ["dispatch", "scan"]},
}
EVALUATED_OFTEN = {
    "batch_sizes": {"values": [10, 20]},
    "seeds": {"search": 1, "confirm": 1},
    "budget": {"epochs": 6, "max_epochs": 6},
    "evaluation": {"first_epoch": 10, "per_epoch": 10},
}
WARMUP_EPOCHS = {"constant": 0, "warmup": 3, "warmup_cosine": 3, "linear_decay": 0}
"""By schedule."""


@pytest.fixture(scope="module", autouse=True)
def _a_corner_of_the_digits_on_a_tiny_machine(brief):
    corner = tiny_dataset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", lambda *_: corner)
        patch.setattr(Host, "describe", staticmethod(host))
        patch.setattr(figures, "PLOTS", figures.PLOTS[:1])
        yield


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "sweep.toml"
    path.write_bytes(results_folder.to_toml(msgspec.structs.replace(experiment(**SWEEP), name="sweep")))
    return str(path)


@pytest.fixture(scope="module")
def swept(sweep, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    assert command_line.run(["run", sweep, "--results", str(results), "--json"]) == 0
    return results / "sweep" / host().machine.name


@pytest.fixture(scope="module")
def retried(swept, tmp_path_factory):
    """The sweep with trials at the reported points lost before and after, and luck in what does not stand or failed."""
    folder = tmp_path_factory.mktemp("retried") / swept.name
    shutil.copytree(swept, folder, ignore=shutil.ignore_patterns(results_folder.VERIFICATION))
    trained = rows(swept, results_folder.CONVERGENCE, Trial)
    best = {cell.batch_size: cell.best_options for cell in build.read(swept).cells}
    empty = {"steps": 0, "curve": Curve(examples=[], steps=[], accuracy=[], loss=[]), "noise": None}
    lost = [
        msgspec.structs.replace(one, status="failed", reason="device lost", **empty)
        for one in trained
        if one.options == best[one.batch_size]
    ]
    lucky = [
        msgspec.structs.replace(one, curve=msgspec.structs.replace(one.curve, accuracy=[1.0] * len(one.curve.steps)))
        for one in trained
        if one.phase == "confirm"
    ]
    cut_off = [msgspec.structs.replace(one, seed=one.seed + 100, status="failed", reason="cut off") for one in lucky]
    lines = map(row_files.encode, [*lucky, *cut_off, *lost, *trained, *lost])
    (folder / results_folder.CONVERGENCE).write_bytes(b"".join(lines))
    return folder


@pytest.fixture(scope="module", params=long_unless(["warmup_cosine"], WARMUP_EPOCHS))
def scheduled(request, tmp_path_factory):
    """A study under one schedule, and its trial at batch size 20, which is confirmed in two microbatches a step."""
    rate = {"anchor": 0.01, "span": 0, "extend": 0}
    rate |= {"schedule": request.param, "warmup_epochs": WARMUP_EPOCHS[request.param]}
    made = session(tmp_path_factory.mktemp(request.param), learning_rate=rate, **EVALUATED_OFTEN)
    stage = Convergence(made)
    stage.run()
    (trial,) = (one for one in stage.training.trials.values() if (one.phase, one.batch_size) == ("confirm", 20))
    assert trial.microbatch_size == 10
    return made, trial


@pytest.fixture
def _measures_nothing(monkeypatch):
    for module, name in ((LanePrograms, "tuned"), (suite, "planned_stages")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("measured"))


def rows(folder, name, kind):
    return [row for row in row_files.read(folder / name) if isinstance(row, kind)]


def test_a_run_leaves_every_row_and_a_page(swept):
    timed = rows(swept, results_folder.THROUGHPUT, Round)
    assert sorted((row.batch_size, row.loop, row.round) for row in timed) == [
        (size, loop, number) for size in (10, 50) for loop in ("dispatch", "scan") for number in range(5)
    ]
    trained = rows(swept, results_folder.CONVERGENCE, Trial)
    assert {(row.phase, row.batch_size) for row in trained} == {
        (phase, size) for phase in ("search", "confirm") for size in (10, 50)
    }
    stages = [
        row.stage
        for name in (results_folder.THROUGHPUT, results_folder.CONVERGENCE)
        for row in rows(swept, name, Stage)
    ]
    assert tuple(stages) == STAGES
    assert (swept / "report.html").is_file()


def test_a_second_run_measures_nothing_and_answers_the_same(swept, sweep, capsys, monkeypatch):
    before = {name: (swept / name).read_bytes() for name in (results_folder.THROUGHPUT, results_folder.CONVERGENCE)}
    monkeypatch.setattr(rounds, "measure", lambda *_: pytest.fail("timed again"))
    assert command_line.run(["run", sweep, "--results", str(swept.parent.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((swept / "summary.json").read_bytes())
    assert before == {name: (swept / name).read_bytes() for name in before}


@pytest.mark.slow
def test_convergence_of_another_machine_is_joined_with_speeds_of_this_one(swept, sweep, tmp_path):
    assert command_line.run(["run", sweep, "--results", str(tmp_path), "--convergence-from", str(swept)]) == 0
    folder = tmp_path / "sweep" / host().machine.name
    assert (folder / results_folder.CONVERGENCE).read_bytes() == (swept / results_folder.CONVERGENCE).read_bytes()
    assert len(rows(folder, results_folder.THROUGHPUT, Round)) == 20
    assert build.read(folder).convergence_from == host().machine.name


@pytest.mark.slow
def test_a_run_that_another_machine_began_is_continued_as_if_it_had_never_stopped(swept, sweep, tmp_path, capsys):
    began, whole = shutil.copytree(swept, tmp_path / "began"), rows(swept, results_folder.CONVERGENCE, Trial)
    machine = msgspec.json.decode((began / results_folder.MACHINE).read_bytes())
    machine["machine"]["cpu"] = "older"
    (began / results_folder.MACHINE).write_bytes(msgspec.json.encode(machine))
    kept, lost = whole[: len(whole) // 2], msgspec.structs.replace(whole[-1], status="failed", reason="device lost")
    (began / results_folder.CONVERGENCE).write_bytes(b"".join(map(row_files.encode, [*kept, lost])))
    line = ["run", sweep, "--results", str(tmp_path / "here"), "--continue-from", str(began)]
    assert command_line.run(line) == 0
    folder = tmp_path / "here" / "sweep" / host().machine.name
    found = rows(folder, results_folder.CONVERGENCE, Trial)
    assert found[: len(kept)] == kept
    assert {trial.key: trial.curve for trial in found} == {trial.key: trial.curve for trial in whole}
    assert len(found) == len(whole)
    assert build.read(folder).trained_on == [f"{len(kept)} trials on tiny-cpu (older)"]
    assert "Trained before" in (folder / "report.html").read_text()
    before = (folder / results_folder.CONVERGENCE).read_bytes()
    for other, said in (([], ""), ([msgspec.structs.replace(whole[-1], seed=1999)], "1 of the trials in")):
        (began / results_folder.CONVERGENCE).write_bytes(b"".join(map(row_files.encode, [*whole, *other])))
        capsys.readouterr()
        assert command_line.run(line) == 0
        assert (folder / results_folder.CONVERGENCE).read_bytes() == before
        shown = capsys.readouterr().err
        assert said in shown
        assert ("came later and are not used" in shown) == bool(other)


@pytest.mark.usefixtures("_measures_nothing")
@pytest.mark.parametrize("minutes", [[], ["--budget", "1"]])
def test_unlike_convergence_is_refused_before_the_first_round(swept, tmp_path, capsys, minutes):
    other = msgspec.structs.replace(experiments.find("lenet_digits"), batch_sizes=experiment().batch_sizes)
    path, results = tmp_path / "lenet_digits.toml", tmp_path / "results"
    path.write_bytes(results_folder.to_toml(other))
    line = ["run", str(path), "--results", str(results), "--convergence-from", str(swept), *minutes]
    assert command_line.run(line) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert "its training runs cannot be used: its protocol is not that of lenet_digits" in shown
    assert shown.count(" there, ") == 3
    assert re.search(r" here, and \d+ more\)$", shown)
    assert not results.exists()


@pytest.mark.usefixtures("_measures_nothing")
def test_convergence_is_not_joined_where_trials_lie(swept, sweep, capsys):
    line = ["run", sweep, "--results", str(swept.parent.parent), "--convergence-from", str(swept)]
    assert command_line.run(line) == 2
    assert "already holds convergence rows measured here" in capsys.readouterr().err


@pytest.mark.slow
def test_only_the_stages_that_are_named_are_run(sweep, tmp_path):
    assert command_line.run(["run", sweep, "--results", str(tmp_path), "--stages", "throughput"]) == 0
    (folder,) = (tmp_path / "sweep").iterdir()
    assert (folder / results_folder.THROUGHPUT).exists()
    assert not (folder / results_folder.CONVERGENCE).exists()


@pytest.mark.parametrize("how", [signals.Stopped, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("found", "modules", "program"),
    [
        ("/bin/batchscale", "bench", "batchscale"),
        (None, "", f"{shlex.quote(sys.executable)} -m batchscale"),
        (None, "a b", f"env 'PYTHONPATH=a b' {shlex.quote(sys.executable)} -m batchscale"),
    ],
)
def test_a_stopped_run_prints_the_command_that_continues_it(
    tmp_path, capsys, monkeypatch, how, found, modules, program
):
    monkeypatch.setattr(measuring.shutil, "which", lambda _: found)
    monkeypatch.setenv("PYTHONPATH", modules)
    monkeypatch.chdir(tmp_path)

    def stopped(*_):
        raise how

    monkeypatch.setattr(suite, "measure", stopped)
    typed = f"run lenet_digits --price-per-hour=2.50 --results '{tmp_path / 'a b'}' --stages throughput --budget 30.0"
    assert command_line.run(shlex.split(typed)) == 130
    assert capsys.readouterr().err.endswith(f"To continue: {program} {typed}\n")


def test_pages_are_finished_at_the_first_signal_and_left_at_the_second(tmp_path, capfd, monkeypatch):
    signals = []

    def answer(*_, **__):
        for number in signals:
            os.kill(os.getpid(), number)
        return 0

    monkeypatch.setattr(suite, "measure", lambda *_: [tmp_path])
    monkeypatch.setattr(measuring, "answer", answer)
    signals += [signal.SIGTERM]
    assert command_line.run(["run", "lenet_digits"]) == 0
    assert "stopping after this round" in capfd.readouterr().err
    signals += [signal.SIGINT]
    assert command_line.run(["run", "lenet_digits"]) == 130
    assert "To continue: " in capfd.readouterr().err


@pytest.mark.parametrize("name", long_unless(["swept"], ["swept", "retried"]))
def test_single_runs_reach_the_target_at_the_step_that_the_mapped_ones_did(name, swept, request, capsys):
    folder = request.getfixturevalue(name)
    assert command_line.run(["verify", str(folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    verified = rows(folder, results_folder.VERIFICATION, Verification)
    assert answer["time_optimal"]["batch_size"] in {row.batch_size for row in verified}
    cells = {cell["batch_size"]: cell for cell in answer["cells"]}
    trained = rows(swept, results_folder.CONVERGENCE, Trial)
    for row in verified:
        own = ("confirm", row.batch_size, row.point, row.seed)
        (curve,) = (one.curve for one in trained if (one.phase, one.batch_size, one.point, one.seed) == own)
        assert row.learning_rate == cells[row.batch_size]["best_learning_rate"]
        assert row.options == cells[row.batch_size]["best_options"]
        assert row.options["momentum"] in SWEEP["search"]["momentum"], "neither is the optimizer's own"
        reached = next(step for step, seen in zip(curve.steps, curve.scores["accuracy"], strict=True) if seen >= 0.75)
        assert (row.status, row.steps) == ("ok", reached)
        assert row.predicted_steps == reached
        assert row.predicted_seconds == pytest.approx(reached * cells[row.batch_size]["seconds_per_step"])
        assert row.seconds > 0


@pytest.mark.parametrize("loop", ["dispatch", "scan"])
def test_both_loops_train_the_same_run_under_every_schedule_in_one_program(scheduled, loop, monkeypatch):
    study, trial = scheduled
    traced, train_step, asked, options = [], Learner.train_step, [], compiled_programs.options
    monkeypatch.setattr(compiled_programs, "options", lambda **given: asked.append(given) or options(**given))
    monkeypatch.setattr(Learner, "train_step", lambda *given: traced.append(1) or train_step(*given))
    reported = verify.Reported(trial.learning_rate, trial.options, loop, 1e-3)
    case = verify.find_case(study, [trial], trial.batch_size, reported, {})
    alone = verify.train_alone(study, case)
    assert (alone.status, alone.steps) == ("ok", case.steps)
    assert len(traced) == 1, "the rate moves without compiling again"
    assert asked == [{"graph": False}], "compiled as what is timed, not as what shares its cores"


@pytest.mark.parametrize(
    ("seconds", "predicted", "shown"),
    [
        (1.5, 3.0, "in 1.5 s; predicted: 8 steps in 3 s (0.50 times)"),
        (0.001, 0.001, "in 0.001 s; predicted: 8 steps in 0.001 s (1.00 times)"),
        (0.004, 0.001, "in 0.004 s; predicted: 8 steps in 0.001 s (4.00 times; in so short a run, starting a call for"),
    ],
)
def test_each_verified_run_is_a_line(swept, capsys, monkeypatch, seconds, predicted, shown):
    took = {"batch_size": 10, "learning_rate": 0.1, "seed": 1, "seconds": seconds}
    took |= {"predicted_steps": 8, "predicted_seconds": predicted}
    verified = [Verification(**ORIGIN, **took, status="ok", steps=steps) for steps in (7, 9)]
    monkeypatch.setattr(verify, "verify", lambda *_: verified)
    assert command_line.run(["verify", str(swept)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("B = ")]
    for line, steps in zip(lines, (7, 9), strict=True):
        assert line.startswith(f"B = 10: {steps} steps {shown}")


def test_without_a_run_that_reached_the_target_there_is_nothing_to_verify(tmp_path, capsys):
    simulated_folder.write(tmp_path, batch_sizes=(16, 64), ceiling=0.5, confirm_seeds=2, epochs=4.0, max_epochs=5.0)
    assert command_line.run(["verify", str(tmp_path)]) == 2
    assert "no batch size reached the target" in capsys.readouterr().err


def test_a_folder_made_of_tables_has_nothing_to_train(tmp_path, capsys):
    (tmp_path / "c.csv").write_text("batch_size,seed,steps_to_target\n" + "".join(f"{2**n},1,9\n" for n in range(5)))
    (tmp_path / "t.csv").write_text("batch_size,seconds_per_step\n" + "".join(f"{2**n},1\n" for n in range(5)))
    paths = [part for name in ("convergence", "throughput") for part in (f"--{name}", str(tmp_path / f"{name[0]}.csv"))]
    out = tmp_path / "out"
    assert command_line.run(["analyze", *paths, "--train-examples", "100", "--out", str(out)]) == 0
    capsys.readouterr()
    assert command_line.run(["verify", str(out)]) == 2
    assert "made from tables" in capsys.readouterr().err
