"""What the operating system and the driver say of this machine, and how it is named without naming its owner."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path
from typing import NamedTuple

from batchscale.subprocesses import CommandError, run

COMMAND_SECONDS = 10.0


class Nvidia(NamedTuple):
    """What the NVIDIA driver says of the smallest of its devices."""

    driver: str
    memory_bytes: int | None


def nvidia_driver() -> Nvidia | None:
    """What `nvidia-smi` says, None when it does not answer."""
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        rows = [line.split(", ") for line in run(query, COMMAND_SECONDS).splitlines() if line.strip()]
    except CommandError:
        return None
    mebibytes = [int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()]
    return Nvidia(rows[0][0][:200], min(mebibytes) << 20 if mebibytes else None) if rows else None


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name for itself, or its architecture when the system does not tell.

    Family and model are told beside a name without a number, as virtual machines have it: generations of a series
    differ in speed several times.
    """
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    told = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+?)\s*$", text, re.MULTILINE))
    if (name := told.get("model name")) is None:
        return platform.machine()
    if re.search(r"\d", short_cpu_name(name)) or not {"cpu family", "model"} <= told.keys():
        return name
    return f"{name} (family {told['cpu family']}, model {told['model']})"


def short_cpu_name(model: str) -> str:
    """Maker and series of a processor, without trademarks, clock, core count and filling words."""
    kept = re.sub(r"\([^)]*\)|@.*|\bwith\b.*|\b\d+-core\b|\b(cpu|processor)\b", " ", model, flags=re.IGNORECASE)
    return " ".join(kept.split())


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores this process may use: those it may be scheduled on, or fewer where a control group limits its time."""
    cores = len(os.sched_getaffinity(0))
    limit, _, period = _first_line(quota).partition(" ")
    return min(cores, math.ceil(int(limit) / int(period))) if limit.isdecimal() and period.isdecimal() else cores


def host_memory_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Memory of the host, or what its control group leaves of it."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed = _first_line(limit)
    return min(installed, int(allowed)) if allowed.isdecimal() else installed


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Host memory that may still be taken: what the system can free, within what a control group leaves."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    free = int(found[1]) << 10 if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = _first_line(group / "memory.max"), _first_line(group / "memory.current")
    if not (limit.isdecimal() and used.isdecimal()):
        return free
    return min(free, max(0, int(limit) - int(used) + _reclaimable_bytes(group / "memory.stat")))


def _reclaimable_bytes(statistics: Path) -> int:
    """Copies of files that a control group counts as used, and that its system drops first when memory runs short."""
    try:
        found = re.search(r"^inactive_file (\d+)$", statistics.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def operating_system() -> str:
    """System, kernel series, architecture and C library; a kernel's full name may be its owner's own."""
    series = ".".join(platform.release().split(".")[:2])
    return " ".join(part for part in (platform.system(), series, platform.machine(), *platform.libc_ver()) if part)


def slug(text: str, ending: str = "") -> str:
    """Lower-case words joined by dashes, at most 80 characters with `ending` kept whole; valid as a folder name."""
    words = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
    return (words[: 80 - len(ending)].rstrip("-.") or "unknown") + ending


def without_paths(text: str) -> str:
    """The same settings with every absolute path replaced, since paths name users and hosts."""
    return re.sub(r"(?<![\w.])[~/][^\s,;]*", "<path>", text)


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0].strip()
    except OSError:
        return ""
