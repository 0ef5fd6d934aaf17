"""Devices that programs can be compiled for without having one: their facts, and their descriptions for XLA."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import msgspec
from jax.experimental import topologies
from msgspec import Meta

from batchscale.config.vocabulary import Precision
from batchscale.errors import InputError
from batchscale.printable import printable

SHARE_OF_GPU_MEMORY = 0.75
"""Share of a GPU's memory that JAX's allocator takes by default."""
CUDA = "12.8.0"
"""Version of driver and toolkit in the descriptions: the first with conditional nodes of every kind in its graphs."""
MOST_DEVICES = 8

Positive = Annotated[float, Meta(gt=0)]


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What XLA's compiler asks about a GPU.

    Attributes:
        capability: Compute capability, major and minor.
        cores: Streaming multiprocessors.
        clock_ghz: Boost clock.
        fpus: Float32 units of a core.
        shared_bytes: Most shared memory of a block.
        shared_bytes_per_core: Shared memory of a core.
        threads_per_core: Most threads of a core.
    """

    capability: tuple[int, int]
    cores: int
    clock_ghz: float
    fpus: int = 128
    shared_bytes: int
    shared_bytes_per_core: int
    threads_per_core: int = 2048


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device to compile for; `targets.toml` explains the facts.

    Attributes:
        title: Its name for people.
        platform: By the names that rows use.
        memory_bytes: Memory of one device.
        bytes_per_second: Peak bandwidth of that memory.
        cache_bytes: Largest memory on the chip that can hold arrays between two steps.
        flops: Peak FLOP/s of matrix products in each precision.
        gpu: Further facts of a GPU.
        tpu: Name of a TPU's kind in `libtpu`.
    """

    title: str
    platform: Literal["gpu", "tpu"]
    memory_bytes: int
    bytes_per_second: Positive
    cache_bytes: int
    flops: dict[Precision, Positive]
    gpu: Gpu | None = None
    tpu: str | None = None

    @property
    def pool_bytes(self) -> int:
        """Memory that JAX's allocator has by default."""
        return int(self.memory_bytes * (SHARE_OF_GPU_MEMORY if self.gpu else 1))


@cache
def targets() -> Mapping[str, Target]:
    """Return every described device by its name."""
    text = (resources.files("batchscale.measure.ahead") / "targets.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Target])


def target_named(name: str) -> Target:
    """Return a described device.

    Raises:
        InputError: when there is none of this name.
    """
    if name not in (known := targets()):
        raise InputError(f"--on: {printable(name)}, expected one of {', '.join(known)}")
    return known[name]


def devices(target: Target, count: int = 1) -> list[Any]:
    """Return `count` devices to compile for, at most MOST_DEVICES.

    Raises:
        JaxRuntimeError: when the plugin for the platform cannot be used.
    """
    if target.gpu is not None:
        found = topologies.get_topology_desc(
            platform="cuda", topology_name="described", target_config=description(target), topology=f"1x1x{count}"
        )
    else:
        # libtpu knows its slices by their shapes: four chips at least, and two of them make eight.
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{target.tpu}:{'2x2' if count <= 4 else '2x4'}"
        )
    return list(found.devices)[:count]


def description(target: Target) -> str:
    """Return XLA's description of a GPU: a text of `GpuTargetConfigProto` with fields that every supported JAX knows.

    The memory is that of JAX's allocator, because XLA recomputes values instead of keeping them once a program needs
    more than the device has.
    """
    gpu = target.gpu
    if gpu is None:
        raise ValueError(target.title)
    major, minor = gpu.capability
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared_bytes_per_core}
  shared_memory_per_block_optin: {gpu.shared_bytes}
  threads_per_core_limit: {gpu.threads_per_core}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(target.bytes_per_second)}
  l2_cache_size: {target.cache_bytes}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {target.pool_bytes}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  driver_version: "{CUDA}"
  runtime_version: "{CUDA}"
  compile_time_toolkit_version: "{CUDA}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{target.title}"
"""
