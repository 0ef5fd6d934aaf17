"""What all tests share: checked array shapes, no network, no GPU proofs without a GPU, and simulated results folders.

Making a folder takes seconds, so each is made once.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import simulate
from jaxtyping import install_import_hook
from truth import RICH

from bench.analysis import frames, report, summary
from bench.analysis.frames import Frames
from bench.analysis.summarize import summarize
from bench.analysis.summary import Summary

WITH_ARRAYS = (
    "stream",
    "schedules",
    "learner",
    "noise",
    "averaging",
    "lanes",
    "loops",
    "wave",
    "checkpoint",
    "convergence",
    "splits",
    "sharding",
)
"""Modules of `bench.measure` whose annotations carry shapes; in production nothing is checked and nothing is lost."""

HERE = (None, "", "localhost", "127.0.0.1", "::1")
_network = SimpleNamespace(allowed=False)


def pytest_configure() -> None:
    install_import_hook(["models", *(f"bench.measure.{name}" for name in WITH_ARRAYS)], "beartype.beartype")
    _cut_the_network()
    hypothesis.settings.register_profile("shared machine", deadline=None)
    hypothesis.settings.load_profile("shared machine")


def _cut_the_network() -> None:
    """No test reaches beyond this machine, names included, unless it is marked `network`."""
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("nvidia-smi"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and nvidia-smi is not here"))


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything measured and nothing made of it yet."""
    folder = tmp_path_factory.mktemp("recorded")
    simulate.write(folder, RICH)
    return folder


@pytest.fixture(scope="session")
def measured(recorded: Path) -> Frames:
    return frames.load(recorded)


@pytest.fixture(scope="session")
def summarized(recorded: Path, measured: Frames) -> Summary:
    """As a page finds it: written and read again."""
    summary.write(recorded, summarize(measured))
    return summary.read(recorded)


@pytest.fixture(scope="session")
def reported(recorded: Path) -> Path:
    """The same folder with its page, figures and tables."""
    report.write_report(recorded)
    return recorded
