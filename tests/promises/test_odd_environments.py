"""Faults that odd environments and texts showed: each ends in one line, or changes nothing."""

import io
import os
import shutil
import subprocess
import sys

import msgspec
import pytest
import simulated_folder
from batchscale.cli import command_line
from batchscale.config import experiment as experiments
from batchscale.errors import InputError
from batchscale.measure.device import machine as device
from batchscale.records import results_folder
from repository import ROOT


@pytest.mark.parametrize("field", ["title", "description", "notice"])
@pytest.mark.parametrize("letter", ["\x1b", "\x00", "\x9b", "\u202e", "\u2066"])
def test_a_control_character_in_a_free_text_is_refused(field, letter):
    table = msgspec.to_builtins(experiments.find("mlp_mnist"))
    with pytest.raises(InputError, match=f"{field}: expected text without control characters") as error:
        experiments.parse({**table, field: f"red{letter}[31m"}, "mine", "mine.toml")
    assert str(error.value).isprintable()
    assert experiments.parse({**table, "notice": "two\nlines,\ttabs and é"}, "mine", "mine.toml").notice


def test_a_terminal_that_lacks_characters_gets_escapes(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    command_line._never_fail_to_print()
    print("5 \xb5s")
    shown.flush()
    assert shown.buffer.getvalue() == b"5 \\xb5s\n"


@pytest.mark.parametrize("failure", [AssertionError(), RuntimeError("Unknown backend: 'gpu' requested")])
def test_a_platform_that_is_not_here_is_one_line(monkeypatch, failure):
    def devices():
        raise failure

    monkeypatch.setattr(device.jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(InputError, match=r"^JAX_PLATFORMS=cuda: JAX finds no such device here \("):
        device.describe()
    monkeypatch.delenv("JAX_PLATFORMS")
    with pytest.raises(type(failure)):
        device.describe()


@pytest.mark.parametrize(("change", "accepted"), [(-49_152, True), (49_152, True), (1 << 33, False)])
def test_some_pages_of_memory_more_or_fewer_are_the_same_machine(tmp_path, change, accepted):
    simulated_folder.write(tmp_path, batch_sizes=(16,), confirm_seeds=1)
    known = results_folder.read_machine(tmp_path)
    before = 32 << 30
    results_folder.row_files.write_json(
        tmp_path / results_folder.MACHINE,
        msgspec.structs.replace(known, machine=msgspec.structs.replace(known.machine, host_memory_bytes=before)),
    )
    machine = msgspec.structs.replace(known.machine, host_memory_bytes=before + change)
    experiment = results_folder.read_experiment(tmp_path)
    if accepted:
        results_folder.prepare(tmp_path, experiment, machine, known.environments)
    else:
        with pytest.raises(InputError, match="host_memory_bytes"):
            results_folder.prepare(tmp_path, experiment, machine, known.environments)


@pytest.mark.slow
def test_figures_need_nothing_of_the_users_matplotlib(tmp_path, recorded):
    """A notebook exports a backend that may not be installed here; a matplotlibrc in this folder may ask for LaTeX."""
    folder = shutil.copytree(recorded, tmp_path / "folder")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: module://nowhere\n")
    own = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONPATH": str(ROOT / "bench")}
    command = [sys.executable, "-m", "batchscale", "figures", str(folder), "--only", "steps_to_target"]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
