"""The whole reading half, from rows to a summary: right in most of many worlds, and quick for very many rows."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import simulated_folder
from batchscale.analysis.metrics.scaling import critical_batch_size
from batchscale.analysis.summary.build import time_optimal
from simulated_answers import TRUTH, swept


@pytest.mark.slow
def test_tied_sets_and_knees_hold_through_the_whole_pipeline():
    worlds, held, covered = 12, 0, 0
    truth = replace(TRUTH, rate_penalty=3.0, per_epoch=16, confirm_seeds=3, epochs=10.0, also=(), watts=None)
    for world in range(worlds):
        sweep = swept(truth, seed=world)
        held += truth.time_optimal_batch_size in time_optimal(sweep).tied
        low, high = critical_batch_size(sweep).interval
        covered += low <= truth.critical_batch_size <= high
    assert held >= worlds - 2
    assert covered >= worlds - 3


@pytest.mark.slow
def test_a_hundred_thousand_trials_take_a_few_dozen_times_what_parsing_takes_and_little_memory(
    tmp_path,
):
    truth = simulated_folder.write(
        tmp_path, batch_sizes=(16, 64, 256, 1024), confirm_seeds=2, epochs=5.0, max_epochs=8.0
    )
    lines = (tmp_path / "convergence.jsonl").read_bytes().splitlines()
    trials = [line for line in lines if b'"kind":"trial"' in line]
    with (tmp_path / "convergence.jsonl").open("wb") as file:
        for copy in range(100_000 // len(trials) + 1):
            for line in trials:
                file.write(line.replace(b'"seed":', b'"seed":%d' % (copy + 1)) + b"\n")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)], check=True, capture_output=True, text=True
    ).stdout.split()
    trials_seen, best, times_parsing, peak_bytes = int(done[0]), int(done[1]), float(done[2]), int(done[3])
    assert trials_seen >= 100_000
    assert times_parsing < 40
    assert peak_bytes < 2 << 30
    assert truth.time_optimal_batch_size == best


MEASURED = r"""
import json, re, sys, time
from pathlib import Path
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.build import summarize
def parse():
    start = time.process_time()
    with (Path(sys.argv[1]) / "convergence.jsonl").open("rb") as lines:
        for line in lines:
            json.loads(line)
    return time.process_time() - start
before = parse()
start = time.process_time()
loaded = frames.load(Path(sys.argv[1]))
found = summarize(Sweep.of(loaded))
spent = time.process_time() - start
# Not `ru_maxrss`: a child begins with the peak of the process that started it.
peak = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
print(len(loaded.trials), found.time_optimal.batch_size, spent / (before + parse()) * 2, peak)
"""
