"""What a row was measured on and with: the machine, the software and the code; nothing names their owner."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import msgspec

import batchscale
from batchscale.measure.device import xla_options
from batchscale.measure.device.operating_system import (
    COMMAND_SECONDS,
    Nvidia,
    cpu_model,
    host_memory_bytes,
    nvidia_driver,
    operating_system,
    short_cpu_name,
    slug,
    usable_cores,
    without_paths,
)
from batchscale.records.row_types import Environment, Machine
from batchscale.subprocesses import CommandError, run

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "libtpu")
ACCELERATOR_PACKAGES = re.compile(r"jax-cuda\d+-(plugin|pjrt)|nvidia-(cudnn|cublas|cuda-runtime)(-cu\d+)?")
SETTINGS = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
)
VARIABLES = (
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "OMP_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
)


class Code(NamedTuple):
    """The version of this package: a commit or a release, and whether it may differ from that."""

    version: str
    dirty: bool


def describe() -> tuple[Machine, Environment]:
    """The machine JAX runs on and the software in use."""
    nvidia = nvidia_driver() if jax.default_backend() == "gpu" else None
    return describe_machine(nvidia), describe_environment(nvidia)


def describe_machine(nvidia: Nvidia | None) -> Machine:
    """The hardware JAX sees. `virtual_devices` marks one CPU that was told to pose as several devices."""
    devices = jax.devices()
    allocator = devices[0].memory_stats() or {}  # none are kept on CPU
    kind, cores = devices[0].device_kind, usable_cores()
    on_cpu = devices[0].platform == "cpu"
    hardware = f"cpu-{short_cpu_name(cpu_model())}-{cores}c" if on_cpu else kind
    several = f"-x{len(devices)}" if len(devices) > 1 else ""
    return Machine(
        name=slug(hardware, several),
        platform=_platform(devices[0].platform),
        device_kind=kind[:200],
        device_count=len(devices),
        device_memory_bytes=(nvidia.memory_bytes if nvidia else None) or allocator.get("bytes_limit"),
        cpu=cpu_model()[:200],
        cpu_cores=cores,
        host_memory_bytes=host_memory_bytes(),
        virtual_devices=on_cpu and len(devices) > 1,
    )


def describe_environment(nvidia: Nvidia | None) -> Environment:
    """Versions and settings that may change a measurement; values that are paths are left out."""
    compiling_with = {name: without_paths(str(value))[:200] for name, value in xla_options.options().items()}
    variables = {name: without_paths(os.environ[name])[:200] for name in VARIABLES if name in os.environ}
    return Environment(
        python=platform.python_version(),
        os=operating_system()[:200],
        packages=package_versions(),
        driver=nvidia.driver if nvidia else None,
        xla_flags=without_paths(os.environ.get("XLA_FLAGS", ""))[:2000],
        settings={name: str(getattr(jax.config, name, None)) for name in SETTINGS} | variables | compiling_with,
    )


def environment_hash(environment: Environment) -> str:
    """A short SHA-256 of everything in it; every row carries it."""
    canonical = msgspec.json.encode(environment, order="deterministic")
    return hashlib.sha256(canonical).hexdigest()[:16]


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that compute."""
    names = {(found.metadata["Name"] or "").lower() for found in metadata.distributions()}
    chosen = [name for name in names if name in PACKAGES or ACCELERATOR_PACKAGES.fullmatch(name)]
    return {name: metadata.version(name) for name in sorted(chosen)}


def code_version(root: Path | None = None) -> Code:
    """The commit of this package's own checkout, or its release when it is installed without one.

    Results do not make a tree dirty: they change with every run. A checkout that git cannot read counts as dirty,
    because nothing shows that it is not.
    """
    root = root or Path(batchscale.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return Code(batchscale.__version__, dirty=False)
    try:
        commit = run(["git", "-C", str(root), "rev-parse", "--verify", "HEAD"], COMMAND_SECONDS).strip()
        changes = run(
            ["git", "-C", str(root), "status", "--porcelain", "--", ".", ":(exclude)results"], COMMAND_SECONDS
        )
    except CommandError:
        return Code(batchscale.__version__, dirty=True)
    return Code(commit, dirty=bool(changes.strip()))


def _platform(name: str) -> Literal["cpu", "gpu", "tpu"]:
    """Any accelerator that is not a TPU counts as a GPU, whatever its plugin calls itself."""
    if name in ("cpu", "tpu"):
        return name
    return "gpu"
