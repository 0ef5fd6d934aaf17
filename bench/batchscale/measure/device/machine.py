"""Describe this machine: its hardware, the software in use and the version of the code; nothing names their owner."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple, Self

import jax
import msgspec

import batchscale
from batchscale.errors import InputError
from batchscale.measure.device import compiled_programs, control_groups, jax_settings, product_check
from batchscale.measure.device.platform_policy import POLICIES, PlatformPolicy
from batchscale.printable import reason
from batchscale.records.machine_file import Environment, Machine
from batchscale.subprocesses import CommandError, run

COMMAND_SECONDS = 10.0
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "libtpu")
ACCELERATOR_PACKAGES = re.compile(r"jax-cuda\d+-(plugin|pjrt)|nvidia-(cudnn|cublas|cuda-runtime)(-cu\d+)?")
SETTINGS = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
)
PLATFORM_VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
NODE_PLATFORM = "BATCHSCALE_NODE_PLATFORM"
"""Set in a worker of a cluster: the platform that its scheduler, and not the user, asked a node for."""
VARIABLES = (
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "OMP_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "JAX_COMPILER_ENABLE_REMAT_PASS",
    "JAX_DISABLE_MOST_OPTIMIZATIONS",
    "JAX_ENABLE_PGLE",
    "JAX_EXEC_TIME_OPTIMIZATION_EFFORT",
    "JAX_OPTIMIZATION_LEVEL",
)
"""Variables of the environment that change how fast a program is; those that are set are in the environment of rows."""
LARGEST_SHARE_OF_HOST_MEMORY = 0.8
"""Share of the free host memory that one program may use."""
SHARE_OF_HOST_MEMORY = 0.6
"""Part of a program's share that lanes may use on a CPU. Lanes are held in host memory there, which other processes use
too."""


class Code(NamedTuple):
    """The version of this package: a commit or a release, and whether it may differ from that."""

    version: str
    dirty: bool


class Nvidia(NamedTuple):
    """Version of the NVIDIA driver, and the memory in bytes of its smallest device."""

    driver: str
    memory_bytes: int | None


@dataclass(frozen=True)
class Host:
    """The machine, environment and code that every row of this process names; described once per process.

    Attributes:
        machine: the hardware.
        environment: versions and settings.
        environment_hash: short hash of `environment`.
        code: commit or release of this package.
        dirty: True if the code may differ from that version.
    """

    machine: Machine
    environment: Environment
    environment_hash: str
    code: str
    dirty: bool

    @classmethod
    def describe(cls) -> Self:
        """Describe the host of this process."""
        machine, environment = describe()
        code, dirty = code_version()
        return cls(machine, environment, environment_hash(environment), code, dirty)

    @property
    def processes(self) -> int:
        """Processes that run one program on all devices, one for each host."""
        return jax.process_count()

    @property
    def lane_devices(self) -> int:
        """Local devices that share the lanes of every program."""
        return min(self.machine.device_count, jax.local_device_count())

    @property
    def workers(self) -> int:
        """Programs that run at once; virtual devices share the cores."""
        return max(1, self.machine.cpu_cores // self.lane_devices) if self.policy.program_per_core else 1

    @property
    def policy(self) -> PlatformPolicy:
        """How work is scheduled on this platform."""
        return POLICIES[self.machine.platform]

    @property
    def graphs(self) -> bool:
        """True if CUDA graphs that hold whole loops are tried: not where the user's flags say what a graph may hold."""
        nvidia = self.environment.driver is not None
        return self.policy.graphs and nvidia and compiled_programs.GRAPH_OPTION not in self.environment.xla_flags

    def free_memory_bytes(self) -> int:
        """Return the bytes that lanes may use.

        On a CPU these are fewer than one program may use, because lanes are in host memory.
        """
        return int(self.program_memory_bytes() * (1 if self._allocator() else SHARE_OF_HOST_MEMORY))

    def program_memory_bytes(self) -> int:
        """Return the bytes that one program may use: all that the device has left, or most of the free host memory."""
        if stats := self._allocator():
            return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
        return int(available_memory_bytes() * LARGEST_SHARE_OF_HOST_MEMORY)

    @staticmethod
    def _allocator() -> dict[str, int]:
        """Return the statistics of the device's allocator; empty on a CPU."""
        stats = jax.local_devices()[0].memory_stats() or {}
        return stats if "bytes_limit" in stats else {}


def _refuse_absent_device() -> None:
    """Start JAX, which fails with RuntimeError or a bare AssertionError where the platform asked for is not here."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        asked = [f"{name}={os.environ[name]}" for name in PLATFORM_VARIABLES if os.environ.get(name)]
        if not asked:
            raise
        found = reason(error) or "no such device"
        if kind := os.environ.get(NODE_PLATFORM, "").upper():
            raise InputError(
                f"it was asked for a {kind}, and has none that JAX can use ({found}),"
                f" expected a {kind}, its driver and JAX for it"
            ) from None
        raise InputError(
            f"{', '.join(asked)}: JAX finds no such device here ({found}), expected it to be unset"
        ) from None


def describe() -> tuple[Machine, Environment]:
    """Describe the machine JAX runs on and the software in use; from here on, JAX computes as rows claim.

    Raises:
        InputError: when an environment variable asks for a device that is not here, or changes the precision of its
            products.
    """
    jax_settings.hold()
    _refuse_absent_device()
    nvidia = nvidia_driver() if jax.default_backend() == "gpu" else None
    machine = describe_machine(nvidia)
    return machine, with_products(describe_environment(nvidia), machine.platform)


def with_products(environment: Environment, platform: str) -> Environment:
    """Add what the default precision of products is on an accelerator; a CPU has one kind.

    Raises:
        InputError: when products of a precision are not what rows would claim.
    """
    if platform == "cpu":
        return environment
    kinds = product_check.kinds_of_products()
    return msgspec.structs.replace(environment, settings=environment.settings | {"default_products": kinds["default"]})


def describe_machine(nvidia: Nvidia | None) -> Machine:
    """Describe the hardware JAX sees; `virtual_devices` marks a CPU that is set to appear as several devices."""
    devices = jax.devices()
    allocator = jax.local_devices()[0].memory_stats() or {}  # none are kept on CPU
    kind, cores = devices[0].device_kind, usable_cores()
    on_cpu = devices[0].platform == "cpu"
    hardware = f"cpu-{short_cpu_name(cpu_model())}-{cores}c" if on_cpu else kind
    several = f"-x{len(devices)}" if len(devices) > 1 else ""
    return Machine(
        name=slug(hardware, several),
        platform=platform_name(devices[0].platform),
        device_kind=kind[:200],
        device_count=len(devices),
        device_memory_bytes=(nvidia.memory_bytes if nvidia else None) or allocator.get("bytes_limit"),
        cpu=cpu_model()[:200],
        cpu_cores=cores,
        host_memory_bytes=host_memory_bytes(),
        virtual_devices=on_cpu and jax.local_device_count() > 1,
    )


def describe_environment(nvidia: Nvidia | None) -> Environment:
    """Describe versions and settings that may change a measurement; values that are paths are left out."""
    compiling_with = {name: without_paths(str(value))[:200] for name, value in compiled_programs.options().items()}
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
    """Return a short SHA-256 of the whole environment; every row carries it."""
    canonical = msgspec.json.encode(environment, order="deterministic")
    return hashlib.sha256(canonical).hexdigest()[:16]


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that compute."""
    names = {(found.metadata["Name"] or "").lower() for found in metadata.distributions()}
    chosen = [name for name in names if name in PACKAGES or ACCELERATOR_PACKAGES.fullmatch(name)]
    return {name: metadata.version(name) for name in sorted(chosen)}


def code_version(root: Path | None = None) -> Code:
    """Return the commit of this package's own checkout, or its release when it is installed without one.

    Results do not make a checkout dirty: they change with every run. A checkout that git cannot read counts as dirty,
    because nothing shows that it is clean.
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


def platform_name(name: str) -> Literal["cpu", "gpu", "tpu"]:
    """Return "gpu" for every accelerator that is not a TPU, whatever its plugin calls itself."""
    if name in ("cpu", "tpu"):
        return name
    return "gpu"


def nvidia_driver() -> Nvidia | None:
    """Ask `nvidia-smi`; None if it does not answer."""
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        rows = [line.split(", ") for line in run(query, COMMAND_SECONDS).splitlines() if line.strip()]
    except CommandError:
        return None
    mebibytes = [int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()]
    return Nvidia(rows[0][0][:200], min(mebibytes) << 20 if mebibytes else None) if rows else None


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's own name, or its architecture where the system has no name.

    If the name has no model number (common on virtual machines), family and model are appended: generations of one
    series differ several-fold in speed.
    """
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    found = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+?)\s*$", text, re.MULTILINE))
    if (name := found.get("model name")) is None:
        return platform.machine()
    if re.search(r"\d", short_cpu_name(name)) or not {"cpu family", "model"} <= found.keys():
        return name
    return f"{name} (family {found['cpu family']}, model {found['model']})"


def short_cpu_name(model: str) -> str:
    """Return maker and series of a processor, without trademarks, clock, core count and filling words."""
    kept = re.sub(r"\([^)]*\)|@.*|\bwith\b.*|\b\d+-core\b|\b(cpu|processor)\b", " ", model, flags=re.IGNORECASE)
    return " ".join(kept.split())


def usable_cores(root: Path = Path("/")) -> int:
    """Return the cores this process may run on, or fewer where a control group limits its time."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, control_groups.own(root).cores() or cores)


def host_memory_bytes(root: Path = Path("/")) -> int:
    """Return the memory of the host in bytes, or the limit of a control group if that is lower."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(installed, control_groups.own(root).memory_bytes() or installed)


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of host memory that can still be allocated, within the limits of control groups."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    free = int(found[1]) << 10 if found else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    left = control_groups.own(root).free_bytes()
    return free if left is None else min(free, left)


def operating_system() -> str:
    """Return system, kernel series, architecture and C library; a kernel's full name may name its owner."""
    series = ".".join(platform.release().split(".")[:2])
    return " ".join(part for part in (platform.system(), series, platform.machine(), *platform.libc_ver()) if part)


def slug(text: str, ending: str = "") -> str:
    """Return lower-case words joined by dashes, at most 80 characters with `ending` kept whole: a valid folder name."""
    words = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
    return (words[: 80 - len(ending)].rstrip("-.") or "unknown") + ending


def without_paths(text: str) -> str:
    """Replace every absolute path, since paths name users and hosts."""
    return re.sub(r"(?<![\w.])[~/][^\s,;]*", "<path>", text)
