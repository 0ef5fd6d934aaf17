"""Steps that were measured on an H100 lie inside the ranges that `plan` estimates for it without one."""

import json
import os
import subprocess
import sys

import pytest
from batchscale.analysis.summary import build
from batchscale.measure.ahead import plugins, targets
from repository import ROOT

MEASURED = ROOT / "results" / "published" / "mlp_mnist"
MOST_SECONDS = 900

pytestmark = pytest.mark.accelerator


def test_every_step_measured_on_an_h100_lies_in_its_estimated_range(tmp_path):
    if why := plugins.missing(targets.target_named("h100")):
        pytest.skip(why)
    path = os.pathsep.join([str(ROOT / "bench"), *filter(None, [os.environ.get("PYTHONPATH")])])
    needs = str(MEASURED / "cpu-amd-epyc-2c")
    command = ["plan", "mlp_mnist", "--on", "h100", "--needs", needs, "--json", "--out", str(tmp_path / "plan")]
    done = subprocess.run(
        [sys.executable, "-m", "batchscale", *command],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (planned,) = json.loads(done.stdout)["targets"]
    steps = {step["batch_size"]: step for step in planned["steps"]}
    measured = build.read(MEASURED / "nvidia-h100-80gb-hbm3")
    for cell in measured.cells:
        low, high = steps[cell.batch_size]["likely_seconds"]
        assert steps[cell.batch_size]["bound_seconds"] < low <= cell.seconds_per_step <= high, cell.batch_size
    assert {*measured.time_optimal.tied} <= {*planned["likely_optimal"]}
