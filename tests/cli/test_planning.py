"""`batchscale plan`: what it prints, and one line where something is missing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from batchscale.cli import command_line
from batchscale.measure.ahead import planning, plugins
from planned_devices import target
from repository import ROOT


@pytest.fixture
def compilers(monkeypatch):
    """Every compiler installed, and an answer that none of them had to give."""
    asked = []

    def planned(job, see):
        asked.append(job)
        return target(job.target)

    monkeypatch.setattr(plugins, "missing", lambda _: None)
    monkeypatch.setattr(planning, "planned", planned)
    return asked


def test_devices_are_planned_in_the_order_they_are_named(compilers, tmp_path, capsys):
    line = ["plan", "lenet_digits", "--on", "h100", "--on", "l4", "--on", "h100", "--json", "--out", str(tmp_path)]
    assert command_line.run(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["targets"]] == ["h100", "l4"]
    assert found["train_examples"] == compilers[0].splits[0]
    assert (tmp_path / "plan.html").exists()


def test_sentences_and_a_table_are_printed(compilers, tmp_path, capsys):
    assert command_line.run(["plan", "lenet_digits", "--on", "h100", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Step at least" in printed
    assert "the largest batch found to fit" in printed
    assert f"page: {tmp_path / 'plan.html'}" in printed


def test_a_device_that_fails_keeps_the_others(compilers, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(planning, "planned", lambda job, _: "it died" if job.target == "l4" else target(job.target))
    line = ["plan", "lenet_digits", "--on", "l4", "--on", "h100", "--json", "--out", str(tmp_path)]
    assert command_line.run(line) == 0
    first, second = json.loads(capsys.readouterr().out)["targets"]
    assert first["message"] == "it died"
    assert second["message"] is None


def test_a_plan_without_any_step_is_one_line_with_the_reason_and_no_page(compilers, monkeypatch, tmp_path, capsys):
    why = "ptxas could not open its output, " + "which is a long reason " * 4
    monkeypatch.setattr(planning, "planned", lambda job, _: target(job.target, message=why, largest_batch_size=None))
    line = ["plan", "lenet_digits", "--on", "h100", "--on", "l4", "--out", str(tmp_path / "plan")]
    assert command_line.run(line) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"batchscale: no step could be planned: H100: {why}; L4: {why}"
    assert not (tmp_path / "plan").exists()


def test_a_missing_compiler_is_one_line_that_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(plugins, "missing", lambda _: f"no compiler; to install it: {plugins.INSTALL}")
    assert command_line.run(["plan", "lenet_digits", "--on", "h100"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("batchscale: --on h100: no compiler; to install it: pip install")
    assert error.count("\n") == 1


def test_steps_of_another_workload_are_refused_before_anything_is_compiled(compilers, recorded, capsys):
    assert command_line.run(["plan", "mlp_mnist", "--on", "h100", "--needs", str(recorded)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"batchscale: --needs {recorded}: workload.")
    assert error.count("\n") == 1
    assert compilers == []


def test_a_page_without_a_place_is_refused_before_anything_is_compiled(compilers, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out, reason in ((tmp_path / "file", "Not a directory"), (tmp_path / "file" / "deeper", "Not a directory")):
        assert command_line.run(["plan", "lenet_digits", "--on", "h100", "--out", str(out)]) == 2
        assert capsys.readouterr().err == f"batchscale: {out}: cannot be written ({reason})\n"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert command_line.run(["plan", "lenet_digits", "--on", "h100", "--out", str(tmp_path / "new")]) == 2
    assert "new: cannot be written (Permission denied)" in capsys.readouterr().err
    assert compilers == []
    assert not (tmp_path / "new").exists()


def test_an_unknown_experiment_is_named_before_a_missing_compiler(monkeypatch, capsys):
    monkeypatch.setattr(plugins, "missing", lambda _: "no compiler")
    assert command_line.run(["plan", "lenet_digit", "--on", "h100"]) == 2
    assert "lenet_digit" in capsys.readouterr().err


SLEEPER = """
import sys
from batchscale.cli import command_line
from batchscale.measure.ahead import plugins, target_process
plugins.missing = lambda _: None
writes = "import os, sys, time; open(sys.argv[1], 'w').write(f'{os.getpid()} '); time.sleep(600)"
target_process.COMMAND = (sys.executable, "-c", writes, sys.argv[1])
command_line.main(["plan", "lenet_digits", "--on", "h100", "--out", sys.argv[2]])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_plan_with_one_line_and_no_child_left(tmp_path, number):
    child = tmp_path / "child"
    path = os.pathsep.join([str(ROOT / "bench"), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(child), str(tmp_path / "plan")],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (child.exists() and child.read_text().endswith(" ")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "batchscale: stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text()), 0)


def test_an_unknown_device_is_refused(capsys):
    assert command_line.run(["plan", "lenet_digits", "--on", "h99"]) == 2
    assert "--on: 'h99', expected one of h100" in capsys.readouterr().err


def test_a_plan_needs_a_device(capsys):
    assert command_line.run(["plan", "lenet_digits"]) == 2
    assert "--on" in capsys.readouterr().err
