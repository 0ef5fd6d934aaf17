"""Whether the compilers for devices that are not there are installed, and how their processes are started."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from batchscale.measure.ahead.targets import Target

INSTALL = "pip install '.[plan]' in a clone of batchscale"
VARIABLES: Mapping[str, str] = {
    # Nothing runs: arrays that have to exist are on the CPU.
    "JAX_PLATFORMS": "cpu",
    # A TPU's library would ask the network for its machine, and leaves a lock behind where it is killed.
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
"""Environment of a process that compiles for described devices."""


def missing(target: Target) -> str | None:
    """Return what is missing to compile for a device, and how to install it; None if nothing is."""
    found = _missing_for_gpu() if target.platform == "gpu" else _missing_for_tpu()
    return found and f"{found}; to install it: {INSTALL}"


def _missing_for_gpu() -> str | None:
    try:
        plugin, jaxlib = version("jax-cuda12-pjrt"), version("jaxlib")
    except PackageNotFoundError:
        return "XLA's compiler for GPUs is not installed (jax-cuda12-pjrt)"
    if plugin != jaxlib:
        return f"jax-cuda12-pjrt is {plugin}, expected {jaxlib} as jaxlib is"
    # Both are looked for next to the plugin. A CUDA of the system may hide that they are missing, at another version.
    if not all(any((folder / file).exists() for folder in _cuda_folders()) for file in CUDA_FILES):
        return "the assembler for GPUs is not installed (nvidia-cuda-nvcc-cu12)"
    return None


CUDA_FILES = ("bin/ptxas", "nvvm/libdevice/libdevice.10.bc")


def _cuda_folders() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec else None
    return [Path(place) / "cuda_nvcc" for place in places or ()]


def _missing_for_tpu() -> str | None:
    return None if importlib.util.find_spec("libtpu") else "XLA's compiler for TPUs is not installed (libtpu)"
