"""The command line: exit codes, refusals in one line, help with examples, and messages to the user."""

import errno
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import simulated_folder
from batchscale import __version__
from batchscale.cli import command_line
from batchscale.errors import DeviceError
from batchscale.measure.run import doctor
from batchscale.records import results_folder
from repository import ROOT
from tiny_workload import TINY, experiment

COMMANDS = [*command_line.APP.commands]


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")


def test_help_lists_the_commands_a_user_is_promised(capsys):
    assert command_line.run(["--help"]) == 0
    listed = re.findall(r"^  (\w+) +[A-Z].*\.$", capsys.readouterr().out, re.MULTILINE)
    assert listed == COMMANDS, "each with a whole sentence"
    assert {"run", "report", "compare", "list", "doctor"} <= set(listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example_on_any_terminal(command, monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert command_line.run([command, "--help"]) == 0
    text = shown.getvalue().decode("ascii")
    assert f"example:\n    batchscale {command}" in text
    assert "\x1b" not in text


def test_the_version_is_one_line(capsys):
    assert command_line.run(["--version"]) == 0
    assert capsys.readouterr().out == f"batchscale {__version__}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run lenet_digit", "vit_fashion; did you mean lenet_digits?"),
        ("run absent.toml", "absent.toml: cannot be read"),
        ("run lenet_digits --results {file}/deeper", "cannot be written"),
        ("run --convergence-from {file}", "cannot be read"),
        ("run --continue-from {file}", "cannot be read"),
        ("run --convergence-from {file} --continue-from {file}", "--continue-from: with --convergence-from, expected"),
        ("report {folder}/absent", "absent"),
        ("report {folder}", "is no results folder, expected one of those in it, such as"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path, capsys, line, message):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "experiment.toml").touch()
    assert command_line.run(line.format(file=tmp_path / "file", folder=tmp_path).split()) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("batchscale: ")
    assert message in line


@pytest.mark.parametrize(("field", "known"), [("dataset", "mnist"), ("model", "lenet"), ("optimizer", "sgd")])
def test_an_unknown_name_is_refused_with_its_file_its_key_and_the_known_names(
    tmp_path, capsys, monkeypatch, field, known
):
    monkeypatch.setattr("batchscale.measure.data.datasets.load", lambda *_: pytest.fail("data was fetched"))
    wrong = experiment(workload={**TINY["workload"], field: "unheard"})
    (tmp_path / "odd.toml").write_bytes(results_folder.to_toml(msgspec.structs.replace(wrong, name="odd")))
    assert command_line.run(["run", str(tmp_path / "odd.toml"), "--results", str(tmp_path)]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown.startswith(f"batchscale: odd.toml: workload.{field}: 'unheard', expected one of ")
    assert known in shown


def test_convergence_that_cannot_be_read_is_refused_before_data_is_fetched(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("batchscale.measure.data.datasets.load", lambda *_: pytest.fail("data was fetched"))
    assert command_line.run(["run", "--results", str(tmp_path), "--convergence-from", str(tmp_path / "typo")]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert "experiment.toml: cannot be read" in shown


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("", "Missing command; `batchscale --help` lists the commands."),
        ("walk", "No such command 'walk'."),
        ("figure DIR", "No such command 'figure'. Did you mean 'figures'?"),
        ("run --budgt 5", "run: No such option '--budgt'. Did you mean '--budget'?"),
        ("run --budg 5", "run: No such option '--budg'. Did you mean '--budget'?"),
        ("run --results --json", "Option '--results' requires an argument, found '--json'."),
        ("run --results", "Option '--results' requires an argument."),
        ("run --results=", "--results: empty, expected a value"),
        ("run --stages training", "'training' is not a stage, expected throughput or convergence"),
        ("report", "report: Missing argument 'DIR'."),
        ("compare", "compare: Missing argument 'DIR...'."),
        ("predict DIR", "predict: Missing option '--seconds-per-step'."),
        ("export DIR --format csv", "'csv' is not 'pytest-benchmark'."),
    ],
)
def test_a_misspelt_command_line_is_refused_in_one_line_with_code_2(capsys, line, refusal):
    assert command_line.run(line.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("batchscale: ")
    assert shown.err.endswith(f"{refusal}\n")
    assert len(shown.err.splitlines()) == 1


def test_an_empty_value_is_refused_by_the_option_before_it(capsys):
    assert command_line.run(["analyze", "--convergence", "", "--out", "x"]) == 2
    assert capsys.readouterr().err == "batchscale: --convergence: empty, expected a value\n"


@pytest.mark.parametrize("package", ["msgspec", "jax"])
def test_without_a_package_one_line_shows_how_to_install_it(package):
    code = f"import sys; sys.modules[{package!r}] = None; sys.argv = ['batchscale', 'list']; "
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}import batchscale.__main__; batchscale.__main__.main()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    python = shlex.quote(sys.executable)
    shown = f"{python} lacks the package {package}; to install what is needed: {python} -m pip install -e ."
    assert (ended.returncode, ended.stderr) == (2, f"batchscale: {shown}\n")


@pytest.mark.usefixtures("few_figures")
def test_names_of_files_and_folders_are_printed_in_one_visible_line(tmp_path, capsys):
    strange = "m\x1b[31mEVIL\nbatchscale: second line\udcff"
    simulated_folder.write(tmp_path / "published/simulated" / strange, batch_sizes=(16, 64), epochs=3.0, rounds=2)
    escaped = r"m\x1b[31mEVIL\nbatchscale: second line\udcff"
    assert command_line.run(["report", str(tmp_path / strange)]) == 2
    assert command_line.run(["site", str(tmp_path / "published"), "--out", str(tmp_path / strange)]) == 0
    (tmp_path / "published/simulated" / strange / "machine.json").write_text("{")
    assert command_line.run(["site", str(tmp_path / "published")]) == 2
    shown = capsys.readouterr()
    lines = [*shown.out.splitlines(), *shown.err.splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert escaped in line
        assert line.isprintable()


def test_line_ends_in_an_argument_do_not_end_the_line_of_the_refusal(capsys):
    assert command_line.run(["report", "a", "b\x1b[2J\nbatchscale: done"]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert shown == r"batchscale: report: Got unexpected extra argument (b\x1b[2J\nbatchscale: done)"


def test_lists_are_for_people_and_for_scripts(capsys):
    assert command_line.run(["list"]) == 0
    text = capsys.readouterr().out
    assert command_line.run(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"mlp", "lenet", "linear"} <= set(listed["models"])
    assert listed.pop("schema") == 1
    for names in listed.values():
        assert all(name in text for name in names)


def test_doctor_works_without_a_network(capsys, tmp_path):
    assert command_line.run(["doctor", "--results", str(tmp_path), "--json"]) == 0
    found = {one["item"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert found["results folder"]["ok"]
    assert found["dataset digits"]["ok"]
    assert not found["dataset mnist"]["ok"]


def test_the_columns_of_doctor_never_touch(monkeypatch, capsys):
    long = doctor.Finding("fashion_mnist: system package dataset-fashion-mnist", "is in the package lists", ok=True)
    monkeypatch.setattr(doctor, "diagnose", lambda _: [long, doctor.Finding("jax", "1.0", ok=False)])
    assert command_line.run(["doctor"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "ok  fashion_mnist: system package dataset-fashion-mnist  is in the package lists"
    assert second == f"--  {'jax':34}  1.0"


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_a_missing_data_folder_is_reported(monkeypatch, capsys, tmp_path, command):
    monkeypatch.setenv("BATCHSCALE_DATA", str(tmp_path / "typo"))
    monkeypatch.setattr("batchscale.measure.run.suite.measure", lambda *_: [])
    assert command_line.run([command, "--results", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert f"BATCHSCALE_DATA: '{tmp_path / 'typo'}' is not a folder" in (shown.err if command == "run" else shown.out)


def test_a_device_that_keeps_failing_ends_the_run_in_one_line_with_code_2(monkeypatch, capsys, tmp_path):
    def lost(*_):
        raise DeviceError("3 failures in a row, the last at B=8 scan; run again with --retry-failed")

    monkeypatch.setattr("batchscale.measure.run.suite.planned_stages", lost)
    assert command_line.run(["run", "lenet_digits", "--results", str(tmp_path), "--retry-failed"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("batchscale: 3 failures in a row")


def test_an_error_of_the_system_is_one_line(monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENAMETOOLONG, "File name too long", "a\x1blonger\nname")

    monkeypatch.setattr("batchscale.analysis.pages.report.write_report", refuse)
    assert command_line.run(["report", "anywhere"]) == 2
    assert (
        capsys.readouterr().err
        == "batchscale: a\\x1blonger\\nname: the operating system reports an error (File name too long)\n"
    )


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


@pytest.mark.parametrize("line", ["list", "--help"])
def test_a_closed_pipe_ends_quietly(line):
    script = f"{shlex.quote(sys.executable)} -m batchscale {line} | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("variable", ["JAX_ENABLE_X64=maybe", "JAX_DEFAULT_PRNG_IMPL=nonsense"])
def test_a_variable_that_jax_refuses_is_one_line(variable):
    command = ["env", variable, sys.executable, "-m", "batchscale", "doctor"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("batchscale: JAX does not start: ")
    assert variable.partition("=")[2] in done.stderr


def test_a_closed_pipe_behind_a_table_ends_quietly(tmp_path):
    shutil.copytree(next((ROOT / "results" / "published" / "mlp_mnist").iterdir()), tmp_path / "folder")
    report = f"{shlex.quote(sys.executable)} -m batchscale report {shlex.quote(str(tmp_path / 'folder'))}"
    for script in (f"{report} | true; exit ${{PIPESTATUS[0]}}", f"{report} >&-"):
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(["bash", "-c", f"{report}/none 2>&-"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_behind_the_output_is_one_line():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "batchscale", "--help"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
