"""Anyone's measurements: tables from elsewhere become rows of a results folder, and then everything else applies."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import tomli_w

from bench import experiment as experiments
from bench import store
from bench.analysis import frames, summary
from bench.analysis.frames import Imported
from bench.analysis.summarize import summarize
from bench.analysis.summary import Summary
from bench.analysis.tables import Need, Timing, read_needs, read_timings
from bench.decoding import printable
from bench.errors import InputError
from bench.experiment import Experiment
from bench.folders import set_price
from bench.rows import Curve, Environment, Machine, MachineFile, Round, Row, Trial

NOT_RECORDED = "not recorded"
ENVIRONMENT = "0000"
UNKNOWN_TARGET = 0.5
"""Stands for a target that the tables do not name; `imported.json` says so, and nothing shows it."""
UNKNOWN_RATE = 1.0
"""Stands for a learning rate that the tables do not name."""
ANY_EPOCHS = 1e5
"""Tables do not tell their budget."""
LARGEST_EXAMPLES = 10**15


class MachineSummaries(msgspec.Struct, frozen=True, kw_only=True):
    """`summary.json` where tables hold several machines: one summary each, by the machine's name."""

    schema: int = 1
    machines: dict[str, Summary]


def analyze(
    convergence: Path,
    throughput: Path,
    out: Path,
    train_examples: int | None = None,
    target: float | None = None,
    price_per_hour: float | None = None,
) -> dict[str, Path]:
    """Turn two tables into results folders with their summaries; returns the folder of every machine by its name.

    One machine's folder is `out` itself; several have a folder each below it, and `out/summary.json` holds them all.

    Raises:
        InputError: when a table or an option is wrong, or `out` holds measurements of its own.
    """
    _check_options(train_examples, target)
    needs, timings = read_needs(convergence), read_timings(throughput)
    by_machine = machines_of(timings, throughput)
    imported = Imported(
        train_examples=train_examples,
        target_accuracy=target,
        learning_rates=any(need.learning_rate is not None for need in needs),
    )
    experiment = _experiment(needs, timings, imported, convergence)
    folders = {name: out if len(by_machine) == 1 else out / slug(name) for name in by_machine}
    for folder in {out, *folders.values()}:
        _refuse_measured(folder)
    for name, folder in folders.items():
        trials = trial_rows(needs, experiment, slug(name), train_examples, convergence)
        rounds = round_rows(by_machine[name], experiment, slug(name), train_examples, throughput)
        _write(folder, experiment, name, imported, trials=list(trials), rounds=list(rounds))
        if price_per_hour is not None:
            set_price(folder, price_per_hour)
    answers = {name: summarize(frames.load(folder)) for name, folder in folders.items()}
    for name, folder in folders.items():
        summary.write(folder, answers[name])
    if len(answers) > 1:
        together = msgspec.json.format(msgspec.json.encode(MachineSummaries(machines=answers)), indent=2)
        store.write_whole(out / "summary.json", together + b"\n")
    return folders


def _check_options(train_examples: int | None, target: float | None) -> None:
    if train_examples is not None and not 1 <= train_examples <= LARGEST_EXAMPLES:
        raise InputError(f"--train-examples: {train_examples} is not a number of examples from 1 to {LARGEST_EXAMPLES}")
    if target is not None and not 0 < target < 1:
        raise InputError(f"--target: {target:g} is not an accuracy between 0 and 1, such as 0.99")


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
    """The name as it may stand in a path."""
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
    rates = {need.learning_rate for need in needs}
    several = len({(need.batch_size, need.learning_rate) for need in needs}) > len({need.batch_size for need in needs})
    for need in needs:
        examples = _examples(need, train_examples, path)
        yield msgspec.convert(
            {
                **_origin(experiment, machine),
                "kind": "trial",
                "phase": "search" if several and len(rates) > 1 else "confirm",
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


def _experiment(needs: Sequence[Need], timings: Sequence[Timing], imported: Imported, convergence: Path) -> Experiment:
    """The experiment that the tables could have been measured by, as far as they tell."""
    sizes = sorted({need.batch_size for need in needs} | {timing.batch_size for timing in timings})
    table = {
        "title": f"Measurements from {printable(convergence.name)[1:-1]}",
        "workload": {"dataset": "imported", "model": "imported", "optimizer": "imported"},
        "target": {"accuracy": imported.target_accuracy or UNKNOWN_TARGET},
        "batch_sizes": {"values": sizes},
        "learning_rate": {"anchor": UNKNOWN_RATE},
        "budget": {"epochs": ANY_EPOCHS},
    }
    return experiments.parse(table, "imported", str(convergence))


def _write(
    folder: Path, experiment: Experiment, name: str, imported: Imported, *, trials: list[Trial], rounds: list[Round]
) -> None:
    table = msgspec.to_builtins(experiment)
    plain = {key: table[key] for key in ("name", "title", "workload", "target", "learning_rate", "budget")}
    plain["batch_sizes"] = {"values": experiment.batch_sizes.values}
    store.write_whole(folder / "experiment.toml", tomli_w.dumps(_without_null(plain)).encode())
    store.write_whole(folder / "machine.json", msgspec.json.encode(unknown_machine(name)))
    store.write_whole(folder / "imported.json", msgspec.json.encode(imported))
    store.write_whole(folder / "convergence.jsonl", _lines(trials))
    store.write_whole(folder / "throughput.jsonl", _lines(rounds))


def _without_null(table: dict) -> dict:
    """TOML has no null; what is absent takes its default."""
    return {
        key: _without_null(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def _lines(rows: Iterable[Row]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


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


def _refuse_measured(folder: Path) -> None:
    """Measurements made here are never overwritten."""
    rows = [name for name in frames.ROW_FILES if (folder / name).exists()]
    if rows and not (folder / "imported.json").exists():
        raise InputError(f"{folder}: holds {rows[0]}, which was not made from tables; give another --out")
