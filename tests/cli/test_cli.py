"""The command line: exit codes, one-line refusals, help by example, and what a user is told."""

import errno
import json
import re
import shlex
import subprocess
import sys

import msgspec
import pytest
import simulated_folder
from batchscale.cli import command_line
from batchscale.errors import DeviceError
from batchscale.measure.run import doctor
from batchscale.records import results_folder
from repository import ROOT
from tiny_workload import TINY, experiment

VERBS = re.findall(r"^    (\w+) ", command_line.parser().format_help(), re.MULTILINE)


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")


def test_there_are_the_verbs_a_user_is_promised():
    assert {"run", "report", "compare", "list", "doctor"} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_by_example(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.run([verb, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  batchscale {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("run lenet_digit", "neither a file ending in .toml nor one of"),
        ("run absent.toml", "absent.toml: cannot be read"),
        ("run lenet_digits --results {file}/deeper", "cannot be written"),
        ("run --convergence-from {file}", "cannot be read"),
        ("report {folder}/absent", "absent"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_code_2(tmp_path, capsys, line, says):
    (tmp_path / "file").write_text("in the way")
    assert command_line.run(line.format(file=tmp_path / "file", folder=tmp_path).split()) == 2
    *_, said = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("batchscale: ")
    assert says in said


@pytest.mark.parametrize(("field", "known"), [("dataset", "mnist"), ("model", "lenet"), ("optimizer", "sgd")])
def test_an_unknown_name_is_told_with_file_and_path_and_what_is_known(tmp_path, capsys, monkeypatch, field, known):
    monkeypatch.setattr("batchscale.measure.data.datasets.load", lambda _: pytest.fail("data was fetched"))
    wrong = experiment(workload={**TINY["workload"], field: "unheard"})
    (tmp_path / "odd.toml").write_bytes(results_folder.to_toml(msgspec.structs.replace(wrong, name="odd")))
    assert command_line.run(["run", str(tmp_path / "odd.toml"), "--results", str(tmp_path)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"batchscale: odd.toml: workload.{field}: 'unheard' is not one of ")
    assert known in told


def test_convergence_that_cannot_be_read_is_told_before_data_is_fetched(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("batchscale.measure.data.datasets.load", lambda _: pytest.fail("data was fetched"))
    assert command_line.run(["run", "--results", str(tmp_path), "--convergence-from", str(tmp_path / "typo")]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "experiment.toml: cannot be read" in told


@pytest.mark.parametrize(
    "line", ["", "walk", "run --budget soon", "run --budget 0", "run --budget nan", "run --stages training", "report"]
)
def test_a_misspelt_command_line_is_refused_with_code_2(capsys, line):
    with pytest.raises(SystemExit) as ended:
        command_line.run(line.split())
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("package", ["msgspec", "jax"])
def test_a_python_without_a_package_is_told_how_to_get_it(package):
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv = ['batchscale', 'list']; "
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}import batchscale.__main__; batchscale.__main__.main()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    python = shlex.quote(sys.executable)
    told = f"{python} lacks the package {package}; to install what is needed: {python} -m pip install -e ."
    assert (ended.returncode, ended.stderr) == (2, f"batchscale: {told}\n")


def test_names_of_files_and_folders_are_told_in_one_visible_line(tmp_path, capsys):
    strange = "m\x1b[31mEVIL\nbatchscale: second line\udcff"
    simulated_folder.write(tmp_path / "published/simulated" / strange, batch_sizes=(16, 64), epochs=3.0, rounds=2)
    shown = r"m\x1b[31mEVIL\nbatchscale: second line\udcff"
    assert command_line.run(["report", str(tmp_path / strange)]) == 2
    assert command_line.run(["site", str(tmp_path / "published"), "--out", str(tmp_path / strange)]) == 0
    (tmp_path / "published/simulated" / strange / "machine.json").write_text("{")
    assert command_line.run(["site", str(tmp_path / "published")]) == 2
    told = capsys.readouterr()
    lines = [*told.out.splitlines(), *told.err.splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert shown in line
        assert line.isprintable()


def test_an_argument_s_own_lines_are_none_of_the_refusal(capsys):
    with pytest.raises(SystemExit):
        command_line.run(["report", "a", "b\x1b[2J\nbatchscale: done"])
    assert capsys.readouterr().err.splitlines() == [r"batchscale: unrecognized arguments: b\x1b[2J\nbatchscale: done"]


def test_lists_are_for_people_and_for_scripts(capsys):
    assert command_line.run(["list"]) == 0
    text = capsys.readouterr().out
    assert command_line.run(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"mlp", "lenet", "linear"} <= set(listed["models"])
    for names in listed.values():
        assert all(name in text for name in names)


def test_the_doctor_answers_without_a_network(capsys, tmp_path):
    assert command_line.run(["doctor", "--results", str(tmp_path), "--json"]) == 0
    found = {one["item"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["results folder"]["ok"]
    assert found["dataset digits"]["ok"]
    assert not found["dataset mnist"]["ok"]


def test_the_doctor_s_columns_never_touch(monkeypatch, capsys):
    long = doctor.Finding("fashion_mnist: system package dataset-fashion-mnist", "is in the package lists", ok=True)
    monkeypatch.setattr(doctor, "diagnose", lambda _: [long, doctor.Finding("jax", "1.0", ok=False)])
    assert command_line.run(["doctor"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "ok  fashion_mnist: system package dataset-fashion-mnist  is in the package lists"
    assert second == f"--  {'jax':34}  1.0"


@pytest.mark.parametrize("verb", ["run", "doctor"])
def test_a_data_folder_that_is_not_there_is_told(monkeypatch, capsys, tmp_path, verb):
    monkeypatch.setenv("BATCHSCALE_DATA", str(tmp_path / "typo"))
    monkeypatch.setattr("batchscale.measure.run.suite.measure", lambda *_: [])
    assert command_line.run([verb, "--results", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert f"BATCHSCALE_DATA: '{tmp_path / 'typo'}' is not a folder" in (told.err if verb == "run" else told.out)


def test_a_device_that_keeps_failing_ends_the_run_in_one_line_with_code_2(monkeypatch, capsys, tmp_path):
    def lost(*_):
        raise DeviceError("3 failures in a row, the last at B=8 scan; run again with --retry-failed")

    monkeypatch.setattr("batchscale.measure.run.suite.run", lost)
    monkeypatch.setattr("batchscale.measure.run.suite.announce", lambda *_: None)
    assert command_line.run(["run", "lenet_digits", "--results", str(tmp_path), "--retry-failed"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("batchscale: 3 failures in a row")


def test_what_the_system_refuses_is_one_line(monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENAMETOOLONG, "File name too long", "a\x1blonger\nname")

    monkeypatch.setattr("batchscale.analysis.pages.report.write_report", refuse)
    assert command_line.run(["report", "anywhere"]) == 2
    assert capsys.readouterr().err == "batchscale: a\\x1blonger\\nname: the system refuses (File name too long)\n"


def test_an_interrupt_anywhere_is_code_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("batchscale.config.experiment.shipped", interrupted)
    assert command_line.run(["list"]) == 130
    assert "stopped" in capsys.readouterr().err


def test_an_interrupted_process_ends_before_anything_is_taken_down():
    """Another thread may still compile, and would crash."""
    script = """
import atexit, sys
from batchscale import __main__
from batchscale.config import experiment
def interrupted(*_):
    raise KeyboardInterrupt
experiment.shipped, sys.argv = interrupted, ["batchscale", "list"]
atexit.register(print, "taken down")
print("flushed")
__main__.main()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "flushed\n", "\nbatchscale: stopped\n")


def test_a_closed_pipe_ends_quietly():
    script = f"{shlex.quote(sys.executable)} -m batchscale list | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
