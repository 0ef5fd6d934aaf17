"""Energy, clock, temperature and power around a timed round; a quantity that the platform cannot report is None.

On a GPU the devices that compute are read, through NVIDIA's management library (NVML). On a CPU the processor packages
are read, so other work on them counts too. An energy counter moves in steps, so a round must last many of its periods.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import NamedTuple

Read = Callable[[], float]

PERIODS_PER_ROUND = 10
"""A counter is up to one period late at either end of a round, so such a round is known within a tenth."""
LEAST_PERIODS = 5
"""A round shorter than this gets no energy, as it would be too rough."""
LONGEST_PERIOD_SECONDS = 0.2
"""NVIDIA's and Intel's counters advance every 1 to 100 ms, even when idle; a slower counter is taken as broken."""
PERIODS_WATCHED = 3
COLDEST_CELSIUS, HOTTEST_CELSIUS = -50, 150
"""A reading outside of these comes from a sensor that is not connected."""
CPU_THERMAL_ZONE = re.compile(r"x86_pkg_temp|cpu[-_]?thermal.*|cpu\d*-.*thermal.*")


class Counter(NamedTuple):
    """An energy counter.

    Attributes:
        read: returns joules since some moment.
        wraps_at: joules after which it starts again from 0.
    """

    read: Read
    wraps_at: float = math.inf

    def advance(self, before: float, after: float) -> float:
        """Return the joules between two readings; infinity if a counter that does not wrap went backwards."""
        return after - before if after >= before else after - before + self.wraps_at


class Sensed(NamedTuple):
    """Readings of one round, each None if it cannot be read.

    Attributes:
        joules: energy of all devices together.
        clock_mhz: mean clock of all cores or devices.
        celsius: highest temperature.
        watts: power that all devices draw together at the end of the round.
        power_cap_watts: the most that they may draw together.
        other_processes: processes besides our own that compute on the devices, counted before the round.
    """

    joules: float | None = None
    clock_mhz: float | None = None
    celsius: float | None = None
    watts: float | None = None
    power_cap_watts: float | None = None
    other_processes: int | None = None


@dataclass(frozen=True)
class Sensors:
    """The sensors of the devices in use.

    Attributes:
        counters: energy counters, one a device.
        clocks_mhz: readers of clocks, one a core or device.
        temperatures_celsius: readers of temperatures.
        powers_watts: readers of power, one a device.
        caps_watts: readers of the most power that a device may draw.
        others: counts processes besides our own; none where that is not known.
        period_seconds: how often the slowest counter advances.
    """

    counters: Sequence[Counter] = ()
    clocks_mhz: Sequence[Read] = ()
    temperatures_celsius: Sequence[Read] = ()
    powers_watts: Sequence[Read] = ()
    caps_watts: Sequence[Read] = ()
    others: Sequence[Read] = ()
    period_seconds: float = 0.0

    @property
    def round_seconds(self) -> float:
        """How long a round must last for its energy to be known; 0 if no energy is measured."""
        return PERIODS_PER_ROUND * self.period_seconds if self.counters else 0.0

    def around(self, timed: Callable[[], float]) -> tuple[float, Sensed]:
        """Return the seconds that `timed` returns, and the readings around it, taken outside of the timed region."""
        others = self.other_processes()
        before = _each(counter.read for counter in self.counters)
        seconds = timed()
        after = _each(counter.read for counter in self.counters)
        clocks = _each(self.clocks_mhz)
        temperatures = [one for one in _each(self.temperatures_celsius) if COLDEST_CELSIUS < one < HOTTEST_CELSIUS]
        joules = self._joules(before, after) if seconds >= LEAST_PERIODS * self.period_seconds else None
        return seconds, Sensed(
            joules,
            fmean(clocks) if clocks else None,
            max(temperatures, default=None),
            _total(self.powers_watts),
            _total(self.caps_watts),
            others,
        )

    def other_processes(self) -> int | None:
        """Return how many processes besides our own compute on the devices; None where that is not known."""
        return next((round(count) for count in _each(self.others)), None)

    def _joules(self, before: Sequence[float], after: Sequence[float]) -> float | None:
        """Return the joules of all devices; None unless every counter was read twice and advanced."""
        if not self.counters or not len(self.counters) == len(before) == len(after):
            return None
        advances = [one.advance(*ends) for one, *ends in zip(self.counters, before, after, strict=True)]
        return sum(advances) if all(0 < joules < math.inf for joules in advances) else None


NONE = Sensors()


def find(
    platform: str,
    devices: int = 1,
    root: Path = Path("/sys"),
    clock: Callable[[], float] = time.perf_counter,
    own_processes: int = 1,
) -> Sensors:
    """Find the sensors of the first `devices` devices of JAX's `platform`.

    Args:
        platform: By the names that rows use.
        devices: How many.
        root: Where the kernel shows its sensors.
        clock: Reads the time.
        own_processes: How many processes of this run are on the devices; two in a child process.
    """
    found = of_gpus(devices, own_processes=own_processes) if platform == "gpu" else NONE
    found = of_cpu(root) if platform == "cpu" else found
    period = counter_period(found.counters, clock)
    return replace(found, counters=found.counters if period else (), period_seconds=period or 0.0)


def counter_period(counters: Iterable[Counter], clock: Callable[[], float] = time.perf_counter) -> float | None:
    """Return the seconds between two advances of the slowest counter; None if one stands still or cannot be read."""
    periods = [_period(counter.read, clock) for counter in counters]
    known = [period for period in periods if period is not None]
    return max(known) if known and len(known) == len(periods) else None


def _period(read: Read, clock: Callable[[], float]) -> float | None:
    """Return the longest of a few gaps between advances."""
    seen, ticks = _each([read]), [clock()]
    while seen and len(ticks) <= PERIODS_WATCHED + 1:
        now = _each([read])
        if now != seen:
            seen, ticks = now, [*ticks, clock()]
        elif clock() - ticks[-1] > LONGEST_PERIOD_SECONDS:
            return None
    # The first gap began somewhere between two advances.
    return max(after - before for before, after in pairwise(ticks[1:])) if seen else None


def _each(readers: Iterable[Read]) -> list[float]:
    """Return the readings that can be made now."""
    values = []
    for read in readers:
        try:
            values.append(float(read()))
        except (OSError, ValueError):  # a quantity that driver or kernel refuse is left out
            continue
    return values


def _total(readers: Sequence[Read]) -> float | None:
    """Return the sum of readings, one a device; None unless all of them can be read."""
    values = _each(readers)
    return sum(values) if values and len(values) == len(readers) else None


def of_gpus(devices: int, environment: Mapping[str, str] = os.environ, own_processes: int = 1) -> Sensors:
    """Find the sensors of NVIDIA GPUs, if their management library is installed and can identify the devices."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return NONE
    try:
        nvml.nvmlInit()
        handles = _visible(nvml, environment)[:devices]
    except nvml.NVMLError:
        return NONE
    if len(handles) < devices:
        return NONE
    return Sensors(
        counters=[Counter(_reader(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, one, scale=1e-3)) for one in handles],
        clocks_mhz=[_reader(nvml, nvml.nvmlDeviceGetClockInfo, one, nvml.NVML_CLOCK_SM) for one in handles],
        temperatures_celsius=[
            _reader(nvml, nvml.nvmlDeviceGetTemperature, one, nvml.NVML_TEMPERATURE_GPU) for one in handles
        ],
        powers_watts=[_reader(nvml, nvml.nvmlDeviceGetPowerUsage, one, scale=1e-3) for one in handles],
        caps_watts=[_reader(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, one, scale=1e-3) for one in handles],
        others=[_reader(nvml, _other_processes, nvml, handles, own_processes)],
    )


def _other_processes(nvml: ModuleType, handles: Sequence[object], own: int) -> int:
    """Return how many processes compute on the devices, besides `own` ones: this one, and its parent in a child."""
    found = {one.pid for handle in handles for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    if os.getpid() in found:
        return len(found - {os.getpid(), os.getppid()})
    # In a container the driver may name processes by the numbers of the host, which do not show whose they are.
    return max(0, len(found) - own)


def _reader(nvml: ModuleType, function: Callable[..., int], *arguments: object, scale: float = 1.0) -> Read:
    """Return a reader that raises OSError if the driver refuses, like the readers of files."""

    def read() -> float:
        try:
            return function(*arguments) * scale
        except nvml.NVMLError as error:
            raise OSError(str(error)) from error

    return read


def _visible(nvml: ModuleType, environment: Mapping[str, str]) -> list[object]:
    """Return the devices that CUDA shows, in its order; none if they differ, as CUDA may then sort them by speed."""
    known = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    alike = len({nvml.nvmlDeviceGetName(one) for one in known}) == 1
    if not alike and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return []
    names = environment.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return known
    return [
        known[int(name)] if name.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(name)
        for name in (one.strip() for one in names.split(","))
        if not name.isdecimal() or int(name) < len(known)
    ]


def of_cpu(root: Path = Path("/sys")) -> Sensors:
    """Find the kernel's energy counters of processor packages, clocks of the cores in use, and package temperatures."""
    return Sensors(
        counters=[counter for zone in sorted(root.glob("class/powercap/intel-rapl:*")) for counter in _package(zone)],
        clocks_mhz=[
            _scaled(root / f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", 1e-3)
            for core in sorted(os.sched_getaffinity(0))
        ],
        temperatures_celsius=[
            _scaled(zone / "temp", 1e-3)
            for zone in sorted(root.glob("class/thermal/thermal_zone*"))
            if CPU_THERMAL_ZONE.fullmatch(_text(zone / "type"))
        ],
    )


def _package(zone: Path) -> list[Counter]:
    """Return the counter of a zone if it is a package: cores and memory are parts of one, and psys contains it."""
    if not re.fullmatch(r"package-\d+", _text(zone / "name")):
        return []
    joules, range_text = _scaled(zone / "energy_uj", 1e-6), _text(zone / "max_energy_range_uj")
    return [Counter(joules, int(range_text) * 1e-6 if range_text.isdecimal() else math.inf)]


def _scaled(path: Path, factor: float) -> Read:
    return lambda: int(path.read_text()) * factor


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
