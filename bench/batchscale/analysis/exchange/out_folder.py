"""The folder that `analyze` writes: what is the user's in it is never touched, and what is ours never stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from batchscale.errors import InputError
from batchscale.printable import bare
from batchscale.records import results_folder
from batchscale.untrusted_input import is_within

MADE = {file.name for file in results_folder.FILES} | {"cells.csv", "trials.csv", "rounds.csv", "figures"}
"""What a results folder that was made from tables may hold."""


OF_GROUPS = {"groups.json", "groups.html", "groups.csv"}
"""What the answer for groups of runs consists of."""
_BEGINNING_OF_GROUPS = b'{"schema":1,"metric"'


def refuse_foreign(out: Path, inputs: Iterable[Path]) -> None:
    """Check that `out` is missing, empty, or made by an earlier `analyze`, and that no input is in it.

    Raises:
        InputError: names the first thing in `out` that was not made from tables.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out}: --out: a file, expected a folder that is new, empty, or made by analyze")
    for folder in (out, *_of_machines(out)):
        allowed = MADE if _is_made(folder) else ({results_folder.SUMMARY} if _of_machines(out) else set())
        allowed = allowed | (OF_GROUPS if _holds_groups(folder) else set())
        allowed = allowed | {inside.name for inside in _of_machines(folder)}
        if foreign := sorted(entry.name for entry in folder.iterdir() if entry.name not in allowed):
            raise InputError(
                f"{folder}: --out: holds {bare(foreign[0])}, which was not made from tables, expected a folder that is"
                " new, empty, or made by analyze"
            )
    for path in inputs:
        if is_within(path, out):
            raise InputError(f"{path}: is in the folder --out, expected another --out")


def remove_earlier(out: Path) -> None:
    """Remove what an earlier `analyze` made in `out`; `refuse_foreign` has found nothing else there."""
    for folder in [*_of_machines(out), out]:
        for name in MADE | OF_GROUPS:
            made = folder / name
            if made.is_dir() and not made.is_symlink():
                shutil.rmtree(made)
            else:
                made.unlink(missing_ok=True)
        if folder != out:
            folder.rmdir()


def _of_machines(out: Path) -> list[Path]:
    return list(_made_below(out)) if out.is_dir() else []


def _made_below(out: Path) -> Iterator[Path]:
    for entry in sorted(out.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and _is_made(entry):
            yield entry


def _is_made(folder: Path) -> bool:
    return (folder / results_folder.IMPORTED).is_file()


def _holds_groups(folder: Path) -> bool:
    path = folder / "groups.json"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        beginning = b"".join(file.read(80).split())
    return beginning.startswith(_BEGINNING_OF_GROUPS)
