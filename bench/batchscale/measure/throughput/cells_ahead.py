"""Compile the programs of cells next to each other, before any of them is timed, where compiling takes long."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.failures import FAILURES, is_of_choosing_kernels
from batchscale.measure.device import jax_settings
from batchscale.measure.device.compile_ahead import compile_together
from batchscale.measure.throughput.timed_loops import Built, build

if TYPE_CHECKING:
    from batchscale.measure.throughput.stage import Throughput

Wanted = tuple[CellKey, str | None]
"""A cell and the lowering of its program."""


def compile_cells(stage: Throughput, wanted: Iterable[Wanted]) -> None:
    """Compile programs together and keep them, or what they failed of, until their cells are prepared.

    A kept program holds no parameters, so many may wait. Each reports the seconds that passed while it was compiled.
    With others next to it these include waiting for cores and for the device, on which one program at a time may try
    its kernels. On platforms whose policy forbids it, and where several hosts must compile in the same order, nothing
    is compiled here.

    Raises:
        Stopped: When a signal asked to stop.
    """
    session = stage.session
    new = [one for one in dict.fromkeys(wanted) if one not in stage.programs]
    if not session.host.policy.compiles_together or session.host.processes > 1 or not new:
        return
    names = {named(one): one for one in new}
    made: dict[Wanted, Future[Built]] = {one: Future() for one in new}
    for key, lowering in new:
        session.learner(key.precision, lowering)
    works = {name: partial(_compile, stage, one, made[one]) for name, one in names.items()}
    # Around all of them, because each program would switch the cache on again while others are compiled.
    seconds = session.host.policy.compile_seconds
    with jax_settings.compiling_anew():
        late = compile_together(
            works, session.host.machine.cpu_cores, stage.watch, seconds, lambda name: _kernels(names[name])
        )
    for name in late:
        why = f"not compiled within {seconds:g} s"
        made[names[name]] = Future()
        made[names[name]].set_exception(TimeoutError(f"it was {why}"))
        session.progress.say(f"{name}: {why}, so it is not timed")
    stage.programs |= made
    stage.compilations += sum(one.exception() is None for one in made.values())


def keep(stage: Throughput, wanted: Wanted, program: Built) -> None:
    """Keep a program until its cell is prepared."""
    stage.programs[wanted] = Future()
    stage.programs[wanted].set_result(program)


def built(stage: Throughput, key: CellKey, lowering: str | None) -> Built:
    """Return the program of a cell: the one that is kept, or one that is compiled now.

    What failed next to others is compiled once more, alone, as it may have lacked the memory that they took.

    Raises:
        JaxRuntimeError: When it cannot be compiled.
        MemoryError: When memory is short.
        TimeoutError: When it was not compiled in time.
    """
    kept = stage.programs.pop((key, lowering), None)
    if kept is not None and not is_of_choosing_kernels(str(kept.exception() or "")):
        return kept.result()
    made = _build(stage, key, lowering)
    stage.compilations += 1
    return made


def named(wanted: Wanted) -> str:
    """Return what the progress line calls a program."""
    key, lowering = wanted
    return f"{key} {lowering}" if lowering else str(key)


def _kernels(wanted: Wanted) -> Wanted:
    """Return what cells have in common whose steps differ only in how they follow one another."""
    key, lowering = wanted
    return msgspec.structs.replace(key, loop="dispatch", input="device"), lowering


def _compile(stage: Throughput, wanted: Wanted, made: Future[Built]) -> None:
    try:
        made.set_result(_build(stage, *wanted))
    except FAILURES as error:
        made.set_exception(error)
    except BaseException as error:
        made.set_exception(error)
        raise


def _build(stage: Throughput, key: CellKey, lowering: str | None) -> Built:
    work, compiled, seconds = build(stage.session.learner(key.precision, lowering), stage.session.splits[0], key)
    return stage.shared(work), compiled, seconds
