"""Choices that change speed and nothing else, made by a short measured trial and kept beside the rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import jax
import msgspec
import numpy as np
from msgspec import Meta

from bench import store
from bench.decoding import read_json
from bench.errors import InputError
from bench.measure.clock import Work, calibrate, timed
from bench.measure.failures import FAILURES
from bench.measure.lanes import Programs
from bench.measure.wave import Setting, device_settings

TRIAL_SECONDS = 0.4
LARGEST_FILE_BYTES = 1 << 20


class Tuned(msgspec.Struct, frozen=True):
    """The fastest way to run a tier and the lane-examples per second it reached; `width` is settings per shard."""

    lowering: str | None
    examples_per_second: Annotated[float, Meta(ge=1e-6, le=1e30)]
    width: Annotated[int, Meta(ge=1, le=10_000)] = 1


class TuningFile:
    """`tuning.json` in a results folder: resumed runs repeat the same choices, so their numbers stay the same.

    A file that cannot be read, or a choice that is none of `lowerings`, is as if it were not there: that is measured
    again.
    """

    def __init__(self, folder: Path, lowerings: Collection[str | None]) -> None:
        self._path = folder / "tuning.json"
        self._known: dict[str, Tuned] = {}
        with suppress(InputError):
            kept = read_json(self._path, dict[str, Tuned], LARGEST_FILE_BYTES)
            self._known = {key: one for key, one in kept.items() if one.lowering in lowerings}

    def get(self, key: str, measure: Callable[[], Tuned]) -> Tuned:
        """The choice made for `key`, measured and kept at the first asking."""
        if key not in self._known:
            self._known[key] = measure()
            store.write_whole(self._path, msgspec.json.format(msgspec.json.encode(self._known)) + b"\n")
        return self._known[key]


def fastest(lowerings: Sequence[str | None], speed: Callable[[str | None], float]) -> Tuned:
    """Try every lowering on the tier's own program; ties go to the first, failures lose.

    Raises:
        JaxRuntimeError: the first one, when every lowering fails.
    """
    tried, failures = [], []
    for lowering in lowerings:
        try:
            tried.append(Tuned(lowering, speed(lowering)))
        except FAILURES as error:
            failures.append(error)
    if not tried:
        raise failures[0]
    return max(tried, key=lambda one: one.examples_per_second)


def examples_per_second(
    programs: Programs, seeds: Sequence[int], settings: Sequence[Setting], workers: int = 1
) -> float:
    """Lane-examples per second of `workers` training programs side by side, compile time apart."""
    work = [_work(programs, seeds, settings) for _ in range(workers)]
    ticks = calibrate(work[0], TRIAL_SECONDS)
    with ThreadPoolExecutor(workers) as pool:
        seconds = min(timed(lambda count: list(pool.map(lambda one: one(count), work)), ticks) for _ in range(2))
    return workers * len(seeds) * len(settings) * ticks * programs.microbatch_size / seconds


def _work(programs: Programs, seeds: Sequence[int], settings: Sequence[Setting]) -> Work:
    values = device_settings(settings)
    lanes = programs.initialise(np.asarray(seeds, np.int32), values)
    width, examples = programs.microbatch_size, len(programs.train_split.labels)

    def work(ticks: int) -> None:
        nonlocal lanes
        for first in range(0, ticks, programs.longest_segment):
            count = min(ticks - first, programs.longest_segment)
            order = np.arange(len(seeds) * count * width, dtype=np.int32) % examples
            lanes = programs.train(lanes, values, order.reshape(len(seeds), count, width), first)
        jax.block_until_ready(lanes)

    return work
