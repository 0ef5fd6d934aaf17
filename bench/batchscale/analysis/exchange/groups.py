"""Answer for every group of runs in files of final scores or of curves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from batchscale.analysis.exchange.analyze import Known, check_known, of_scores, settled
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.outside_tables import UNNAMED, round_rows, unknown_machine
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.outside import recognise
from batchscale.analysis.outside.runs import OutsideRun, Reading
from batchscale.analysis.summary.groups import GroupAnswer, Groups, answer_of, together
from batchscale.config.goal import Goal
from batchscale.errors import InputError
from batchscale.printable import bare

MOST_GROUPS = 200


def answer_groups(files: Sequence[Path], known: Known) -> Groups:
    """Return one answer for each group of runs, by the columns `known.scores.by`.

    Raises:
        InputError: when a file is wrong, holds no scores, or has too many groups.
    """
    check_known(known)
    read = settled(recognise.read(files, known.scores), files[0], known)
    if not isinstance(read, Reading):
        raise InputError(f"{files[0]}: --by: holds what runs needed, expected their curves or final scores")
    groups: dict[tuple[str, ...], list[OutsideRun]] = defaultdict(list)
    for run in read.runs:
        groups[run.group].append(run)
    if len(groups) > MOST_GROUPS:
        raise InputError(f"{files[0]}: --by: {len(groups)} groups, expected at most {MOST_GROUPS}")
    columns = known.scores.by
    answers = [_answer(columns, group, replace(read, runs=runs), files[0], known) for group, runs in groups.items()]
    final = read.final_only or known.target is None
    goal = None if final else Goal(metric=read.metric, threshold=known.target or 0.0, name=read.name)
    return together(read.metric, goal, columns, answers, read.name)


def _answer(columns: Sequence[str], group: Sequence[str], read: Reading, file: Path, known: Known) -> GroupAnswer:
    named = dict(zip(columns, group, strict=True))
    try:
        found = of_scores(read, [], (file, None), known)
        timings = found.timings.get(UNNAMED, [])
        clocked = [*round_rows(timings, found.experiment, UNNAMED, found.amounts, file)]
        rows = [*found.trials(UNNAMED), *clocked]
    except InputError as error:
        of = ", ".join(f"{column}={value}" for column, value in named.items())
        raise InputError(f"{error} (in the group {bare(of)})") from None
    made = frames.from_rows(found.experiment, unknown_machine(UNNAMED), rows, None, found.imported)
    return answer_of(named, Sweep.of(made))
