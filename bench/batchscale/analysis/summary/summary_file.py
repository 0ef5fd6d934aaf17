"""`summary.json`, schema 1: the answer, in numbers, with what each rests on."""

from __future__ import annotations

from pathlib import Path

from batchscale.analysis.summary_types import (
    Summary,
)
from batchscale.records import results_folder, row_files


def write(folder: Path, summary: Summary) -> Path:
    """Write `summary.json` in one move; returns its path.

    Raises:
        InputError: when the disk refuses.
    """
    path = folder / results_folder.SUMMARY
    row_files.write_json(path, summary)
    return path


def read(folder: Path) -> Summary:
    """The validated `summary.json` of a results folder.

    Raises:
        InputError: when it is missing, too large or not valid.
    """
    return results_folder.read_file(folder, results_folder.SUMMARY, Summary)
