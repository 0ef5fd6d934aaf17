"""The small outputs of commands as JSON: what is listed, checked or written."""

from __future__ import annotations

from typing import Literal

import msgspec


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """What `list` names.

    Attributes:
        experiments: title of each experiment that comes with the package, by its name.
    """

    schema: Literal[1] = 1
    experiments: dict[str, str]
    models: list[str]
    datasets: list[str]
    tasks: list[str]
    optimizers: list[str]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check of `doctor`: what was checked, what was found, and whether it does not limit a run."""

    item: str
    value: str
    ok: bool


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """All checks of `doctor`."""

    schema: Literal[1] = 1
    checks: list[Check]


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """The paths of the files that were written."""

    schema: Literal[1] = 1
    written: list[str]
