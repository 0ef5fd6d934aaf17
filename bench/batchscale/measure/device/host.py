"""The machine, environment and code that every row of this process names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import jax

from batchscale.measure.device import machine as device
from batchscale.measure.device.operating_system import available_memory_bytes
from batchscale.records.row_types import Environment, Machine

LARGEST_SHARE_OF_HOST_MEMORY = 0.8
SHARE_OF_HOST_MEMORY = 0.6
"""Of that: on a CPU the lanes live in host memory, which others use too."""


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
        """Bytes that lanes may use: what one program may, less on a CPU, where they live in host memory."""
        return int(self.program_memory_bytes() * (1 if self._allocator() else SHARE_OF_HOST_MEMORY))

    def program_memory_bytes(self) -> int:
        """Bytes that one program may use: what the device's allocator has left, else most of the free host memory."""
        if stats := self._allocator():
            return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
        return int(available_memory_bytes() * LARGEST_SHARE_OF_HOST_MEMORY)

    @staticmethod
    def _allocator() -> dict[str, int]:
        """What the device's allocator says of itself; nothing on a CPU."""
        stats = jax.local_devices()[0].memory_stats() or {}
        return stats if "bytes_limit" in stats else {}
