"""Read scores from CSV files: curves and final scores in long form, Lightning's metrics.csv, exports of W&B."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from batchscale.analysis.outside.lines import Line, header, lines
from batchscale.analysis.outside.runs import (
    Asked,
    Chosen,
    Evaluation,
    OutsideRun,
    Reading,
    Unit,
    choose_column,
    made_run,
    refuse_many,
    run_folder,
    settings_from_name,
)
from batchscale.errors import InputError
from batchscale.printable import LONGEST_REASON, bare
from batchscale.untrusted_input import read_small

HYPERPARAMETERS = "hparams.yaml"
LARGEST_HYPERPARAMETERS = 1 << 20
SETTINGS = {
    "batch_size": ("batch_size", "global_batch_size", "train_batch_size", "config.batch_size", "bs", "batch"),
    "learning_rate": ("learning_rate", "config.learning_rate", "lr", "config.lr"),
    "seed": ("seed", "config.seed", "random_seed"),
}
"""The names that tools give to a setting, those that are preferred first."""
RUN = ("run", "run_id", "run_name", "id", "name", "commit")
POSITIONS: tuple[tuple[Unit, tuple[str, ...]], ...] = (
    ("examples", ("examples", "samples", "samples_count")),
    ("tokens", ("tokens",)),
    ("steps", ("trainer/global_step", "train/global_step", "global_step", "step", "steps", "iteration", "_step")),
    ("epochs", ("epoch", "epochs")),
)
SECONDS = ("seconds", "_runtime", "runtime")
_WIDE = re.compile(r"(?P<run>.+) - (?P<metric>[^-]+)")
_SCALAR = re.compile(r"(?P<key>[A-Za-z_][\w.-]{0,79}):[ \t]+(?P<value>[0-9][0-9.eE+-]{0,30})[ \t]*(#.*)?")


@dataclass(frozen=True)
class Columns:
    """Where a table holds what.

    A clock counts the training of runs with several scores if nothing else does.

    Attributes:
        settings: Column of each setting that the table has.
        run: Column that names the run.
        position: Unit and column of the training before an evaluation.
        seconds: Column of the run's clock.
        score: Column of the score.
        one_run: True if the whole file is one run.
        groups: Columns that group runs.
        from_zero: True if the first step has the number 0.
    """

    settings: Mapping[str, str]
    run: str | None
    position: tuple[Unit, str] | None
    seconds: str | None
    score: str
    one_run: bool
    groups: tuple[str, ...]
    from_zero: bool


def read_curves(path: Path, asked: Asked) -> Reading:
    """Read the scores of a CSV file.

    Raises:
        InputError: on the first error, with file, row and column.
    """
    names = header(path)
    if not any(names):
        raise InputError(f"{path}: row 1: empty, expected the names of the columns")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: row 1: {bare(repeated[0]) or 'empty'}: a column given twice")
    if missing := [name for name in asked.by if name not in names]:
        raise InputError(f"{path}: row 1: --by: {bare(missing[0])}: no such column, expected {_grouping(names)}")
    if _first(names, SETTINGS["batch_size"]) is None and any(_WIDE.fullmatch(name) for name in names):
        return _read_wide(path, names, asked)
    columns, chosen = _columns(path, names, asked)
    runs, without_score = _runs(path, columns, asked)
    notes = _notes(path, names, columns, runs[0].unit)
    if without_score:
        notes.append(f"{without_score} of its runs have no score in any row, and were left out.")
    return Reading(runs, chosen.metric, notes, chosen.name)


def _columns(path: Path, names: Sequence[str], asked: Asked) -> tuple[Columns, Chosen]:
    if fixed := [name for name in asked.by if name.lower() in (*SETTINGS["batch_size"], *SETTINGS["learning_rate"])]:
        raise InputError(f"{path}: row 1: --by: {bare(fixed[0])}: is answered for, expected {_grouping(names)}")
    names = [name for name in names if name not in asked.by]
    settings = {wanted: name for wanted, aliases in SETTINGS.items() if (name := _first(names, aliases))}
    position = _position(names)
    run, seconds = _first(names, RUN), _first(names, SECONDS)
    taken = {*settings.values(), run, seconds, position[1] if position else None}
    chosen = choose_column((name for name in names if name not in taken), asked, f"{path}: row 1")
    one_run = run is None and "batch_size" not in settings
    # Lightning's logger writes epochs next to steps, and counts steps from 0.
    from_zero = one_run and position == ("steps", "step") and "epoch" in names
    return Columns(settings, run, position, seconds, chosen.column, one_run, asked.by, from_zero), chosen


def _grouping(names: Sequence[str]) -> str:
    settings = {alias for aliases in SETTINGS.values() for alias in aliases}
    known = [name for name in names if name and name.lower() not in settings]
    return f"one of {bare(', '.join(known), LONGEST_REASON)}" if known else "a column that groups runs"


def _position(names: Sequence[str]) -> tuple[Unit, str] | None:
    for unit, aliases in POSITIONS:
        if name := _first(names, aliases):
            return unit, name
    return None


def _first(names: Sequence[str], aliases: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in names}
    return next((lower[alias] for alias in aliases if alias in lower), None)


Key = tuple[object, ...]
"""What distinguishes a run from others: its name, its group and its settings."""


def _runs(path: Path, columns: Columns, asked: Asked) -> tuple[list[OutsideRun], int]:
    """Return the runs with scores, and the number of runs without any."""
    asked = _naming(asked, columns.score)
    found: dict[Key, tuple[Line, dict[str, float], list[Evaluation]]] = {}
    without_score: set[Key] = set()
    whole_file = settings_of_file(path, path.stem) if columns.one_run else {}
    for line in lines(path):
        known = whole_file | _settings(line, columns)
        key = _key(line, columns, known)
        if not line.fields[columns.score]:
            without_score.add(key[:2] if columns.run else key)
            continue
        found.setdefault(key, (line, known, []))[2].append(_evaluation(line, columns, signed=asked.signed))
        refuse_many(path, len(found))
    if not found:
        raise InputError(f"{path}: {bare(columns.score)}: no score in any row, expected at least one")
    unit = columns.position[0] if columns.position else None
    line, known, scores = max(found.values(), key=lambda one: len(one[2]))
    if unit is None and len(scores) > 1:
        # The run with most scores comes first, because it is the one that the line of a refusal is about.
        _by_clock(path, line, known, columns, scores)
        found = {
            key: (line, known, _by_clock(path, line, known, columns, scores))
            for key, (line, known, scores) in found.items()
        }
        unit = "seconds"
    if unit and (columns.run or columns.one_run):
        _refuse_schedules(found, columns.settings.get("learning_rate", ""))
    runs = [
        replace(_run(path, line, columns, known, asked, unit, evaluations), group=_group(line, columns))
        for line, known, evaluations in found.values()
    ]
    with_score = {key[:2] if columns.run else key for key in found}
    return runs, 0 if columns.one_run else len(without_score - with_score)


def _key(line: Line, columns: Columns, known: Mapping[str, float]) -> Key:
    name = line.name(columns.run) if columns.run else None
    final = columns.position is None and not columns.one_run and columns.run is None
    return name, _group(line, columns), *sorted(known.items()), line.number if final and "seed" not in known else None


def _group(line: Line, columns: Columns) -> tuple[str, ...]:
    return tuple(line.name(column) or "" for column in columns.groups)


def _run(
    path: Path,
    line: Line,
    columns: Columns,
    known: dict[str, float],
    asked: Asked,
    unit: Unit | None,
    evaluations: list[Evaluation],
) -> OutsideRun:
    name = line.name(columns.run) if columns.run else None
    return made_run(_where(path, name, known), settings_from_name(name or "") | known, asked, unit, evaluations)


def _by_clock(
    path: Path, line: Line, known: Mapping[str, float], columns: Columns, evaluations: Sequence[Evaluation]
) -> list[Evaluation]:
    """Return the evaluations with the clock as the training before them, which nothing else counts.

    Raises:
        InputError: where an evaluation has no reading of a clock.
    """
    where = _where(path, line.name(columns.run) if columns.run else None, known)
    if any(one.seconds is None for one in evaluations):
        if columns.seconds:
            raise InputError(f"{where}: {columns.seconds}: empty next to a score, expected the clock at every score")
        found = f"{len(evaluations)} scores of one run" if len(evaluations) > 1 else "a score"
        raise InputError(f"{where}: {found}, expected one, or a column step, examples, tokens, epoch or seconds")
    return [Evaluation(one.seconds or 0.0, one.score) for one in evaluations]


def _refuse_schedules(found: Mapping[Key, tuple[Line, dict[str, float], list[Evaluation]]], column: str) -> None:
    """Refuse a column with the rate of every step: one run would be taken for many, each with its first score alone.

    Raises:
        InputError: where a run has several rates, and never two of them at one place of its training.
    """
    together: dict[Key, list[tuple[Line, list[Evaluation]]]] = {}
    for key, (line, known, evaluations) in found.items():
        others = tuple(sorted((name, value) for name, value in known.items() if name != "learning_rate"))
        together.setdefault((*key[:2], others), []).append((line, evaluations))
    for parts in together.values():
        places = [one.at for _, evaluations in parts for one in evaluations]
        if len(parts) > 1 and len(set(places)) == len(places):
            raise parts[1][0].complain(
                column,
                "a second rate in one run, expected the rate that the run was given (leave out a column of a schedule)",
            )


def _naming(asked: Asked, score: str) -> Asked:
    """Return what was asked for, with the metric that the column holds."""
    return replace(asked, metric=asked.metric or choose_column([score], asked, score).metric)


def _where(path: Path, run: str | None, known: Mapping[str, float]) -> str:
    named = f"run {bare(run)}" if run else ", ".join(f"{name} {value:g}" for name, value in known.items())
    return f"{path}: {named}" if named else str(path)


def _settings(line: Line, columns: Columns) -> dict[str, float]:
    known: dict[str, float] = {}
    for wanted, column in columns.settings.items():
        if line.fields[column]:
            match wanted:
                case "batch_size":
                    known[wanted] = line.batch_size(column)
                case "learning_rate":
                    known[wanted] = line.rate(column)
                case _:
                    known[wanted] = line.count(column, 0)
    return known


def _evaluation(line: Line, columns: Columns, *, signed: bool) -> Evaluation:
    at = 0.0
    if columns.position:
        at = line.at_least_zero(columns.position[1]) + columns.from_zero
    seconds = line.at_least_zero(columns.seconds) if columns.seconds and line.fields[columns.seconds] else None
    return Evaluation(at, line.score(columns.score, signed=signed), seconds)


def settings_of_file(path: Path, name: str = "") -> dict[str, float]:
    """Return the settings of a file that is one run: of Lightning's file next to it, else of its folder's name.

    Args:
        path: The file.
        name: What else names the run.
    """
    found = settings_from_name(f"{run_folder(path)}/{name}")
    settings = path.with_name(HYPERPARAMETERS)
    if settings.is_file():
        scalars = top_level_numbers(read_small(settings, LARGEST_HYPERPARAMETERS).decode("utf-8", "replace"))
        for wanted, aliases in SETTINGS.items():
            if alias := _first([*scalars], aliases):
                found[wanted] = scalars[alias]
    return found


def top_level_numbers(text: str) -> dict[str, float]:
    """Return the numbers of a YAML file that are values of its outermost keys.

    Only lines such as `lr: 0.1` are read; everything else that YAML can say is left out.
    """
    matches = filter(None, map(_SCALAR.fullmatch, text.splitlines()))
    found = {}
    for match in matches:
        try:
            found[match["key"].lower()] = float(match["value"])
        except ValueError:
            continue
    return found


def _read_wide(path: Path, names: Sequence[str], asked: Asked) -> Reading:
    """Read the CSV of a W&B chart: a column of steps, and one for each run, with its least and its greatest value."""
    plain = [name for name in names if not name.endswith(("__MIN", "__MAX"))]
    scores = {name: match for name in plain if (match := _WIDE.fullmatch(name)) and not match["metric"].startswith("_")}
    chosen = choose_column((match["metric"].strip() for match in scores.values()), asked, f"{path}: row 1")
    score, named = chosen.column, replace(asked, metric=chosen.metric)
    position = _position(plain)
    if position is None:
        raise InputError(f"{path}: row 1: step: missing column, expected one next to those of the runs")
    kept = {name: match["run"] for name, match in scores.items() if match["metric"].strip() == score}
    refuse_many(path, len(kept))
    evaluations: dict[str, list[Evaluation]] = {name: [] for name in kept}
    for line in lines(path):
        for name in kept:
            if line.fields[name]:
                evaluations[name].append(
                    Evaluation(line.at_least_zero(position[1]), line.score(name, signed=named.signed))
                )
    runs = [
        made_run(f"{path}: run {bare(run)}", settings_from_name(run), named, position[0], evaluations[name])
        for name, run in kept.items()
    ]
    note = f"The score is {bare(score)}; batch sizes and rates are those in the runs' names."
    return Reading(runs, chosen.metric, [note], chosen.name)


def _notes(path: Path, names: Iterable[str], columns: Columns, unit: Unit | None) -> list[str]:
    position = columns.position[1] if columns.position else columns.seconds if unit else None
    used = {*columns.settings.values(), columns.run, columns.seconds, columns.score, position, *columns.groups}
    unread = [name for name in names if name not in used and name]
    read = f"{bare(path.name)}: the score is {bare(columns.score)}"
    read += f"; training is counted by {bare(position)}." if position else ", one for each run."
    ignored = f" Its columns {bare(', '.join(unread), LONGEST_REASON)} were not read." if unread else ""
    return [read + ignored]
