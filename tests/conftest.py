"""Shared by all tests: check array shapes, cut the network, skip GPU tests without a GPU, make results folders once."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import shape_checks  # noqa: F401 - before all that imports the package

# isort: split
import hypothesis
import pytest
import simulated_folder
from batchscale.analysis import figures
from batchscale.analysis.figures import style
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.metrics import time_budgets
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import comparison, report
from batchscale.analysis.summary import build
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Summary
from long_proofs import with_quick_flags
from truth import RICH

FEW_TIMES, ALL_TIMES = 2, time_budgets.POINTS
"""Times at which scores are compared, which is most of what a summary costs; the folder for all tests has all times."""
BRIEF = {
    "convergence.tiers.TRIAL_SECONDS": 0.02,
    "device.peak_rates.ROUND_SECONDS": 0.001,
    "device.peak_rates.STEP_SECONDS": 1e-6,
    "device.peak_rates.COPY_BYTES": 1 << 20,
}
LONGEST = (
    *("test_looks", "test_many_rows", "test_kills_and_signals", "test_resnet", "test_rate_surface"),
    *("test_browser", "test_multihost", "test_lanes", "test_lanes_of_models", "test_comparison", "test_wheel"),
    *("test_lane_devices", "test_strange_numbers", "test_hops", "test_early_stopping", "test_compare"),
)
"""Files of tests, the longest first."""
COARSE = 72
"""Dots per inch of pictures in tests, which look at their drawings and not at their dots."""
HERE = (None, "", "localhost", "127.0.0.1", "::1")
_network = SimpleNamespace(allowed=False)


def pytest_configure() -> None:
    gc.disable()  # until all tests are collected: most of what is imported stays
    _cut_the_network()
    if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS"):
        os.environ["XLA_FLAGS"] = with_quick_flags(os.environ.get("XLA_FLAGS", ""))
    time_budgets.POINTS = FEW_TIMES
    style._BASE["savefig.dpi"] = COARSE
    hypothesis.settings.register_profile("shared machine", deadline=None)
    hypothesis.settings.load_profile("shared machine")


def _cut_the_network() -> None:
    """Refuse connections and name look-ups beyond this machine, except in tests marked `network`."""
    find, connect = socket.getaddrinfo, socket.socket.connect

    def find_here(host: Any, *place: Any, **options: Any) -> Any:
        _refuse_elsewhere(host)
        return find(host, *place, **options)

    def connect_here(self: socket.socket, address: Any) -> None:
        _refuse_elsewhere(address[0] if isinstance(address, tuple) else None)
        connect(self, address)

    socket.getaddrinfo, socket.socket.connect = find_here, connect_here


def _refuse_elsewhere(host: Any) -> None:
    if not _network.allowed and host not in HERE:
        raise OSError(f"the network is cut in tests, and this one asked for {host!r}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    _network.allowed = item.get_closest_marker("network") is not None


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking all modules again and again, which took 4 % of the time."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first, so that no worker has to wait for another one's last file."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    if shutil.which("nvidia-smi"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and nvidia-smi is not here"))


@pytest.fixture
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw only the first figure, and none of a comparison: the figures are most of what a page costs."""
    monkeypatch.setattr(figures, "PLOTS", figures.PLOTS[:1])
    monkeypatch.setattr(comparison, "_figures", lambda _: [])


@pytest.fixture(scope="module")
def brief() -> Iterator[None]:
    """Let studies measure the machine in moments: its peak rates, and what decides lowerings and shapes of lanes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in BRIEF.items():
            patch.setattr(f"batchscale.measure.{name}", value)
        yield


@pytest.fixture
def unoptimized() -> Iterator[None]:
    """Compile as `make test` does, in proofs that hold for any optimization and that mostly compile."""
    import jax  # noqa: PLC0415 - most of the tests need none

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated results folder that holds every kind of row and nothing computed from them."""
    folder = tmp_path_factory.mktemp("recorded")
    simulated_folder.write(folder, RICH)
    return folder


@pytest.fixture(scope="session")
def measured(recorded: Path) -> Frames:
    """The rows of the simulated folder as frames."""
    return frames.load(recorded)


@pytest.fixture(scope="session")
def sweep(measured: Frames) -> Sweep:
    """The quantities of each batch size, computed as they are asked for."""
    return Sweep.of(measured)


@pytest.fixture(scope="session")
def summarized(recorded: Path, sweep: Sweep) -> Summary:
    """The summary of the simulated folder, written to its file and read back as a page does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_budgets, "POINTS", ALL_TIMES)
        build.write(recorded, summarize(sweep))
    return build.read(recorded)


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated folder with its page, figures and tables written: by one worker for all, to be read only."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "reported"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "report.html").exists():
            simulated_folder.write(folder, RICH)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(time_budgets, "POINTS", ALL_TIMES)
                report.write_report(folder)
    return folder
