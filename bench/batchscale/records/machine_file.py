"""The machine and the software that rows were measured with, as `machine.json` holds them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchscale.config.vocabulary import Positive, Slug
from batchscale.records.row_types import Amount, Count, Hash, Short, Text


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The hardware, without anything that names its owner.

    Attributes:
        name: A slug of the device, which names the results folder.
        device_kind: The device's name, as JAX reports it.
        cpu: Name of the CPU.
        virtual_devices: True if XLA was asked to split the host into several devices.
    """

    name: Slug
    platform: Literal["cpu", "gpu", "tpu", "unknown"]
    device_kind: Short
    device_count: Positive
    device_memory_bytes: Count | None = None
    cpu: Short
    cpu_cores: Positive
    host_memory_bytes: Count
    virtual_devices: bool = False


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The software that a row was measured with.

    Attributes:
        packages: Version of each package that affects speed or numbers.
        driver: Version of the accelerator's driver.
        xla_flags: The XLA_FLAGS variable, without paths.
        settings: Further settings that affect speed or numbers: JAX's, environment variables and compile options.
    """

    python: Short
    os: Short
    packages: Annotated[dict[Short, Short], Meta(max_length=64)]
    driver: Short | None = None
    xla_flags: Text = ""
    settings: Annotated[dict[Short, Short], Meta(max_length=64)] = {}


class TrainedOn(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that trained before another machine continued the run.

    Attributes:
        trials: Trials that it trained. Those of the first machine are the first in the rows file, and so on.
    """

    machine: Machine
    trials: Positive


class MachineFile(msgspec.Struct, frozen=True, kw_only=True):
    """`machine.json`: the machine, and every environment that rows name by its hash.

    Attributes:
        peak_rates: The best of each calibrated rate, by quantity and precision. Machines, such as those of a cloud, may
            share a name but not a speed; these tell them apart.
        trained_on: The machines that trained before this one continued the run, first to last.
    """

    schema: Literal[1] = 1
    machine: Machine
    environments: dict[Hash, Environment]
    peak_rates: Annotated[dict[Short, Amount], Meta(max_length=64)] = {}
    trained_on: Annotated[list[TrainedOn], Meta(max_length=64)] = []
