"""The ratios that the project promises: gathered from the benchmarks, held against their bounds, printed and saved."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import jax
import msgspec
import pytest
from batchscale.measure.device import machine as device
from batchscale.measure.session import Session
from batchscale.records import row_files
from standard_study import open_session

BOUNDS: dict[str, dict[str, tuple[float | None, float | None]]] = {
    "any": {"harness_overhead": (0.98, 1.02)},
    "cpu": {
        "study_speedup": (6, None),
        "lanes_over_single": (1.2, None),
        "small_batch_speedup": (14, None),
        "decoder_lanes_over_single": (1.0, None),
        "resnet8_lanes_over_single": (1.2, None),
        "LeNet: over PyTorch eager": (13, None),
        "decoder: over PyTorch eager": (1, None),
    },
    "gpu": {
        "study_speedup": (30, None),
        "lanes_over_single": (3, None),
        "small_batch_speedup": (100, None),
        "lanes_over_devices": (0.9, None),
    },
    # Virtual devices of a CPU share its cores, so that no bound is asked of them.
    "tpu": {"lanes_over_devices": (0.9, None)},
}
"""Least and most of each ratio, by platform."""


class Ratio(msgspec.Struct):
    """One promise, its bound, and what was measured."""

    value: float
    at_least: float | None
    at_most: float | None
    details: dict[str, float]

    @property
    def met(self) -> bool:
        """Whether the bounds hold."""
        return (self.at_least or 0.0) <= self.value <= (self.at_most or math.inf)

    def line(self, name: str) -> str:
        """The ratio for a reader."""
        wanted = f"from {self.at_least:g}" if self.at_least else "no bound"
        wanted += f" to {self.at_most:g}" if self.at_most else ""
        details = ", ".join(f"{value:.3f} {key}" for key, value in self.details.items())
        return f"{name:34}{self.value:8.3f}  {wanted:18}{'met' if self.met else 'NOT MET':9}({details})"


@dataclass
class Recorder:
    """Keeps ratios for the summary; a benchmark that misses its bound reports it and does not fail."""

    ratios: dict[str, Ratio] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)

    def __call__(self, name: str, value: float, details: dict[str, float]) -> None:
        """Keep one ratio."""
        low, high = (BOUNDS["any"] | BOUNDS.get(jax.default_backend(), {})).get(name, (None, None))
        self.ratios[name] = Ratio(value, low, high, details)


RECORDER = pytest.StashKey[Recorder]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORDER] = Recorder()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Recorder:
    return request.config.stash[RECORDER]


@pytest.fixture(scope="session")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_session(tmp_path_factory.mktemp("standard_study"))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    recorder = config.stash[RECORDER]
    if not recorder.ratios:
        return
    terminalreporter.section("ratios")
    for name, ratio in recorder.ratios.items():
        terminalreporter.line(ratio.line(name))
    path = config.rootpath / ".benchmarks" / "perf.json"
    _save(path, recorder)
    terminalreporter.line(f"saved in {path.relative_to(config.rootpath)}")


def _save(path: Path, recorder: Recorder) -> None:
    machine, environment = device.describe()
    version, dirty = device.code_version()
    content = {
        "machine": machine,
        "environment": environment,
        "commit": version,
        "dirty": dirty,
        "load_average": os.getloadavg()[0],
        "ratios": recorder.ratios,
        "details": recorder.details,
    }
    path.parent.mkdir(exist_ok=True)
    row_files.write_json(path, content)
