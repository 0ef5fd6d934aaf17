"""The check of a GPU runs on a CPU as well, small, and what it found is not looked for again."""

import subprocess
import sys

import pytest
from repository import ROOT

SCRIPT = ROOT / "tests" / "accelerators" / "gpu_check.py"
STEPS = [
    *("products", "sensors", "throughput 1", "throughput 2", "throughput 3", "processes", "lowerings", "lanes"),
    *("ratios", "suite"),
]

pytestmark = pytest.mark.slow


def checked(folder):
    command = [sys.executable, str(SCRIPT), "--small", "--out", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


def test_every_step_runs_and_a_second_run_repeats_only_what_failed(tmp_path):
    first = checked(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert [line.removesuffix(" ...") for line in first.stderr.splitlines() if line.endswith(" ...")] == STEPS
    for step in STEPS:
        assert f"\n{step} (" in first.stdout
    assert "\n0 not as it should be; " in first.stdout
    kept = tmp_path / "gpu_check.jsonl"
    lines = kept.read_text().splitlines()
    failed = lines[0].replace('"failure":null', '"failure":"it broke"')
    assert failed != lines[0]
    kept.write_text("\n".join([failed, *lines[1:-1], lines[-1][:-9]]) + "\n")
    second = checked(tmp_path)
    repeated = [line.removesuffix(" ...") for line in second.stderr.splitlines() if line.endswith(" ...")]
    assert repeated == ["products", "suite"]
    assert second.returncode == 0
    assert second.stdout.count(" (") >= len(STEPS)
