"""How many modules the data passes on its way: the counts may fall, and a change that raises one has to say why.

A hop is a module whose functions are entered (see `hops.py`). The experiment is as small as it can be and
still enters every module that the packaged `lenet_digits` enters; the simulated folder enters every module that a
published folder does.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import simulated_folder
from repository import ROOT
from subprocess_study import environment

pytestmark = pytest.mark.slow

CEILINGS = {"Trial": 51, "Round": 49, "page": 60}
"""Rows pass one module more since what is known of trials and of cells (`training`, `timing`) has a home below the
stages, so that no two modules need each other. A round passes four modules more: `cells_ahead` keeps programs that are
compiled before any cell is timed, `calibration` measures the peak rates, and `hlo_text` and `kernels` count the bytes
that a step moves. Rows pass two or three more since a target may be any score (`target`), an estimate knows how long a
platform compiles (`platform_policy`), and a curve may count epochs or seconds (`curves`). The page passes four more:
`target`, `curves`, `amounts`, which decides what follows from such a count, and `observed`, which checks the series of
a trial."""
EXPERIMENT = """
title = "hops"
batch_sizes = { values = [10, 50] }
target = { accuracy = 0.5 }
learning_rate = { anchor = 0.05, anchor_batch_size = 32, rule = "sqrt", span = 1 }
seeds = { search = 1, confirm = 1 }
budget = { epochs = 1, max_epochs = 1 }
throughput = { rounds = 5, round_seconds = 0.001, loops = ["scan"] }

[workload]
dataset = "digits"
model = "lenet"
model_options = { filters = [2, 3], hidden = 8, kernel = 3, padding = 1 }
optimizer = "momentum"
"""


def hops(folder, row_type, *command):
    """The modules entered until the first row of this type, in order; "-" counts to the end of the command."""
    program = [sys.executable, ROOT / "tests" / "promises" / "hops.py", row_type, *command]
    done = subprocess.run(
        program, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("stage", "row_type", "measures"),
    [
        ("convergence", "Trial", "bench/batchscale/measure/convergence/"),
        ("throughput", "Round", "bench/batchscale/measure/throughput/"),
    ],
)
def test_from_an_experiment_to_its_first_row(tmp_path, stage, row_type, measures):
    (tmp_path / "hops.toml").write_text(EXPERIMENT)
    entered = hops(tmp_path, row_type, "run", "hops.toml", "--results", "results", "--stages", stage)
    assert len(entered) <= CEILINGS[row_type], entered
    assert any(module.startswith(measures) for module in entered)
    assert {"models/lenet.py", "bench/batchscale/records/row_files.py"} <= set(entered)
    assert not any(module.startswith("bench/batchscale/analysis/") for module in entered)


def test_from_rows_to_the_page(tmp_path):
    simulated_folder.write(tmp_path / "folder", batch_sizes=(16, 64, 256), confirm_seeds=2, epochs=3.0, max_epochs=4.0)
    entered = hops(tmp_path, "-", "report", "folder")
    assert len(entered) <= CEILINGS["page"], entered
    assert (tmp_path / "folder" / "report.html").exists()
    assert not any(module.startswith("bench/batchscale/measure/") for module in entered)
