"""`batchscale plan`: what it prints, and one line where something is missing."""

import json

import pytest
from batchscale.cli import command_line
from batchscale.measure.ahead import planning, plugins
from planned_devices import target


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


def test_an_unknown_device_is_refused(capsys):
    assert command_line.run(["plan", "lenet_digits", "--on", "h99"]) == 2
    assert "--on: 'h99', expected one of h100" in capsys.readouterr().err


def test_a_plan_needs_a_device(capsys):
    assert command_line.run(["plan", "lenet_digits"]) == 2
    assert "--on" in capsys.readouterr().err
