"""Simulated results folders that several tests read; making one takes seconds, so each is made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import simulate

from bench.analysis import frames, report, summary
from bench.analysis.frames import Frames
from bench.analysis.summary import Summary

RICH = simulate.Truth(
    batch_sizes=(4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
    gradient_noise_scale=300.0,
    watts=30.0,
    out_of_memory=(4096,),
)


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything measured, its report written."""
    folder = tmp_path_factory.mktemp("reported")
    simulate.write(folder, RICH)
    report.write_report(folder)
    return folder


@pytest.fixture(scope="session")
def measured(reported: Path) -> Frames:
    return frames.load(reported)


@pytest.fixture(scope="session")
def summarized(reported: Path) -> Summary:
    return summary.read(reported)
