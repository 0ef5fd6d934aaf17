"""Which experiments are run: named ones as asked, a default suite with a loud fall-back where data is missing."""

import io
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from batchscale.config import experiment as experiments
from batchscale.config import time_budget
from batchscale.errors import InputError
from batchscale.measure.control.progress import SECONDS_PER_PAGE, Progress
from batchscale.measure.control.signals import Stopper
from batchscale.measure.convergence.tiers import LanePrograms
from batchscale.measure.data import datasets
from batchscale.measure.device import jax_settings
from batchscale.measure.device.compiled_programs import Tuned
from batchscale.measure.run import suite
from batchscale.records import results_folder, row_files
from batchscale.records.taken_trials import Source
from sample_rows import one_line
from tiny_workload import MODEL_OPTIONS, TINY, digits, experiment, filled, host


@pytest.fixture
def offline(monkeypatch):
    here = digits()

    def load(name, _options=None, _folder=None, _announce=None):
        if name == "digits":
            return here
        raise InputError(f"{name}: no source has it\n  tried the moon: no answer")

    monkeypatch.setattr(datasets, "load", load)


@pytest.fixture
def runs(monkeypatch):
    """Sessions that would have been run, in order."""
    seen = []
    monkeypatch.setattr(suite, "planned_stages", lambda session, stages: seen.append((session, tuple(stages))) or [])
    return seen


def request(tmp_path, **asked):
    return suite.Request(**{"names": [], "results": tmp_path, "progress": Progress(output=io.StringIO()), **asked})


@pytest.mark.parametrize(("platform", "kept"), [("cpu", []), ("gpu", ["programs"]), ("tpu", ["programs"])])
def test_accelerators_keep_compiled_programs_for_later_runs(monkeypatch, tmp_path, platform, kept):
    folders, one = [], host()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax_settings, "keep_programs", folders.append)
    suite._keep_programs(replace(one, machine=msgspec.structs.replace(one.machine, platform=platform)))
    assert folders == [tmp_path / "batchscale" / name for name in kept]


@pytest.mark.parametrize(("platform", "count"), [("cpu", 2), ("gpu", 5), ("tpu", 5)])
def test_every_device_has_a_suite_of_shipped_experiments(platform, count):
    """The README gives the numbers."""
    chosen = suite.chosen([], platform)
    assert len(chosen) == count
    assert all(platform in one.suites for one in chosen)


def test_names_are_taken_as_they_are():
    assert [one.name for one in suite.chosen(["lenet_digits", "mlp_mnist"], "cpu")] == ["lenet_digits", "mlp_mnist"]
    with pytest.raises(InputError, match="expected a file ending in"):
        suite.chosen(["lenet_digit"], "cpu")


@pytest.mark.parametrize("minutes", [None, 3.0])
@pytest.mark.parametrize("second", ["tiny.toml", "unlike/tiny.toml"])
def test_two_experiments_of_one_folder_are_refused_before_anything_is_written(tmp_path, offline, runs, second, minutes):
    (tmp_path / "unlike").mkdir()
    (tmp_path / "tiny.toml").write_bytes(results_folder.to_toml(experiment()))
    (tmp_path / "unlike" / "tiny.toml").write_bytes(results_folder.to_toml(experiment(target={"accuracy": 0.5})))
    names = [str(tmp_path / name) for name in ("tiny.toml", second)]
    results = tmp_path / "results"
    with pytest.raises(InputError, match="expected a folder for each experiment") as error:
        suite.measure(request(results, names=names, minutes=minutes), host(), Stopper())
    one_line(error)
    assert not results.exists()
    assert runs == []


def test_a_suite_without_data_becomes_the_digits_and_says_so_loudly(tmp_path, offline, runs):
    asked = request(tmp_path)
    suite.measure(asked, host(), Stopper())
    (session, _), *others = runs
    assert not others
    assert session.experiment.workload.dataset == "digits"
    assert "These results are not about" in session.experiment.notice
    said = asked.progress.output.getvalue()
    assert f"*** {session.experiment.notice} ***" in said
    assert "tried the moon" in said


def test_what_takes_minutes_while_data_are_loaded_is_announced(tmp_path, monkeypatch):
    def load(_name, _options, _folder, announce):
        announce("fetching from the moon")
        return digits()

    monkeypatch.setattr(datasets, "load", load)
    asked = request(tmp_path)
    suite.with_data([experiment()], [tmp_path], named=True, progress=asked.progress)
    assert "fetching from the moon" in asked.progress.output.getvalue()


def test_bits_per_byte_are_refused_as_the_goal_of_tokens_that_are_not_bytes(tmp_path):
    random = np.random.default_rng(0)
    tokens = {name: random.integers(0, 300, (100, 8)) for name in ("inputs", "labels")}
    np.savez(tmp_path / "tokens.npz", **tokens)
    workload = {"dataset": "tokens.npz", "model": "decoder", "model_options": MODEL_OPTIONS["decoder"]}
    table = experiments.parse(
        {**TINY, "workload": TINY["workload"] | workload, "target": {"bits_per_byte": 2.0}}, "t", "t.toml"
    )
    (tmp_path / "tokens.toml").write_bytes(results_folder.to_toml(table))
    with pytest.raises(
        InputError, match=r"the tokens of tokens\.npz are 300 numbers, not bytes; expected target\.loss"
    ):
        suite.measure(request(tmp_path, names=[str(tmp_path / "tokens.toml")]), host(), Stopper())


def test_a_suite_leaves_out_what_has_no_data_and_says_so(tmp_path, monkeypatch, runs):
    here = digits()

    def load(name, _options=None, _folder=None, _announce=None):
        if name == "cifar10":
            raise InputError("cifar10: no source has it")
        return here

    monkeypatch.setattr(datasets, "load", load)
    wanted, asked = [experiments.find(name) for name in ("resnet8_cifar10", "mlp_mnist")], request(tmp_path)
    found = suite.with_data(wanted, [tmp_path] * 2, named=False, progress=asked.progress)
    assert [one.name for one, _ in found] == ["mlp_mnist"]
    assert "resnet8_cifar10: left out" in asked.progress.output.getvalue()


@pytest.mark.parametrize(("platform", "minutes"), [("cpu", None), ("gpu", 20.0), ("tpu", 20.0)])
@pytest.mark.parametrize("asked", [None, 3.0])
def test_a_default_suite_is_scaled_where_its_platform_says_so(tmp_path, monkeypatch, platform, minutes, asked):
    seen = []
    monkeypatch.setattr(jax_settings, "keep_programs", lambda _: None)
    monkeypatch.setattr(suite, "_sessions", lambda request, *_: seen.append(request.minutes) or [])
    monkeypatch.setattr(suite, "_within_minutes", lambda *_: [])
    here = host()
    on = replace(here, machine=msgspec.structs.replace(here.machine, platform=platform))
    suite.measure(request(tmp_path, minutes=asked), on, Stopper())
    suite.measure(request(tmp_path, minutes=asked, names=["mlp_mnist"]), on, Stopper())
    assert seen == [asked or minutes, asked]


def test_the_notice_reaches_the_results_folder(tmp_path, offline, runs):
    suite.measure(request(tmp_path), host(), Stopper())
    session, _ = runs[0]
    session.prepare_folder()
    assert experiments.read(session.folder / "experiment.toml").notice == session.experiment.notice


def test_a_named_experiment_without_data_fails_with_what_was_tried(tmp_path, offline, runs):
    with pytest.raises(InputError, match="tried the moon"):
        suite.measure(request(tmp_path, names=["lenet_mnist"]), host(), Stopper())
    assert runs == []


def test_a_folder_of_another_protocol_is_refused_with_the_difference_before_anything_is_measured(
    tmp_path, offline, monkeypatch
):
    path = tmp_path / "tiny.toml"
    path.write_bytes(results_folder.to_toml(experiment()))
    folder = tmp_path / "tiny" / host().machine.name
    results_folder.prepare(folder, experiment(), host().machine, {})
    (folder / results_folder.CONVERGENCE).write_text("a row\n")
    path.write_bytes(results_folder.to_toml(experiment(target={"accuracy": 0.5})))
    monkeypatch.setattr(suite, "planned_stages", lambda *_: pytest.fail("measured"))
    with pytest.raises(InputError, match=r"target\.accuracy: 0\.75 there, 0\.5 here"):
        suite.measure(request(tmp_path, names=[str(path)]), host(), Stopper())


def test_a_refused_second_run_leaves_the_first_one_s_folder_as_it_is(tmp_path, offline, monkeypatch):
    path, folder = tmp_path / "tiny.toml", tmp_path / "tiny" / host().machine.name
    results_folder.prepare(folder, experiment(), host().machine, {})
    before = {one.name: one.read_bytes() for one in folder.iterdir()}
    path.write_bytes(results_folder.to_toml(experiment(seeds={"confirm": 5})))
    monkeypatch.setattr(LanePrograms, "tuned", lambda *_: pytest.fail("tried"))
    for minutes in (None, 3.0):
        named = folder if minutes is None else folder.parent.with_name("tiny_3min") / folder.name
        with row_files.claimed(named), pytest.raises(InputError, match="another run is writing here"):
            suite.measure(request(tmp_path, names=[str(path)], minutes=minutes), host(), Stopper())
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("workload", "told"),
    [
        (
            {"model": "mlp", "model_options": {"hidden": [10**9]}},
            r"^tiny: workload.model_options: .* 75,000,000,010 .* but \d+ GiB are free$",
        ),
        ({"model_options": {"hidden": [8]}}, "not an option of linear, expected none"),
        ({"optimizer": "momentun"}, "workload.optimizer: 'momentun', expected one of"),
    ],
)
def test_a_workload_that_cannot_run_leaves_nothing_behind(tmp_path, offline, runs, workload, told):
    path = tmp_path / "tiny.toml"
    path.write_bytes(results_folder.to_toml(experiment(workload=workload)))
    with pytest.raises(InputError, match=told):
        suite.measure(request(tmp_path, names=[str(path)]), host(), Stopper())
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.toml"]
    assert runs == []


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        (
            {"learning_rate": {"schedule": "linear_decay"}},
            r"^tiny\.toml: budget\.max_epochs: 6\.0, expected at most epochs = 4\.0",
        ),
        (
            {"workload": {"optimizer": "adam", "optimizer_options": {"b2_batch_size": 10**9}}},
            r"^tiny: workload\.optimizer_options\.b2_batch_size: 1e\+09 rounds b2 = 0\.999 to 1 at batch size 10",
        ),
    ],
)
def test_what_would_be_trained_in_vain_leaves_nothing_behind(tmp_path, offline, runs, tables, told):
    path = tmp_path / "tiny.toml"
    path.write_bytes(results_folder.to_toml(experiment(**tables)))
    with pytest.raises(InputError, match=told):
        suite.measure(request(tmp_path, names=[str(path)]), host(), Stopper())
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.toml"]
    assert runs == []


def test_stages_and_folders_are_those_asked_for(tmp_path, offline, runs):
    asked = request(tmp_path, names=["lenet_digits"], stages=["throughput"])
    found = suite.measure(asked, host(), Stopper())
    assert found == [tmp_path / "lenet_digits" / host().machine.name]
    assert runs[0][1] == ("throughput",)
    assert asked.progress.remaining_seconds() == SECONDS_PER_PAGE


def test_convergence_without_training_data_is_joined_with_the_digits_of_the_fall_back(tmp_path, offline, runs):
    source = filled(tmp_path / "there", experiments.find("lenet_digits"))
    (folder,) = suite.measure(request(tmp_path, trials=Source(source, continues=False)), host(), Stopper())
    assert [stages for _, stages in runs] == [("throughput",)]
    assert (folder / results_folder.CONVERGENCE).read_bytes() == (source / results_folder.CONVERGENCE).read_bytes()


@pytest.mark.parametrize("rung", [time_budget.LADDER[0], time_budget.LADDER[-1]])
def test_a_scaled_study_is_joined_at_the_rung_of_its_source(tmp_path, offline, runs, monkeypatch, rung):
    monkeypatch.setattr(LanePrograms, "tuned", lambda *_: pytest.fail("the speed of training was tried"))
    scaled = time_budget.climb(experiment(), rung)
    source = filled(tmp_path / "there", scaled)
    path = tmp_path / "tiny.toml"
    path.write_bytes(results_folder.to_toml(experiment()))
    asked = request(tmp_path, names=[str(path)], minutes=3.0, trials=Source(source, continues=False))
    (folder,) = suite.measure(asked, host(), Stopper())
    (session, _), *_ = runs
    assert session.experiment == msgspec.structs.replace(scaled, name="tiny_3min")
    assert (folder / results_folder.CONVERGENCE).read_bytes() == (source / results_folder.CONVERGENCE).read_bytes()


def test_a_folder_with_joined_trials_is_only_timed_from_then_on(tmp_path, offline, runs):
    source = filled(tmp_path / "there", experiments.find("lenet_digits"))
    for trials in (Source(source, continues=False), None):
        asked = request(tmp_path, names=["lenet_digits"], trials=trials)
        suite.measure(asked, host(), Stopper())
        assert "its training runs are those of lenet_digits/tiny-cpu" in asked.progress.output.getvalue()
    assert [stages for _, stages in runs] == [("throughput",), ("throughput",)]


def test_a_run_is_continued_at_its_own_scale_alone(tmp_path, offline, runs):
    source, path = filled(tmp_path / "there", experiment()), tmp_path / "tiny.toml"
    path.write_bytes(results_folder.to_toml(experiment()))
    asked = request(tmp_path, names=[str(path)], minutes=3.0, trials=Source(source, continues=True))
    with pytest.raises(InputError, match="its experiment is tiny, expected tiny_3min"):
        suite.measure(asked, host(), Stopper())
    assert not (tmp_path / "tiny_3min" / host().machine.name / "experiment.toml").exists()


@pytest.mark.slow
def test_minutes_are_shared_and_a_second_run_repeats_the_first_choice(tmp_path, offline, runs, monkeypatch):
    monkeypatch.setattr(LanePrograms, "tuned", lambda *_: Tuned(None, 1e5))
    asked = request(tmp_path, names=["lenet_digits"], minutes=3.0)
    suite.measure(asked, host(), Stopper())
    session, _ = runs[0]
    assert session.experiment.name == "lenet_digits_3min"
    assert "about" in asked.progress.output.getvalue()
    results_folder.prepare(session.folder, session.experiment, host().machine, {})
    monkeypatch.setattr(LanePrograms, "tuned", lambda *_: pytest.fail("the trial was repeated"))
    suite.measure(asked, host(), Stopper())
    assert runs[1][0].experiment == session.experiment


def test_a_scaled_study_of_an_edited_file_is_refused(tmp_path, offline, runs, monkeypatch):
    monkeypatch.setattr(LanePrograms, "tuned", lambda *_: Tuned(None, 1e5))
    path = tmp_path / "tiny.toml"
    path.write_bytes(results_folder.to_toml(experiment()))
    asked = request(tmp_path, names=[str(path)], minutes=3.0)
    suite.measure(asked, host(), Stopper())
    results_folder.prepare(runs[0][0].folder, runs[0][0].experiment, host().machine, {})
    path.write_bytes(results_folder.to_toml(experiment(target={"accuracy": 0.5})))
    with pytest.raises(InputError, match="edited"):
        suite.measure(asked, host(), Stopper())


def test_an_edited_file_is_refused_before_the_speed_of_another_is_tried(tmp_path, offline, runs, monkeypatch):
    path = tmp_path / "tiny.toml"
    path.write_bytes(results_folder.to_toml(experiment(target={"accuracy": 0.5})))
    scaled = time_budget.named(time_budget.climb(experiment(), time_budget.LADDER[0]), 3.0)
    results_folder.prepare(results_folder.folder_of(tmp_path, scaled, host().machine), scaled, host().machine, {})
    monkeypatch.setattr(LanePrograms, "tuned", lambda *_: pytest.fail("tried"))
    asked = request(tmp_path, names=["lenet_digits", str(path)], minutes=6.0)
    with pytest.raises(InputError, match="tiny_3min: was scaled from tiny, which has been edited since"):
        suite.measure(asked, host(), Stopper())
