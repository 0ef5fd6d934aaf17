"""The machine, environment and code that every row of this process names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

import jax

from bench.measure import device
from bench.rows import Environment, Machine

SHARE_OF_HOST_MEMORY = 0.5
"""On a CPU the lanes live in host memory, which others use too."""


@dataclass(frozen=True)
class Host:
    """Described once per process."""

    machine: Machine
    environment: Environment
    environment_hash: str
    code: str
    dirty: bool

    @classmethod
    def describe(cls) -> Self:
        """This process's host."""
        machine, environment = device.describe()
        code, dirty = device.code_version()
        return cls(machine, environment, device.environment_hash(environment), code, dirty)

    @property
    def workers(self) -> int:
        """Programs to run at once: one XLA program of many small products does not fill the cores of a CPU."""
        return self.machine.cpu_cores if self.machine.platform == "cpu" else 1

    def free_memory_bytes(self) -> int:
        """Bytes that lanes may use: what the device's allocator has left, else half of the free host memory."""
        stats = jax.local_devices()[0].memory_stats()
        if stats and "bytes_limit" in stats:
            return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * SHARE_OF_HOST_MEMORY)
