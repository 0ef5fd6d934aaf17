"""What programs and agents read: the shipped JSON Schema is current, every output fits it, and SKILL.md works."""

import json
import math
import re
import shlex
from pathlib import Path

import batchscale
import click
import pytest
import simulated_folder
from batchscale.cli import command_line, json_output, measuring

SKILL = Path(batchscale.__file__).with_name("SKILL.md")
SCHEMA = json.loads(json_output.SCHEMA.read_bytes())
TEXT_ONLY = {"schema"}


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
    value = json.loads(text)
    assert faults(value, SCHEMA["$defs"][line[0]], SCHEMA) == []
    assert faults(value, {"anyOf": SCHEMA["anyOf"]}, SCHEMA) == []
    return value


def test_the_shipped_schema_is_what_the_types_give():
    assert json_output.SCHEMA.read_bytes() == json_output.encoded(), "python -m batchscale.cli.json_output writes it"


def test_every_command_has_json_exit_codes_and_no_prompt(capsys):
    assert {*json_output.OUTPUTS} == {*command_line.APP.commands} - TEXT_ONLY
    for name, command in command_line.APP.commands.items():
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert not any(one.prompt for one in options)
        assert name in TEXT_ONLY or any("--json" in one.opts for one in options)
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
    assert faults(value, SCHEMA["$defs"]["export"], SCHEMA) == []
    for change in ({"schema": 2}, {"written": "a"}, {"written": [1]}, {"other": 1}):
        assert faults({**value, **change}, SCHEMA["$defs"]["export"], SCHEMA)
    assert faults({"schema": 1}, SCHEMA["$defs"]["export"], SCHEMA) == ["$.written: missing"]


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
@pytest.mark.usefixtures("few_figures")
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
    Path("t.csv").write_text("batch_size,seconds_per_step\n8,0.001\n32,0.002\n128,0.004\n")
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 8
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


# The keywords of JSON Schema that msgspec writes; any other one is an error.
TYPES = {"string": str, "boolean": bool, "null": type(None), "array": list, "object": dict, "integer": int}
ANNOTATIONS = {"$defs", "$schema", "title", "version", "description", "default", "pattern", "maxLength"}


def faults(value, schema, root, where="$"):
    """Return what is wrong with a value, one line each."""
    found = []
    for keyword, wanted in schema.items():
        if keyword not in ANNOTATIONS:
            found += globals()[f"_{keyword.lstrip('$')}"](value, wanted, schema, root, where)
    return found


def _ref(value, wanted, schema, root, where):
    return faults(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, where)


def _anyOf(value, wanted, schema, root, where):  # noqa: N802 - the keyword's name
    tried = [faults(value, one, root, where) for one in wanted]
    return [] if [] in tried else min(tried, key=len)


def _type(value, wanted, schema, root, where):
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    fits = number if wanted == "number" else isinstance(value, TYPES[wanted])
    return (
        [] if fits and not (wanted == "integer" and isinstance(value, bool)) else [f"{where}: {value!r}: no {wanted}"]
    )


def _enum(value, wanted, schema, root, where):
    return [] if value in wanted else [f"{where}: {value!r}: not one of {wanted}"]


def _const(value, wanted, schema, root, where):
    return _enum(value, [wanted], schema, root, where)


def _required(value, wanted, schema, root, where):
    return [f"{where}.{name}: missing" for name in wanted if name not in value] if isinstance(value, dict) else []


def _properties(value, wanted, schema, root, where):
    held = value if isinstance(value, dict) else {}
    unknown = (
        [] if "additionalProperties" in schema else [f"{where}.{name}: unknown" for name in held if name not in wanted]
    )
    known = [faults(held[name], one, root, f"{where}.{name}") for name, one in wanted.items() if name in held]
    return [*unknown, *(line for lines in known for line in lines)]


def _additionalProperties(value, wanted, schema, root, where):  # noqa: N802 - the keyword's name
    held = value if isinstance(value, dict) else {}
    rest = {name: one for name, one in held.items() if name not in schema.get("properties", {})}
    return [line for name, one in rest.items() for line in faults(one, wanted, root, f"{where}.{name}")]


def _items(value, wanted, schema, root, where):
    rest = value[len(schema.get("prefixItems", [])) :] if isinstance(value, list) else []
    if wanted is False:
        return [f"{where}: too long"] if rest else []
    return [line for at, one in enumerate(rest) for line in faults(one, wanted, root, f"{where}[{at}]")]


def _prefixItems(value, wanted, schema, root, where):  # noqa: N802 - the keyword's name
    pairs = enumerate(zip(value if isinstance(value, list) else [], wanted, strict=False))
    return [line for at, (one, of) in pairs for line in faults(one, of, root, f"{where}[{at}]")]


def _minItems(value, wanted, schema, root, where):  # noqa: N802 - the keyword's name
    return [f"{where}: too short"] if isinstance(value, list) and len(value) < wanted else []


def _maxItems(value, wanted, schema, root, where):  # noqa: N802 - the keyword's name
    return [f"{where}: too long"] if isinstance(value, list) and len(value) > wanted else []


def _minimum(value, wanted, schema, root, where):
    return [f"{where}: {value}: below {wanted}"] if isinstance(value, int | float) and value < wanted else []


def _maximum(value, wanted, schema, root, where):
    return [f"{where}: {value}: above {wanted}"] if isinstance(value, int | float) and value > wanted else []


def _exclusiveMinimum(value, wanted, schema, root, where):  # noqa: N802 - the keyword's name
    return [f"{where}: {value}: not above {wanted}"] if isinstance(value, int | float) and value <= wanted else []
