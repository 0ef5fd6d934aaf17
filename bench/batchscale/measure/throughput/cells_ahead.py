"""Compile the programs of cells next to each other, before any of them is timed, where compiling takes long."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial

import msgspec

from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.failures import FAILURES, is_of_choosing_kernels
from batchscale.measure.device import jax_settings
from batchscale.measure.device.compile_ahead import compile_together
from batchscale.measure.throughput.timed_loops import Built, build
from batchscale.measure.throughput.timing import Timing, Wanted


def compile_cells(timing: Timing, wanted: Iterable[Wanted]) -> None:
    """Compile programs together and keep them, or what they failed of, until their cells are prepared.

    A kept program holds no parameters, so many may wait. Each reports the seconds that passed while it was compiled.
    With others next to it these include waiting for cores and for the device, on which one program at a time may try
    its kernels. On platforms whose policy forbids it, and where several hosts must compile in the same order, nothing
    is compiled here.

    Raises:
        Stopped: When a signal asked to stop.
    """
    session = timing.session
    new = [one for one in dict.fromkeys(wanted) if one not in timing.programs]
    if not session.host.policy.compiles_together or session.host.processes > 1 or not new:
        return
    names = {named(one): one for one in new}
    made: dict[Wanted, Future[Built]] = {one: Future() for one in new}
    for key, lowering in new:
        session.learner(key.precision, lowering)
    works = {name: partial(_compile, timing, one, made[one]) for name, one in names.items()}
    # Around all of them, because each program would switch the cache on again while others are compiled.
    seconds = session.host.policy.compile_seconds
    with jax_settings.compiling_anew():
        late = compile_together(
            works, session.host.machine.cpu_cores, timing.watch, seconds, lambda name: _kernels(names[name])
        )
    for name in late:
        why = f"not compiled within {seconds:g} s"
        made[names[name]] = Future()
        made[names[name]].set_exception(TimeoutError(f"it was {why}"))
        session.progress.say(f"{name}: {why}, so it is not timed")
    timing.programs |= made
    timing.compilations += sum(one.exception() is None for one in made.values())


def keep(timing: Timing, wanted: Wanted, program: Built) -> None:
    """Keep a program until its cell is prepared."""
    timing.programs[wanted] = Future()
    timing.programs[wanted].set_result(program)


def built(timing: Timing, key: CellKey, lowering: str | None) -> Built:
    """Return the program of a cell: the one that is kept, or one that is compiled now.

    What failed next to others is compiled once more, alone, as it may have lacked the memory that they took.

    Raises:
        JaxRuntimeError: When it cannot be compiled.
        MemoryError: When memory is short.
        TimeoutError: When it was not compiled in time.
    """
    kept = timing.programs.pop((key, lowering), None)
    if kept is not None and not is_of_choosing_kernels(str(kept.exception() or "")):
        return kept.result()
    made = _build(timing, key, lowering)
    timing.compilations += 1
    return made


def named(wanted: Wanted) -> str:
    """Return what the progress line calls a program."""
    key, lowering = wanted
    return f"{key} {lowering}" if lowering else str(key)


def _kernels(wanted: Wanted) -> Wanted:
    """Return what cells have in common whose steps differ only in how they follow one another."""
    key, lowering = wanted
    return msgspec.structs.replace(key, loop="dispatch", input="device"), lowering


def _compile(timing: Timing, wanted: Wanted, made: Future[Built]) -> None:
    try:
        made.set_result(_build(timing, *wanted))
    except FAILURES as error:
        made.set_exception(error)
    except BaseException as error:
        made.set_exception(error)
        raise


def _build(timing: Timing, key: CellKey, lowering: str | None) -> Built:
    work, compiled, seconds = build(timing.session.learner(key.precision, lowering), timing.session.splits[0], key)
    return timing.shared(work), compiled, seconds
