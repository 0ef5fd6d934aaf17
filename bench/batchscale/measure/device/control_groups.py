"""The limits of the control groups that this process is in: cores and memory, versions 1 and 2, up to the outermost.

A container, a systemd slice or a Slurm job can be a group deep in the tree; each group above it limits it too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NO_LIMIT_BYTES = 1 << 60
"""Version 1 writes the largest multiple of a page, about 2**63, for a group without a limit."""


class Group(NamedTuple):
    """A folder of a control group, and the version of its files."""

    folder: Path
    version: int


class Groups(NamedTuple):
    """The groups that limit this process, the innermost first."""

    cpu: list[Group]
    memory: list[Group]

    def cores(self) -> int | None:
        """Return the least number of whole cores whose time suffices for every limit; None without a limit."""
        found = [one for one in map(_cores, self.cpu) if one]
        return min(found, default=None)

    def memory_bytes(self) -> int | None:
        """Return the least limit of memory; None without a limit."""
        return min((limit for limit, _ in self._limited()), default=None)

    def free_bytes(self) -> int | None:
        """Return what every group still leaves, with cached files counted as free; None without a limit."""
        return min((max(0, limit - used) for limit, used in self._limited()), default=None)

    def _limited(self) -> Iterator[tuple[int, int]]:
        """Yield limit and use of the groups that have a limit."""
        for folder, version in self.memory:
            names = (
                ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
            )
            limit, used = (_first_line(folder / name) for name in names)
            if limit.isdecimal() and int(limit) < NO_LIMIT_BYTES:
                yield int(limit), (int(used) if used.isdecimal() else 0) - _reclaimable_bytes(folder, version)


def own(root: Path = Path("/")) -> Groups:
    """Return the groups of this process, as `/proc/self/cgroup` names them and `/proc/self/mountinfo` places them."""
    placed: dict[str, list[Group]] = {"cpu": [], "memory": []}
    mounts = list(_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if (number, controllers) == ("0", "") else 1
        for kind in placed:
            if version == 2 or kind in controllers.split(","):
                placed[kind] += _up_the_tree(path, kind, version, mounts)
    return Groups(**placed)


class _Mount(NamedTuple):
    point: Path
    root: str
    version: int
    controllers: list[str]


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
            version = 2 if kind[0] == "cgroup2" else 1
            yield _Mount(root / point.lstrip("/"), fields[3], version, kind[2].split(","))


def _up_the_tree(path: str, kind: str, version: int, mounts: list[_Mount]) -> Iterator[Group]:
    for mount in mounts:
        if mount.version != version or (version == 1 and kind not in mount.controllers):
            continue
        # A container often sees its own group as the root of the mount, under the name that the host gave it.
        inside = Path(path).relative_to(mount.root) if Path(path).is_relative_to(mount.root) else Path()
        if ".." not in inside.parts:
            yield from (Group(mount.point / one, version) for one in (inside, *inside.parents))


def _cores(group: Group) -> int | None:
    if group.version == 2:
        quota, _, period = _first_line(group.folder / "cpu.max").partition(" ")
    else:
        quota, period = (_first_line(group.folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    limited = quota.isdecimal() and period.isdecimal() and int(period) > 0
    return max(1, math.ceil(int(quota) / int(period))) if limited else None


def _reclaimable_bytes(folder: Path, version: int) -> int:
    """Return the bytes of cached files that a group counts as used, but drops first when memory runs short."""
    name = "inactive_file" if version == 2 else "total_inactive_file"
    return next((int(line.split()[1]) for line in _lines(folder / "memory.stat") if re.match(rf"{name} \d+$", line)), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _first_line(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()
