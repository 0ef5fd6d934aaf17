"""`make mutate`: mutmut puts small faults into the modules named in pyproject.toml; tests must notice 80 % of them.

Arguments are passed to `mutmut run`, for example the names of single mutants. mutmut looks for sources in `src/` and
nowhere else that suits this checkout, so it works on a copy in `build/mutation/`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / "build" / "mutation"
LEAST_SCORE = 0.80
HEADERS = ("---", "+++")
NOTICED = ("killed", "timeout", "caught by type check")


def main() -> int:
    """Make the mutants, run the tests on each, list those that survive; return 1 below the least score."""
    _copy_checkout()
    os.chdir(COPY)
    ran = subprocess.run([Path(sys.executable).with_name("mutmut"), "run", *sys.argv[1:]], check=False)
    if ran.returncode:
        return ran.returncode
    verdicts = dict(_verdicts())
    unchecked = [name for name, status in verdicts.items() if status == "not checked"]
    survivors = [name for name, status in verdicts.items() if status not in (*NOTICED, "not checked")]
    for name in survivors:
        print(f"{name}: {verdicts[name]}\n    {_change(name)}")
    checked = len(verdicts) - len(unchecked)
    score = 1 - len(survivors) / checked
    print(f"{score:.1%} of {checked} mutants were noticed; {len(survivors)} survived, {len(unchecked)} were not run")
    return int(score < LEAST_SCORE or (bool(unchecked) and not sys.argv[1:]))


def _copy_checkout() -> None:
    """Copy what the tests need, with the package as `src/batchscale`; every path in mutmut's table must exist."""
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    shutil.copy2(ROOT / "pyproject.toml", COPY)
    for source, name in (("bench/batchscale", "src/batchscale"), ("models", "models"), ("tests", "tests")):
        shutil.copytree(ROOT / source, COPY / name, ignore=shutil.ignore_patterns("__pycache__"))
    table = tomllib.loads((COPY / "pyproject.toml").read_text())["tool"]["mutmut"]
    named = [*table["only_mutate"], *table["pytest_add_cli_args_test_selection"]]
    if missing := [path for path in named if not (COPY / path).exists()]:
        sys.exit(f"pyproject.toml: tool.mutmut names paths that do not exist: {', '.join(missing)}")


def _verdicts() -> Iterator[tuple[str, str]]:
    """Yield each mutant's name with mutmut's verdict on it."""
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        for name, exit_code in data.exit_code_by_key.items():
            yield name, status_by_exit_code[exit_code]


def _change(name: str) -> str:
    """Return the lines that a mutant changes, before and after."""
    changed = [line for line in get_diff_for_mutant(name).splitlines() if line[:1] in "+-" and line[:3] not in HEADERS]
    before, after = (" ".join(line[1:].strip() for line in changed if line[0] == sign) for sign in "-+")
    return f"{before} -> {after}"


if __name__ == "__main__":
    sys.exit(main())
