"""Run a study of a few seconds in child processes that share compiled programs."""

import os
import subprocess
import sys

from batchscale.measure.throughput import cell_process
from batchscale.records import results_folder, row_files
from batchscale.records.row_types import Round
from long_proofs import with_quick_flags
from repository import ROOT
from tiny_workload import TINY

SWEEP = {
    **TINY,
    "batch_sizes": {"values": [10, 50]},
    "budget": {"epochs": 12, "max_epochs": 16},
    "evaluation": {"first_epoch": 4, "per_epoch": 4},
    "throughput": {"rounds": 8, "round_seconds": 0.02, "loops": ["scan"]},
}
BRIEFLY = """
import sys
from batchscale.measure.device import peak_rates
peak_rates.ROUND_SECONDS, peak_rates.WIDTHS, peak_rates.COPY_BYTES = 0.001, peak_rates.WIDTHS[:1], 1 << 20
"""
"""Measures peak rates in moments: how fast this machine is does not matter here."""
RUN = f"""{BRIEFLY}
from batchscale.cli import command_line, measuring
measuring.answer = lambda *_, **__: 0
sys.exit(command_line.run(sys.argv[1:]))
"""
"""The command line, which measures briefly and writes no pages."""
MEASURE = f"""{BRIEFLY}
from pathlib import Path
from batchscale.measure.control.signals import Stopper
from batchscale.measure.convergence import wave_loop
from batchscale.measure.device.machine import Host
from batchscale.measure.run import suite
assert wave_loop.CHECKPOINT_SECONDS > 1
wave_loop.CHECKPOINT_SECONDS = 0.05
suite.measure(suite.Request([sys.argv[1]], results=Path(sys.argv[2])), Host.describe(), Stopper())
"""


def environment(workplace):
    """Return the environment of a child process: this checkout's package, and a cache of programs in `workplace`.

    XLA optimizes little there: compiling takes longer than running what is compiled.
    """
    cache = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": with_quick_flags(os.environ.get("XLA_FLAGS", "")),
        "JAX_COMPILATION_CACHE_DIR": str(workplace / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT / "bench"), str(ROOT / "tests" / "support")])}
    return {**os.environ, **cell_process.VARIABLES, **cache, **path}


def begin(workplace, results, *command):
    line = [sys.executable, *(command or ("-c", MEASURE, "sweep.toml", str(results)))]
    return subprocess.Popen(
        line, cwd=workplace, env=environment(workplace), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def only_folder(results):
    (folder,) = (results / "sweep").iterdir()
    return folder


def rounds(folder):
    found = [row for row in row_files.read(folder / results_folder.THROUGHPUT) if isinstance(row, Round)]
    return sorted((row.batch_size, row.loop, row.round) for row in found)
