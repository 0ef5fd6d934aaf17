"""Make an environment with this package and the JAX that fits this machine: `python bench/install.py VENV [EXTRA...]`.

It runs before anything is installed, so it uses the standard library alone, and parses on a Python too old to go on.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from batchscale.subprocesses import CommandError, run, show

OLDEST_PYTHON = (3, 11)
OTHER_PYTHONS = ("python3.13", "python3.12", "python3.11", "python3.14")
CUDA_13_COMPUTE_CAPABILITY = 7.5
"""The lowest that CUDA 13 supports; for older GPUs (Volta and before) CUDA 12 is installed."""
QUICK_SECONDS = 20.0
CREATE_SECONDS = 180.0


class InstallError(RuntimeError):
    """The environment cannot be made; the message says what to do."""


def main(arguments: list[str]) -> int:
    """Make or reuse the environment, install the package with its extras and the right JAX; return the exit status."""
    folder, extras = Path(arguments[0]), arguments[1:]
    try:
        python = create_environment(folder, find_python())
        # The compilers of `plan` are for devices that are not here: a plugin for one that is would be in their way.
        install(python, [*extras, *([] if "plan" in extras else accelerator_extras())])
    except (InstallError, CommandError) as error:
        print(f"batchscale: {error}", file=sys.stderr)
        return 1
    return 0


def find_python() -> str:
    """Return this interpreter, or a newer one on the path if this one is too old.

    Raises:
        InstallError: when there is none.
    """
    if sys.version_info >= OLDEST_PYTHON:
        return sys.executable
    found = next((path for path in map(shutil.which, OTHER_PYTHONS) if path), None)
    if found is None:
        raise InstallError(
            f"python3 is {dotted(sys.version_info[:2])}, expected {dotted(OLDEST_PYTHON)} or newer: "
            "install one, or name it with PYTHON=/path/to/python"
        )
    return found


def create_environment(folder: Path, python: str) -> Path:
    """Return the interpreter of the environment in `folder`, which is made anew unless it works already.

    Debian ships `venv` without the part that installs pip, so virtualenv and uv are tried too.

    Raises:
        InstallError: when `folder` holds something else, or none of the three succeeds.
    """
    inside = folder / "bin" / "python"
    if _works(inside):
        return inside
    if folder.exists() and not (folder / "pyvenv.cfg").exists():
        raise InstallError(f"{folder} exists and is no Python environment: remove it, or name another with VENV=")
    for maker in (
        [python, "-m", "venv", str(folder)],
        ["virtualenv", "--quiet", f"--python={python}", str(folder)],
        ["uv", "venv", "--quiet", "--seed", f"--python={python}", str(folder)],
    ):
        shutil.rmtree(folder, ignore_errors=True)
        if _succeeds(maker) and _works(inside):
            return inside
    shutil.rmtree(folder, ignore_errors=True)
    raise InstallError(
        f"{python} cannot make an environment: install python3-venv (apt-get install python3-venv), "
        "virtualenv or uv, or use an interpreter that has JAX: VENV= PYTHON=/path/to/python"
    )


def install(python: Path, extras: list[str]) -> None:
    """Install this checkout into the environment of `python`, so that edits take effect at once.

    Raises:
        CommandError: when pip fails; its message is already shown.
    """
    package = f".[{','.join(extras)}]" if extras else "."
    print(f"installing {package} into {python.parent.parent}: one to three minutes, once", flush=True)
    show([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", package])


def accelerator_extras() -> list[str]:
    """Return the extras of `pyproject.toml` for this machine's accelerator: its JAX and its energy counter."""
    try:
        driver = run(["nvidia-smi"], QUICK_SECONDS)
        capabilities = run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], QUICK_SECONDS)
    except CommandError:
        return ["tpu"] if tpu_attached(Path("/dev")) else []
    return cuda_extras(driver, capabilities)


def cuda_extras(driver: str, capabilities: str) -> list[str]:
    """Return the extras for the CUDA version that driver and GPUs support.

    Args:
        driver: output of `nvidia-smi`, with `CUDA Version: 13.0` in it.
        capabilities: the compute capability of each GPU, such as `9.0`, one a line.
    """
    version = re.search(r"CUDA (?:UMD )?Version:\s*(\d+)", driver)
    supported = int(version[1]) if version else 0
    oldest = min((float(found) for found in re.findall(r"^\d+\.\d+", capabilities, re.MULTILINE)), default=0.0)
    if supported >= 13 and oldest >= CUDA_13_COMPUTE_CAPABILITY:
        return ["cuda13", "energy"]
    return ["cuda12", "energy"] if supported >= 12 else []


def tpu_attached(devices: Path) -> bool:
    """Return whether there is a TPU: its own device files, or passed-through ones and a variable of its environment."""
    passed_through = any(devices.glob("vfio/[0-9]*")) and any(name.startswith("TPU_") for name in os.environ)
    return any(devices.glob("accel[0-9]*")) or passed_through


def dotted(version: tuple[int, ...]) -> str:
    """Return a version as it is written, such as 3.11."""
    return ".".join(str(part) for part in version)


def _works(python: Path) -> bool:
    check = f"import sys, pip; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    return python.exists() and _succeeds([str(python), "-c", check])


def _succeeds(command: list[str]) -> bool:
    try:
        run(command, CREATE_SECONDS)
    except CommandError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
