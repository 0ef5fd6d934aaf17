"""Find out by content which tool wrote a file, and read it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from batchscale.analysis.outside import json_files
from batchscale.analysis.outside.curve_tables import read_curves
from batchscale.analysis.outside.lines import LARGEST_FILE_BYTES, header
from batchscale.analysis.outside.runs import MOST_RUNS, Asked, Reading
from batchscale.analysis.outside.tables import NEEDS, Need, read_needs
from batchscale.analysis.outside.tensorboard_events import MARK, read_events
from batchscale.config.vocabulary import OutsideForm
from batchscale.errors import InputError
from batchscale.printable import bare
from batchscale.untrusted_input import refuse_endless

MOST_FILES = 5_000
DEEPEST = 6
_BEGINNING = 4_096
_LOGS = re.compile(
    r"trainer_state\.json|metrics\.csv|.*\.(csv|tsv|json|log|txt|parquet)|.*\.tfevents\..*", re.IGNORECASE
)
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")


def read(paths: Sequence[Path], asked: Asked) -> list[Need] | Reading:
    """Read what runs needed, or their scores, from files and from all files of folders.

    Raises:
        InputError: when a file has no form that is known, or two files do not fit together.
    """
    files = [file for path in paths for file in _files(path)]
    _refuse_twice(files)
    found = [read_file(file, asked) for file in files]
    grouped = [isinstance(one, Reading) and all(run.group for run in one.runs) for one in found]
    if asked.by and not all(grouped):
        raise InputError(f"{files[grouped.index(False)]}: --by: groups a CSV of scores alone, expected one")
    if len(found) == 1:
        return found[0]
    readings = [one for one in found if isinstance(one, Reading)]
    if len(readings) != len(found):
        raise InputError(f"{files[0]}: holds what runs needed, expected one such file alone")
    if other := next((at for at, one in enumerate(readings) if one.metric != readings[0].metric), None):
        both = f"{readings[0].metric} in {files[0]}, {readings[other].metric} in {files[other]}"
        raise InputError(f"{files[other]}: {both}, expected one metric (--metric names it)")
    runs = [run for one in readings for run in one.runs]
    if len(runs) > MOST_RUNS:
        raise InputError(f"{len(files)} files: {len(runs)} runs, expected at most {MOST_RUNS:,}")
    notes = (
        readings[0].notes
        if len(readings) == 1
        else [f"{len(files)} files were read; the first: {readings[0].notes[0]}"]
    )
    return Reading(runs, readings[0].metric, notes, readings[0].name)


def _refuse_twice(files: Sequence[Path]) -> None:
    """Refuse a file that is given twice: its runs would count as further seeds, and intervals would be too narrow."""
    seen: set[str] = set()
    for file in files:
        # Unlike Path.resolve, this raises nothing for a link to itself.
        if (whole := os.path.realpath(file)) in seen:
            raise InputError(f"{file}: given twice, expected every file once")
        seen.add(whole)


def read_file(path: Path, asked: Asked) -> list[Need] | Reading:
    """Read one file, whose form its content shows if it is not named.

    Raises:
        InputError: when it has no form that is known.
    """
    form = asked.form or _form_of(path)
    match form:
        case "tensorboard":
            return read_events(path, asked)
        case "mlperf-log":
            return json_files.read_result_log(path, asked)
        case "needs":
            return read_needs(path)
        case "scores":
            return read_curves(path, asked)
        case "trainer" | "mlperf-points" | "json":
            return _read_json(path, asked)


def _form_of(path: Path) -> OutsideForm | Literal["json"]:
    if MARK in path.name:
        return "tensorboard"
    beginning = _beginning(path)
    if not beginning.strip() and path.suffix.lower() not in (".csv", ".tsv", ".json"):
        raise InputError(f"{path}: empty, expected a table or a log of training runs")
    if json_files.LOG_MARK in beginning:
        return "mlperf-log"
    if beginning.lstrip().startswith(("{", "[")) or path.suffix.lower() == ".json":
        return "json"
    names = header(path)
    if not names or set(names) & set(NEEDS) or set(names) <= {"batch_size", "seed", "learning_rate"}:
        return "needs"
    return "scores"


def _read_json(path: Path, asked: Asked) -> list[Need] | Reading:
    data = json_files.load(path)
    if isinstance(data, dict) and json_files.is_trainer_state(data) and asked.form != "mlperf-points":
        return json_files.read_trainer_state(path, data, asked)
    if isinstance(data, dict) and json_files.is_reference_points(data) and asked.form != "trainer":
        return json_files.read_reference_points(path, data)
    raise InputError(f"{path}: JSON of an unknown form, expected trainer_state.json or MLPerf reference points")


def _beginning(path: Path) -> str:
    try:
        refuse_endless(path, LARGEST_FILE_BYTES)
        with path.open("rb") as file:
            return file.read(_BEGINNING).decode("utf-8", "replace").removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _files(path: Path) -> list[Path]:
    """Return a file itself, or the files of a folder that may hold runs; of checkpoints of one run only the last."""
    if not path.is_dir():
        return [path]
    found = sorted(_below(path, 0))
    last: dict[Path, tuple[int, Path]] = {}
    kept = []
    for file in found:
        checkpoint = _CHECKPOINT.fullmatch(file.parent.name)
        if checkpoint and file.name == "trainer_state.json":
            last[file.parent.parent] = max(last.get(file.parent.parent, (-1, file)), (int(checkpoint[1]), file))
        else:
            kept.append(file)
    direct = {file.parent for file in kept if file.name == "trainer_state.json"}
    kept += [file for folder, (_, file) in last.items() if folder not in direct]
    if not kept:
        raise InputError(f"{path}: holds no file that may be of a training run, expected .csv, .json or .log files")
    return sorted(kept)


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the logs below a folder. Where a folder has logs of a known name, its other files are left out."""
    if depth > DEEPEST:
        raise InputError(f"{folder}: more than {DEEPEST} folders deep, expected the folder of the runs")
    entries = sorted(folder.iterdir())
    if len(entries) > MOST_FILES:
        raise InputError(f"{folder}: {len(entries)} entries, expected at most {MOST_FILES:,}")
    files = [one for one in entries if one.is_file() and not one.is_symlink() and _LOGS.fullmatch(one.name)]
    known = [one for one in files if one.name in ("trainer_state.json", "metrics.csv")]
    # All event files of a folder are one run.
    events = [one for one in files if MARK in one.name]
    files = [one for one in files if one not in events[1:]]
    yield from known or ([] if _CHECKPOINT.fullmatch(bare(folder.name)) else files)
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            yield from _below(entry, depth + 1)
