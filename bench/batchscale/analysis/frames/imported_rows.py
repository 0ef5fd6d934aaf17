"""Tables from elsewhere as rows: what they tell, and marked stand-ins for what a row needs and no table tells."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from batchscale.analysis.frames.csv_tables import Need, Timing
from batchscale.config import experiment as experiments
from batchscale.config.experiment import Experiment
from batchscale.errors import InputError
from batchscale.printable import bare, printable
from batchscale.records.row_types import Curve, Environment, Machine, MachineFile, Round, Trial

NOT_RECORDED = "not recorded"
ENVIRONMENT = "0000"
UNKNOWN_TARGET = 0.5
"""Stands for a target that the tables do not name; `imported.json` says so, and nothing shows it."""
UNKNOWN_RATE = 1.0
"""Stands for a learning rate that the tables do not name."""
ANY_EPOCHS = 1e5
"""Tables do not tell their budget."""
LARGEST_EXAMPLES = 10**15


def machines_of(timings: Iterable[Timing], path: Path) -> dict[str, list[Timing]]:
    """Timings by the name of their machine.

    Raises:
        InputError: when two names differ only in what a folder's name cannot show.
    """
    found: dict[str, list[Timing]] = defaultdict(list)
    for timing in timings:
        found[timing.machine or "imported"].append(timing)
    folders = Counter(slug(name) for name in found)
    for name in found:
        if folders[slug(name)] > 1:
            raise InputError(f"{path}: machine: {printable(name)} and another name differ too little; rename one")
    return dict(found)


def slug(name: str) -> str:
    """The name as it may stand in a path; without a dot, no file of the folder is named like it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "machine"


def _origin(experiment: Experiment, machine: str) -> dict[str, str | bool]:
    return {
        "experiment": experiment.name,
        "fingerprint": experiment.fingerprint,
        "machine": machine,
        "environment": ENVIRONMENT,
        "code": "imported",
        "dirty": False,
        "recorded": NOT_RECORDED,
    }


def trial_rows(
    needs: Sequence[Need], experiment: Experiment, machine: str, train_examples: int | None, path: Path
) -> Iterator[Trial]:
    """Trials whose curve is the one crossing that is known.

    Runs at several rates are search trials: the rate is chosen on them, and so are the claims made.
    """
    several = len({(need.batch_size, need.learning_rate) for need in needs}) > len({need.batch_size for need in needs})
    for need in needs:
        examples = _examples(need, train_examples, path)
        yield msgspec.convert(
            {
                **_origin(experiment, machine),
                "kind": "trial",
                "phase": "search" if several else "confirm",
                "batch_size": need.batch_size,
                "learning_rate": need.learning_rate or UNKNOWN_RATE,
                "seed": need.seed,
                "status": "ok",
                "train_examples": train_examples or 1,
                "steps": examples // need.batch_size if examples else 0,
                "curve": _curve(examples, need.batch_size, experiment.target.accuracy),
                "microbatch_size": need.batch_size,
                "lanes": 1,
            },
            Trial,
        )


def _examples(need: Need, train_examples: int | None, path: Path) -> int | None:
    """Examples to the target, whatever unit the table has; None when it was not reached."""
    per_unit = {"examples_to_target": 1, "steps_to_target": need.batch_size, "epochs_to_target": train_examples}
    factor = per_unit[need.unit]
    if factor is None:
        raise InputError(f"{path}: row 1: {need.unit}: needs --train-examples N, the examples in an epoch")
    if need.amount is None:
        return None
    return min(max(1, round(need.amount * factor)), LARGEST_EXAMPLES)


def _curve(examples: int | None, batch_size: int, target: float) -> Curve:
    """An evaluation just before the crossing and one at it; none at all where the target was not reached."""
    seen = [] if examples is None else [at for at in (examples - 1, examples) if at > 0]
    accuracy = [target if at == examples else 0.0 for at in seen]
    steps = [at // batch_size for at in seen]
    return Curve(examples=seen, steps=steps, accuracy=accuracy, loss=[None] * len(seen))


def round_rows(
    timings: Sequence[Timing], experiment: Experiment, machine: str, train_examples: int | None, path: Path
) -> Iterator[Round]:
    """Timings as rounds of one step."""
    seen: Counter[int] = Counter()
    for timing in timings:
        seconds = _seconds_per_step(timing, train_examples, path)
        seen[timing.batch_size] += 1
        yield msgspec.convert(
            {
                **_origin(experiment, machine),
                "kind": "round",
                "batch_size": timing.batch_size,
                "loop": "dispatch",
                "precision": experiment.workload.precision,
                "round": seen[timing.batch_size] - 1,
                "steps": 1,
                "seconds": seconds,
                "joules": timing.watts * seconds if timing.watts else None,
            },
            Round,
        )


def _seconds_per_step(timing: Timing, train_examples: int | None, path: Path) -> float:
    if timing.unit == "seconds_per_step":
        seconds = timing.amount
    elif timing.unit == "examples_per_second":
        seconds = timing.batch_size / timing.amount
    elif train_examples is None:
        raise InputError(f"{path}: row 1: seconds_per_epoch: needs --train-examples N, the examples in an epoch")
    else:
        seconds = timing.amount * timing.batch_size / train_examples
    if not 0 < seconds <= 1e9:
        raise InputError(f"{path}: {timing.unit}: {timing.amount:g} at batch size {timing.batch_size} is no step time")
    return seconds


def experiment_of(
    needs: Sequence[Need], timings: Sequence[Timing], target: float | None, convergence: Path
) -> Experiment:
    """The experiment that the tables could have been measured by, as far as they tell.

    Raises:
        InputError: when no experiment can have so many or so large batch sizes.
    """
    sizes = sorted({need.batch_size for need in needs} | {timing.batch_size for timing in timings})
    table = {
        "title": f"Measurements from {bare(convergence.name)}",
        "workload": {"dataset": "imported", "model": "imported", "optimizer": "imported"},
        "target": {"accuracy": target or UNKNOWN_TARGET},
        "batch_sizes": {"values": sizes},
        "learning_rate": {"anchor": UNKNOWN_RATE},
        "budget": {"epochs": ANY_EPOCHS},
    }
    return experiments.parse(table, "imported", str(convergence))


def unknown_machine(name: str) -> MachineFile:
    """A machine of which only the name is known."""
    machine = Machine(
        name=slug(name),
        platform="cpu",
        device_kind=name,
        device_count=1,
        cpu=NOT_RECORDED,
        cpu_cores=1,
        host_memory_bytes=0,
    )
    software = Environment(python=NOT_RECORDED, os=NOT_RECORDED, packages={})
    return MachineFile(machine=machine, environments={ENVIRONMENT: software})
