"""Settings of JAX that this package decides, whatever the user's environment says: rows claim their numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

NUMERICS: dict[str, Any] = {
    "jax_enable_x64": False,  # with it, what has no explicit type becomes float64 under the name float32
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_default_matmul_precision": None,
    "jax_numpy_dtype_promotion": "standard",
    "jax_disable_jit": False,
    "jax_debug_nans": False,  # a run that diverges is a row
    "jax_debug_infs": False,
    "jax_numpy_rank_promotion": "allow",
    "jax_transfer_guard": "allow",
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
    "jax_transfer_guard_device_to_device": "allow",
}
"""What changes initial parameters, the type of numbers, or whether a correct program ends in an error."""


def hold() -> None:
    """Set every setting of `NUMERICS`. Environment variables such as `JAX_ENABLE_X64` then change no number.

    What JAX then reports of a device that cannot be used takes one line.
    """
    logging.getLogger("jax._src.xla_bridge").addFilter(_in_one_line)
    for name, value in NUMERICS.items():
        if getattr(jax.config, name) != value:
            jax.config.update(name, value)


def _in_one_line(record: logging.LogRecord) -> bool:
    """Replace the traceback of a record by its reason, such as a library of CUDA that is not installed."""
    if record.exc_info and record.exc_info[1]:
        record.msg, record.args, record.exc_info = f"{record.getMessage()}: {record.exc_info[1]}", (), None
    return True


MOST_KEPT_BYTES = 1 << 30
"""Programs that are kept for later processes, together; some hundred kilobytes each."""


def keep_programs(folder: Path) -> None:
    """Keep compiled programs in a folder, where later processes find them, unless the user has chosen another one.

    Those whose compile time is reported are compiled anew all the same: see `compiling_anew`.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    _drop_oldest(folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # Whole programs are kept, so that no timing of single kernels has to be, which would fix the kernels of others.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    _use(str(folder))


def _drop_oldest(folder: Path) -> None:
    """Remove the programs that were written first, until the rest takes at most `MOST_KEPT_BYTES`."""
    kept = 0
    with suppress(OSError):
        for path in sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True):
            kept += path.stat().st_size
            if kept > MOST_KEPT_BYTES:
                path.unlink()


@contextmanager
def compiling_anew() -> Iterator[None]:
    """Compile without JAX's persistent cache, since reading a program from it is no compilation."""
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if folder is None:
        yield
        return
    _use(None)
    try:
        yield
    finally:
        _use(folder)


def _use(folder: str | None) -> None:
    # JAX looks at the setting once, and again after a reset.
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()
