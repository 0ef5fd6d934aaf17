"""The check of a GPU runs on a CPU as well, small, and what it found is not looked for again."""

import importlib
import subprocess
import sys

import pytest
from repository import ROOT

SCRIPT = ROOT / "tests" / "accelerators" / "gpu_check.py"
STEPS = [
    *("products", "sensors", "throughput 1", "throughput 2", "throughput 3", "processes", "lowerings", "lanes"),
    *("ratios", "suite"),
]


def checked(folder):
    command = [sys.executable, str(SCRIPT), "--small", "--out", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Check in one folder, with steps that only say that they ran; return their names."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    gpu_check = importlib.import_module("gpu_check")

    def of(*identity, small=False, broken=()):
        ran = []

        def run(place, step):
            ran.append(step)
            facts = [gpu_check.Fact("part", one) for one in identity] if step == gpu_check.IDENTITY else []
            return gpu_check.Found(step, 1.0, facts, "it broke" if step in broken else None)

        monkeypatch.setattr(gpu_check, "_run", run)
        gpu_check.check(gpu_check.Place(tmp_path, small))
        return ran

    return of


def test_what_was_found_counts_only_for_the_same_device_version_and_commit(check):
    one = ("gpu", "jax-1", "abc")
    assert check(*one, small=True) == ["identity", *STEPS]
    assert check(*one) == ["identity", *STEPS]
    for other in (("gpu2", *one[1:]), (one[0], "jax-2", one[2]), (*one[:2], "abd")):
        assert check(*other) == ["identity", *STEPS]
    assert check(*one) == ["identity"]
    assert check(*one, small=True) == ["identity"]


def test_a_device_that_cannot_be_named_is_not_checked(check):
    assert check(broken=["identity"]) == ["identity"]


@pytest.mark.slow
def test_every_step_runs_and_a_second_run_repeats_only_what_failed(tmp_path):
    first = checked(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    assert [line.removesuffix(" ...") for line in first.stderr.splitlines() if line.endswith(" ...")] == STEPS
    for step in STEPS:
        assert f"\n{step} (" in first.stdout
    assert "\n0 not as it should be; " in first.stdout
    (kept,) = tmp_path.glob("small_*/gpu_check.jsonl")
    lines = kept.read_text().splitlines()
    failed = lines[0].replace('"failure":null', '"failure":"it broke"')
    assert failed != lines[0]
    kept.write_text("\n".join([failed, *lines[1:-1], lines[-1][:-9]]) + "\n")
    second = checked(tmp_path)
    repeated = [line.removesuffix(" ...") for line in second.stderr.splitlines() if line.endswith(" ...")]
    assert repeated == ["products", "suite"]
    assert second.returncode == 0
    assert second.stdout.count(" (") >= len(STEPS)
