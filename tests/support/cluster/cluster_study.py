"""A small study for tests of clusters, and what a plain run makes of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from batchscale.records import results_folder
from repository import ROOT
from subprocess_study import environment

EXPERIMENT = """
title = "on a cluster"
batch_sizes = { values = [7, 10, 50] }
target = { accuracy = 0.8 }
learning_rate = { anchor = 0.05, anchor_batch_size = 32, span = 1, extend = 1 }
seeds = { search = 2, confirm = 2 }
budget = { epochs = 2, max_epochs = 2 }
evaluation = { first_epoch = 8, per_epoch = 4 }
throughput = { rounds = 5, round_seconds = 0.001, loops = ["scan"], max_batch_size = "skip" }

[workload]
dataset = "digits"
model = "lenet"
model_options = { filters = [4, 6], hidden = 16, kernel = 3, padding = 1 }
optimizer = "momentum"
"""
"""Two tiers, so that two nodes have work at the same time."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0", "NO_COLOR": "1"}


def finished(workplace: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command of Python in a folder that holds the experiment, to its end."""
    (workplace / "study.toml").write_text(EXPERIMENT)
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=workplace,
        env={**environment(workplace), **QUIET, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def only_folder(results: Path) -> Path:
    """Return the one folder of results."""
    (folder,) = (results / "study").iterdir()
    return folder


def without_commit(workplace: Path) -> Path:
    """Copy the package to where it has no commit, so that its version is another; return the folder of the copy."""
    old = workplace / "old"
    for name in ("bench/batchscale", "models"):
        shutil.copytree(ROOT / name, old / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return old / "bench"


def plain(workplace: Path) -> Path:
    """Return the results of a run without a cluster."""
    done = finished(workplace, "-m", "batchscale", "run", "study.toml", "--results", "plain", "--stages", "convergence")
    assert done.returncode == 0, done.stderr
    return only_folder(workplace / "plain")


def with_choices_of(folder: Path, results: Path) -> Path:
    """Let a run begin with the lowerings of another: trials of speed may choose differently, which changes rounding."""
    new = results / "study" / folder.name
    new.mkdir(parents=True)
    shutil.copy(folder / results_folder.TUNING, new)
    return new
