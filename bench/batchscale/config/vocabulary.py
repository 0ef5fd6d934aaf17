"""NEW MODULE."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

OptionName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z")]


Options = tuple[tuple[str, float], ...]
"""Optimizer options by name, sorted; empty where none is searched."""


Phase = Literal["search", "confirm", "fixed"]


Loop = Literal["dispatch", "scan"]


Input = Literal["device", "host"]


StageName = Literal["throughput", "convergence"]


Precision = Literal["float32", "default", "bfloat16"]


STAGES: tuple[StageName, ...] = get_args(StageName)
"""In the order in which they are run."""


class Point(msgspec.Struct, frozen=True, order=True):
    """What is tuned at a batch size: the learning rate and the options searched beside it."""

    learning_rate: float
    options: Options = ()
