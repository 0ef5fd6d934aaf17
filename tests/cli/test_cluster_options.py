"""Where `run` measures: one scheduler or one program on several hosts, and nothing else is touched."""

import os

import pytest
from batchscale.cli import command_line


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--ray", "--slurm", "time=5"], "--ray: with --slurm, expected only one of them"),
        (["--slurm", "time=5", "--multihost"], "--slurm: with --multihost, expected only one of them"),
        (["--processes", "2"], "--processes: without --multihost, expected both"),
        (["--process", "0", "--ray"], "--process: without --multihost, expected both"),
        (["--multihost", "--process", "-1"], "'-1' is not allowed, expected a whole number from 0 to 99,999"),
        (["--multihost", "--processes", "2", "--process", "2"], "--process: 2, expected a number below 2"),
        (["--multihost", "--stages", "convergence"], "--stages: convergence, expected throughput, which --multihost"),
        (["--multihost", "--budget", "5"], "--budget: with --multihost, which trains nothing to scale by, expected"),
        (["--multihost", "--quick"], "--quick: with --multihost, which trains nothing to scale by, expected"),
        *(
            (["--multihost", "--coordinator", text], f"{text!r}, expected HOST:PORT with a port from 1 to 65535")
            for text in ("here", ":8476", "here:", "here:0", "here:99999", "here:http")
        ),
        (["--slurm", "--json"], "Option '--slurm' requires an argument, found '--json'"),
    ],
)
def test_options_that_contradict_each_other_are_refused_in_one_line(capsys, monkeypatch, given, says):
    monkeypatch.setenv("JAX_PLATFORMS", "as it was")
    assert command_line.run(["run", "lenet_digits", *given]) == 2
    assert says in capsys.readouterr().err
    assert os.environ["JAX_PLATFORMS"] == "as it was"


def test_slurm_options_are_checked_before_anything_else(capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    assert command_line.run(["run", "lenet_digits", "--slurm", "colour=red"]) == 2
    assert "--slurm: 'colour=red', expected options of account=" in capsys.readouterr().err
