"""A results folder from a stranger, every file of it: an answer, or one line that says what is wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import tomllib
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
import simulated_folder
import tomli_w
from batchscale.analysis import figures
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import terminal
from batchscale.analysis.summary.build import summarize
from batchscale.cli import command_line
from batchscale.config.vocabulary import STAGES
from batchscale.errors import InputError
from batchscale.measure.convergence import wave_loop
from batchscale.measure.convergence.tiers import LanePrograms
from batchscale.measure.device import peak_rates
from batchscale.measure.run.suite import planned_stages
from batchscale.measure.throughput import lowering_choice, rounds
from batchscale.records import results_folder, row_files
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_rows import trial
from tiny_workload import experiment, filled, own, session

READ = ["experiment.toml", "machine.json", *results_folder.ROW_FILES, results_folder.JOINED_FROM, "imported.json"]
MEASURED_INTO = [*READ[:4], "tuning.json", "checkpoint"]
JUNK = [b"", b"\0", b"\xff\xfe", b"{", b"null", b"[" * 50_000, b'{"a":' * 20_000, b"\x1b[2J", b"1" * 10_000, b"NaN"]
PROGRAMS = {}
"""Compiled once for all runs."""


@contextmanager
def refused():
    """What is refused within, as a list of at most one message."""
    refusals = []
    try:
        yield refusals
    except InputError as error:
        refusals.append(str(error))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small folder with every file there may be."""
    folder = tmp_path_factory.mktemp("whole")
    simulated_folder.write(
        folder,
        batch_sizes=(16, 64),
        confirm_seeds=2,
        epochs=3.0,
        max_epochs=4.0,
        per_epoch=2,
        rounds=2,
        momenta={0.5: 1.5, 0.9: 1.0},
    )
    (folder / results_folder.JOINED_FROM).write_text('{"schema": 1, "folder": "elsewhere", "machine": "big-gpu"}')
    (folder / "imported.json").write_text(
        '{"schema": 1, "train_examples": 10000, "target_accuracy": 0.95, "learning_rates": true}'
    )
    line = (folder / results_folder.THROUGHPUT).read_bytes().splitlines()[0]
    common = {
        key: value
        for key, value in json.loads(line).items()
        if key in simulated_folder.origin(simulated_folder.Truth())
    }
    row = {
        "kind": "verification",
        "batch_size": 16,
        "learning_rate": 0.1,
        "seed": 1,
        "status": "ok",
        "steps": 3,
        "options": {"momentum": 0.9},
    }
    (folder / results_folder.VERIFICATION).write_text(json.dumps({**common, **row, "seconds": 1.0}) + "\n")
    answered(folder)
    return folder


def answered(folder):
    """The refusal of a folder, None where it is answered; an answer has no number that JSON does not know."""
    with refused() as refusals:
        found = summarize(Sweep.of(frames.load(folder)))
        json.loads(msgspec.json.encode(found), parse_constant=pytest.fail)
        terminal.render(found, io.StringIO())
    return refusals[0] if refusals else None


def one_line(message):
    assert message is None or (message.isprintable() and len(message) < 1000)


@pytest.mark.parametrize("name", READ)
def test_junk_in_place_of_any_file_is_refused_in_one_line(whole, tmp_path, name):
    folder = shutil.copytree(whole, tmp_path / "folder")
    for junk in JUNK:
        (folder / name).write_bytes(junk + b"\n")
        one_line(answered(folder))


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_and_never_waited_for(whole, tmp_path, name, make):
    folder = shutil.copytree(whole, tmp_path / "folder")
    (folder / name).unlink()
    make(folder / name)
    message = answered(folder)
    one_line(message)
    assert "cannot be read" in message
    assert name in message


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["", "../../x", "<script>", "\x1b[2J", "a\nb", "x" * 3000, 0, 1, -1, 1e-320, 1e308])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def places(data, path=()):
    """The path of every value in nested tables and lists; of a long list the first and the last."""
    if path:
        yield path
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        if not isinstance(data, list) or key in (0, len(data) - 1):
            yield from places(value, (*path, key))


def altered(data, path, value):
    """`data` with the value at `path` replaced."""
    if not path:
        return value
    key, *rest = path
    if isinstance(data, dict):
        return {**data, key: altered(data[key], rest, value)}
    return [*data[:key], altered(data[key], rest, value), *data[key + 1 :]]


def without_nulls(data):
    if isinstance(data, dict):
        return {key: without_nulls(value) for key, value in data.items() if value is not None}
    return [without_nulls(one) for one in data if one is not None] if isinstance(data, list) else data


def alter(content, name, draw):
    """A file of a folder with one value replaced by any other."""
    lines = [json.loads(line) for line in content.splitlines()] if name.endswith("jsonl") else []
    data = lines or (tomllib.loads(content.decode()) if name.endswith("toml") else json.loads(content))
    if lines:
        number = draw(st.integers(0, len(lines) - 1))
        path = (number, *draw(st.sampled_from([*places(lines[number])])))
    else:
        path = draw(st.sampled_from([*places(data)]))
    changed = altered(data, path, draw(values))
    if lines:
        return b"".join(json.dumps(row).encode() + b"\n" for row in changed)
    if name.endswith("toml"):
        return tomli_w.dumps(without_nulls(changed)).encode()
    return json.dumps(changed).encode()


@pytest.mark.parametrize("name", READ)
@settings(max_examples=25)
@given(data=st.data())
def test_one_altered_value_anywhere_is_answered_or_refused_in_one_line(whole, tmp_path_factory, name, data):
    try:
        content = alter((whole / name).read_bytes(), name, data.draw)
    except (UnicodeEncodeError, OverflowError):
        return  # nothing that a file could hold
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("altered") / "folder")
    (folder / name).write_bytes(content)
    one_line(answered(folder))
    shutil.rmtree(folder)


def test_a_summary_of_a_stranger_is_written_anew(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "PLOTS", figures.PLOTS[:1])
    folder = shutil.copytree(whole, tmp_path / "folder")
    for junk in JUNK[:3]:
        (folder / "summary.json").write_bytes(junk)
        assert command_line.run(["report", str(folder), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["experiment"] == "simulated"


def begun(folder):
    """A folder as an interrupted run leaves it."""
    one = experiment()
    filled(folder, one, results_folder.THROUGHPUT)
    with row_files.Writer(folder / results_folder.CONVERGENCE) as writer:
        for size in (10, 50):
            for seed in (1, 2):
                writer.append(msgspec.structs.replace(own(trial(), one), batch_size=size, seed=seed))
    session(folder)
    (folder / "checkpoint").write_bytes(b"lanes")
    return folder


def with_compiled_programs(self, session):
    self.session, self.programs = session, PROGRAMS


def continued(folder):
    """The refusal of a run that goes on in a folder and measures nothing, None where it went on."""
    with pytest.MonkeyPatch.context() as patch, refused() as refusals:
        patch.setattr(peak_rates, "measure", lambda *_: [])
        patch.setattr(rounds, "measure", lambda *_: None)
        patch.setattr(lowering_choice, "choose", lambda *_: {})
        patch.setattr(wave_loop, "run", lambda *_: None)
        made = session(folder)
        patch.setattr(LanePrograms, "__init__", with_compiled_programs)
        made.prepare_folder()
        for stage in planned_stages(made, STAGES):
            stage.run()
    return refusals[0] if refusals else None


@pytest.mark.parametrize("name", MEASURED_INTO)
def test_a_run_goes_on_with_junk_in_its_folder_or_refuses_it_in_one_line(tmp_path, name):
    for number, junk in enumerate(JUNK):
        folder = begun(tmp_path / str(number))
        (folder / name).write_bytes(junk + b"\n")
        one_line(continued(folder))


@pytest.mark.parametrize("name", MEASURED_INTO)
@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_run_waits_for_nothing_that_is_no_file(tmp_path, name, make):
    folder = begun(tmp_path / "folder")
    (folder / name).unlink()
    make(folder / name)
    one_line(continued(folder))


@pytest.mark.parametrize("name", MEASURED_INTO[:-1])
@settings(max_examples=15)
@given(data=st.data())
def test_a_run_goes_on_with_one_altered_value_or_refuses_it_in_one_line(tmp_path_factory, name, data):
    folder = begun(tmp_path_factory.mktemp("altered"))
    try:
        (folder / name).write_bytes(alter((folder / name).read_bytes(), name, data.draw))
    except (UnicodeEncodeError, OverflowError):
        return
    one_line(continued(folder))


@pytest.mark.parametrize("lists", [{"steps": [1]}, {"accuracy": []}, {"loss": [None] * 3}, {"test_accuracy": [0.5]}])
def test_a_curve_whose_lists_differ_in_length_is_refused_by_both_halves(whole, tmp_path, lists):
    curve = {"examples": [4, 8], "steps": [1, 2], "accuracy": [0.5, 0.6], "loss": [1.0, 1.0], **lists}
    for folder, read in (
        (begun(tmp_path / "begun"), continued),
        (shutil.copytree(whole, tmp_path / "whole"), answered),
    ):
        line, *_ = (folder / results_folder.CONVERGENCE).read_bytes().splitlines()
        (folder / results_folder.CONVERGENCE).write_text(json.dumps({**json.loads(line), "curve": curve}) + "\n")
        message = read(folder)
        one_line(message)
        assert "convergence.jsonl:1: not a valid row" in message
        assert "different lengths" in message


@pytest.mark.parametrize("name", ["x\n", "x\r", "a/b", "..", "", "-x", "x" * 81, "ä"])
def test_a_machine_cannot_be_named_so_that_its_name_leaves_its_place(tmp_path, name):
    machine = msgspec.to_builtins(simulated_folder.machine_file())
    machine["machine"]["name"] = name
    (tmp_path / "machine.json").write_bytes(msgspec.json.encode(machine))
    with pytest.raises(InputError, match="not valid"):
        results_folder.read_machine(tmp_path)


def test_numbers_of_a_stranger_stay_numbers(whole, tmp_path):
    """The largest that the row types allow, everywhere at once."""
    folder = shutil.copytree(whole, tmp_path / "folder")
    for name, field, value in (
        (results_folder.THROUGHPUT, "seconds", 1e9),
        (results_folder.THROUGHPUT, "seconds", 1e-300),
        (results_folder.THROUGHPUT, "block", 10**15),
    ):
        lines = [json.loads(line) for line in (whole / name).read_bytes().splitlines()]
        lines = [{**line, field: value} if line["kind"] == "round" else line for line in lines]
        (folder / name).write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        assert answered(folder) is None
    assert np.isfinite(frames.load(folder).rounds["seconds_per_step"]).all()
