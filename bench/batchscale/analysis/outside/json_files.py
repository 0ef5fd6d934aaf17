"""Read runs from JSON: the Trainer's trainer_state.json, MLPerf's reference convergence points and result logs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchscale.analysis.outside.lines import LARGEST_AMOUNT, LARGEST_FILE_BYTES, LARGEST_RATE
from batchscale.analysis.outside.runs import (
    Asked,
    Evaluation,
    OutsideRun,
    Reading,
    Unit,
    choose_column,
    finite_value,
    made_run,
    refuse_many,
    run_folder,
    score_value,
    settings_from_name,
)
from batchscale.analysis.outside.tables import Need
from batchscale.config.experiment import LARGEST_BATCH_SIZE
from batchscale.errors import InputError
from batchscale.printable import bare, printable, reason
from batchscale.untrusted_input import read_small

HISTORY = "log_history"
MOST_DIGITS = 18
LOG_MARK = ":::MLLOG"
_NEEDS = {"epochs to converge": "epochs_to_target", "samples to converge": "examples_to_target"}


def load(path: Path) -> object:
    """Read a JSON file; NaN is read, since the Trainer writes it.

    Raises:
        InputError: when it is too large, or not JSON.
    """
    content = read_small(path, LARGEST_FILE_BYTES)
    if not content.strip():
        raise InputError(f"{path}: empty, expected trainer_state.json or MLPerf reference points")
    try:
        return json.loads(content, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({reason(error)})") from None


def _integer(text: str) -> int | float:
    """Return a whole number; one of very many digits as the largest float, which every range refuses."""
    if len(text) <= MOST_DIGITS:
        return int(text)
    return -sys.float_info.max if text.startswith("-") else sys.float_info.max


def is_trainer_state(data: object) -> bool:
    """Return True for what the Hugging Face Trainer writes as trainer_state.json."""
    return isinstance(data, dict) and isinstance(data.get(HISTORY), list)


def is_reference_points(data: object) -> bool:
    """Return True for MLPerf's reference convergence points."""
    points = [*data.values()] if isinstance(data, dict) else []
    return bool(points) and all(isinstance(one, dict) and "BS" in one for one in points)


def read_trainer_state(path: Path, data: Mapping[str, Any], asked: Asked) -> Reading:
    """Read one run of the Hugging Face Trainer; its settings are in the name of its folder, or given.

    Raises:
        InputError: when it holds no score, or a value has the wrong type.
    """
    history = [one for one in data[HISTORY] if isinstance(one, dict)]
    names = dict.fromkeys(name for one in history for name in one if isinstance(name, str))
    chosen = choose_column(names, asked, f"{path}: {HISTORY}")
    score, metric = chosen
    evaluations = []
    for number, one in enumerate(history):
        if score in one:
            where = f"{path}: {HISTORY}[{number}]"
            step = finite_value(one.get("step"), f"{where}: step")
            evaluations.append(Evaluation(step, score_value(one[score], f"{where}: {score}")))
    known = settings_from_name(run_folder(path))
    run = made_run(str(path), known, replace(asked, metric=metric), "steps", evaluations, _runtime(path, history))
    note = f"{bare(path.name)}: the score is {bare(score)}; training is counted by step."
    return Reading([run], metric, [note], chosen.name)


def _runtime(path: Path, history: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Return the steps and the seconds of the whole training, which its last entry records."""
    for one in reversed(history):
        if "train_runtime" in one:
            seconds = score_value(one["train_runtime"], f"{path}: train_runtime")
            steps = score_value(one.get("step"), f"{path}: step")
            return (steps, seconds) if steps and seconds and seconds > 0 < steps else None
    return None


def read_reference_points(path: Path, data: Mapping[str, Any]) -> list[Need]:
    """Read MLPerf's reference convergence points: what each of some twenty runs needed, by batch size.

    Raises:
        InputError: names the point and the field that is wrong.
    """
    needs: list[Need] = []
    counts: dict[tuple[int, float | None], int] = {}
    for name, point in data.items():
        where = f"{path}: {bare(str(name))}"
        size = _whole(point["BS"], f"{where}: BS")
        rate = _rate(point.get("Hyperparams"), where)
        for unit, amounts in _needed(point, where):
            if not isinstance(amounts, list) or not amounts:
                raise InputError(f"{where}: {printable(amounts)}, expected a list of what each run needed")
            for at, amount in enumerate(amounts):
                value = score_value(amount, f"{where}: [{at}]")
                if value is not None and not 0 < value <= LARGEST_AMOUNT:
                    raise InputError(f"{where}: [{at}]: {value:g}, expected above 0 and up to {LARGEST_AMOUNT:g}")
                seed = counts[size, rate] = counts.get((size, rate), -1) + 1
                needs.append(Need(size, seed, rate, unit, value))
        refuse_many(path, len(needs))
    if len({need.unit for need in needs}) > 1:
        raise InputError(f"{path}: needs in epochs and in samples, expected one unit")
    return needs


def _needed(point: Mapping[str, Any], where: str) -> Iterator[tuple[str, object]]:
    found = [(_NEEDS[key.lower()], value) for key, value in point.items() if key.lower() in _NEEDS]
    if len(found) != 1:
        raise InputError(f"{where}: expected one of {', '.join(_NEEDS)}, found {len(found)} of them")
    yield from found


def _rate(table: object, where: str) -> float | None:
    rates = [
        value
        for key, value in (table.items() if isinstance(table, dict) else ())
        if key in ("opt_base_learning_rate", "opt_learning_rate", "learning_rate", "lr")
    ]
    if not rates or not isinstance(rates[0], int | float):
        return None
    if not 0 < rates[0] <= LARGEST_RATE:
        raise InputError(f"{where}: learning rate {rates[0]:g}, expected above 0 and up to {LARGEST_RATE:g}")
    return float(rates[0])


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_BATCH_SIZE:
        raise InputError(f"{where}: {printable(value)}, expected a whole number from 1 to {LARGEST_BATCH_SIZE}")
    return value


def read_result_log(path: Path, asked: Asked) -> Reading:
    """Read one run from the lines of an MLPerf result log; other lines are left out.

    Raises:
        InputError: when a marked line is not JSON, or the log holds no evaluation.
    """
    events = list(_events(path))
    names = dict.fromkeys(key for key, _, _, _ in events if key.startswith("eval_"))
    chosen = choose_column(names, asked, str(path))
    score, metric = chosen
    scored = [(value, metadata, seconds) for key, value, metadata, seconds in events if key == score]
    by_samples = all("samples_count" in metadata for _, metadata, _ in scored)
    counted = "samples_count" if by_samples else "epoch_num"
    evaluations = [
        Evaluation(
            finite_value(metadata.get(counted), f"{path}: {score}: {counted}"),
            score_value(value, f"{path}: {score}"),
            seconds,
        )
        for value, metadata, seconds in scored
    ]
    last = {key: value for key, value, _, _ in events if isinstance(value, int | float) and not isinstance(value, bool)}
    sizes = {value for key, value, _, _ in events if key in _LOG_KEYS["batch_size"] and isinstance(value, int | float)}
    if len(sizes) > 1:
        raise InputError(f"{path}: {' and '.join(f'{one:g}' for one in sorted(sizes))}: batch sizes, expected one run")
    known = {wanted: float(last[key]) for wanted, keys in _LOG_KEYS.items() for key in keys if key in last}
    unit: Unit = "examples" if by_samples else "epochs"
    run: OutsideRun = made_run(str(path), known, replace(asked, metric=metric), unit, evaluations)
    note = f"{bare(path.name)}: the score is {bare(score)}; training is counted by {unit}."
    return Reading([run], metric, [note], chosen.name)


_LOG_KEYS = {
    "batch_size": ("global_batch_size",),
    "learning_rate": ("opt_learning_rate", "opt_base_learning_rate"),
    "seed": ("seed",),
}


def _events(path: Path) -> Iterator[tuple[str, object, dict[str, Any], float | None]]:
    """Yield key, value, metadata and time in seconds of every marked line."""
    for number, text in enumerate(read_small(path, LARGEST_FILE_BYTES).decode("utf-8", "replace").splitlines(), 1):
        _, mark, rest = text.partition(LOG_MARK)
        if not mark:
            continue
        try:
            event = json.loads(rest, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: row {number}: not valid JSON ({reason(error)})") from None
        if not isinstance(event, dict) or not isinstance(event.get("key"), str):
            raise InputError(f"{path}: row {number}: key: missing, expected a line of MLPerf's logger")
        metadata = event.get("metadata")
        time = event.get("time_ms")
        clock = time / 1000 if isinstance(time, int | float) and not isinstance(time, bool) else None
        yield event["key"], event.get("value"), metadata if isinstance(metadata, dict) else {}, clock
