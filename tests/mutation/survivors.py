"""`make mutate`: mutmut puts small faults into the modules named in pyproject.toml, and the tests must notice them.

At least 80% must be noticed; each that is not must stand in `kept.toml` with the reason why it may live. One that has
a reason and is noticed all the same is only told of, as examples are drawn at random. A mutant is named by its function
and by the lines it changes, because its number moves with every edit.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import get_module_from_key, orig_function_and_class_names_from_key

LEAST_SCORE = 0.80
NOTICED = ("killed", "timeout", "caught by type check")
KEPT = Path(__file__).with_name("kept.toml")


class Mutant(NamedTuple):
    """One fault: where it is, and the lines before and after, or those taken away."""

    function: str
    change: str


def main() -> int:
    """Make and run what mutants there are to run, then judge; exit status."""
    subprocess.run([Path(sys.executable).with_name("mutmut"), "run", *sys.argv[1:]], check=True)
    verdicts = dict(_verdicts())
    missing = sorted(name for name, status in verdicts.items() if status == "not checked")
    survivors = {_mutant(name): status for name, status in verdicts.items() if status not in (*NOTICED, "not checked")}
    reasons = dict(_reasons(tomllib.loads(KEPT.read_text())["kept"]))
    score = 1 - len(survivors) / len(verdicts)
    for mutant in sorted(survivors):
        print(f"{mutant.function}: {mutant.change}\n    {reasons.get(mutant, '*** no reason ***')}")
    for mutant in sorted(reasons.keys() - survivors.keys()):
        print(f"{mutant.function}: {mutant.change}\n    *** has a reason to live and does not ***")
    print(f"{score:.1%} of {len(verdicts)} mutants were noticed; {len(survivors)} live, {len(missing)} were not run")
    return int(score < LEAST_SCORE or bool(missing) or not survivors.keys() <= reasons.keys())


def _verdicts() -> Iterator[tuple[str, str]]:
    """Every mutant by mutmut's name for it, with what became of it."""
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        for name, exit_code in data.exit_code_by_key.items():
            yield name, status_by_exit_code[exit_code]


def _mutant(name: str) -> Mutant:
    function, owner = orig_function_and_class_names_from_key(name)
    place = ".".join(part for part in (get_module_from_key(name), owner, function) if part)
    changed = [
        line for line in get_diff_for_mutant(name).splitlines() if not line.startswith(("---", "+++", "@@", " "))
    ]
    before, after = (" ".join(line[1:].strip() for line in changed if line[0] == sign) for sign in "-+")
    return Mutant(place, f"{before} -> {after}")


def _reasons(kept: Iterable[dict]) -> Iterator[tuple[Mutant, str]]:
    for one in kept:
        for change in one["changes"]:
            yield Mutant(one["function"], change), one["reason"]


if __name__ == "__main__":
    sys.exit(main())
