"""What programs and agents read: the shipped JSON Schema is current, every output fits it, and SKILL.md works."""

import json
import math
import re
import shlex
import tomllib
from pathlib import Path

import batchscale
import click
import pytest
import simulated_folder
from batchscale.cli import command_line, json_output, measuring
from batchscale.config import experiment
from batchscale.measure.ahead import planning, plugins
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from planned_devices import target

EXPERIMENTS = Path(batchscale.__file__).parent / "experiments"
SKILL = Path(batchscale.__file__).with_name("SKILL.md")
SCHEMA = json.loads(json_output.SCHEMA.read_bytes())


@pytest.fixture
def folder(tmp_path):
    simulated_folder.write(
        tmp_path / "studies" / "one" / "quick", batch_sizes=(16, 64, 256), confirm_seeds=2, machine="quick"
    )
    return tmp_path / "studies" / "one" / "quick"


def printed(capsys, *line, code=0):
    """Run a command with --json; return its output once it fits the schema of the command."""
    assert command_line.run([*map(str, line), "--json"]) == code
    (text,) = capsys.readouterr().out.splitlines()
    value = json.loads(text, parse_constant=pytest.fail)
    assert faults(value, SCHEMA["$defs"][line[0]]) == []
    assert faults(value, {"anyOf": SCHEMA["anyOf"]}) == []
    return value


def test_the_shipped_schema_is_what_the_types_give():
    given = json_output.encoded(json_output.json_schema())
    assert json_output.SCHEMA.read_bytes() == given, "python -m batchscale.cli.json_output writes it"


def test_the_schema_is_json_with_and_without_the_option(capsys):
    assert [command_line.run(line) for line in (["schema"], ["schema", "--json"])] == [0, 0]
    assert capsys.readouterr().out == 2 * json_output.SCHEMA.read_text()


def test_the_schema_of_experiments_fits_the_shipped_ones_and_knows_every_key(capsys):
    assert command_line.run(["schema", "--experiment"]) == 0
    described = Draft202012Validator(json.loads(capsys.readouterr().out))
    for name in experiment.shipped():
        table = tomllib.loads((EXPERIMENTS / f"{name}.toml").read_text())
        assert [*described.iter_errors(table)] == []
        table["seeds"] = {"confrim": 5}
        [fault] = described.iter_errors(table)
        assert "'confrim' was unexpected" in fault.message


def test_every_command_has_json_exit_codes_and_no_prompt(capsys):
    assert {*json_output.OUTPUTS} == {*command_line.APP.commands} - {"schema"}
    for name, command in command_line.APP.commands.items():
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert not any(one.prompt for one in options)
        assert any("--json" in one.opts for one in options)
        assert command_line.run([name, "--help"]) == 0
        assert "exit codes:\n    0    done\n" in capsys.readouterr().out


def test_an_explanation_multiplies_steps_and_speed(folder, capsys):
    found = printed(capsys, "explain", folder)
    assert len(found["lines"]) <= 10
    factors = [re.findall(r"([\d.]+) times", line) for line in found["lines"] if line.startswith("Against")]
    assert factors
    for steps, speed, time in factors:
        assert float(steps) * float(speed) == pytest.approx(float(time), rel=0.01)
    assert command_line.run(["explain", str(folder), "--batch-size", "17"]) == 2
    assert "17 was not measured, expected one of 16, 64 and 256" in capsys.readouterr().err


def test_a_field_that_is_missing_or_unknown_or_of_another_type_does_not_fit():
    value = {"schema": 1, "written": ["a"]}
    assert faults(value, SCHEMA["$defs"]["export"]) == []
    for change in ({"schema": 2}, {"written": "a"}, {"written": [1]}, {"other": 1}):
        assert faults({**value, **change}, SCHEMA["$defs"]["export"])
    assert faults({"schema": 1}, SCHEMA["$defs"]["export"]) == ["$: 'written' is a required property"]


@pytest.mark.slow
@pytest.mark.usefixtures("few_figures")
def test_every_reading_command_prints_what_its_schema_says(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")
    printed(capsys, "doctor", "--results", tmp_path)
    printed(capsys, "report", folder)
    printed(capsys, "figures", folder, "--only", "time_to_target", "--format", "svg")
    printed(capsys, "export", folder)
    printed(capsys, "compare", folder, folder, "--out", tmp_path / "both")
    printed(capsys, "submit", folder, "--published", tmp_path / "published", code=1)
    printed(capsys, "site", tmp_path / "studies", "--out", tmp_path / "site")
    monkeypatch.setattr(plugins, "missing", lambda _: None)
    monkeypatch.setattr(planning, "planned", lambda job, _: target(job.target))
    printed(capsys, "plan", "lenet_digits", "--on", "h100", "--out", tmp_path / "plan")
    (tmp_path / "t.csv").write_text("batch_size,seconds_per_step\n16,0.001\n64,0.002\n256,0.004\n")
    printed(capsys, "predict", folder, "--seconds-per-step", tmp_path / "t.csv")
    (tmp_path / "c.csv").write_text("batch_size,seed,steps_to_target\n16,0,900\n64,0,300\n")
    printed(
        capsys,
        "analyze",
        "--convergence",
        tmp_path / "c.csv",
        "--throughput",
        tmp_path / "t.csv",
        "--out",
        tmp_path / "out",
    )


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", SKILL.read_text(), re.MULTILINE | re.DOTALL)


def test_the_skill_is_one_page():
    assert len(SKILL.read_text().splitlines()) <= 90
    assert SKILL.name in (SKILL.parents[2] / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("few_figures", "brief")
def test_every_command_of_the_skill_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")
    monkeypatch.setattr(measuring, "QUICK_MINUTES", 0.02)
    (text,) = blocks("toml")
    Path("mine.toml").write_text(text)
    curves = "".join(
        f"{b}-{s},{b},0.1,{s},{step},{4.28 - step * b**0.25 / 600 + s / 50},{step * 0.01 * b**0.5}\n"
        for b in (8, 32, 128)
        for s in (0, 1, 2)
        for step in range(50, 500, 50)
    )
    Path("runs.csv").write_text("run,batch_size,learning_rate,seed,step,val_loss,seconds\n" + curves)
    finals = "".join(
        f"{n},{d},{lr},{b},{2 + (math.log2(b / 32) ** 2 + math.log2(lr / 0.1) ** 2) / 100 + n / 1e9}\n"
        for n in (1e8, 2e8)
        for d in (1e9, 2e9)
        for lr in (0.05, 0.1, 0.2)
        for b in (8, 32, 128)
    )
    Path("finals.csv").write_text("N,D,learning_rate,batch_size,loss\n" + finals)
    Path("t.csv").write_text("batch_size,seconds_per_step\n8,0.001\n32,0.002\n128,0.004\n")
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 12
    for line in lines:
        (where,) = Path("results").glob("local/*/*") if "DIR" in line else [Path()]
        words = shlex.split(line.replace("DIR", str(where)))
        assert words.pop(0) == "batchscale"
        if words[-1] == "--json":
            found = printed(capsys, *words[:-1])
            if "--quick" in words:
                assert found["decided"] is (found["next_command"] is None)
                assert len(found["undecided"]) == len(found["summaries"]) == 1
                assert "--budget 60" in (found["next_command"] or "--budget 60")
        else:
            assert command_line.run(words) == 0
            assert capsys.readouterr().out


def faults(value, schema):
    """Return what is most wrong with a value, as a list of one line; empty where the value fits."""
    whole = {"$defs": DEFINITIONS, **strict(schema)}
    worst = best_match(Draft202012Validator(whole).iter_errors(value))
    return [f"{worst.json_path}: {worst.message}"] if worst else []


def strict(schema):
    """Return a schema that also refuses fields without a name in it: readers may ignore those, but we write none."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return closed | {name: strict(one) for name, one in schema.items()}


DEFINITIONS = strict(SCHEMA["$defs"])
