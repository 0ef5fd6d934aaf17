"""What the first quarter of an hour on a GPU should show, as one table: `make gpu-check`.

Each step is a new process, so that a step that crashes ends no other. What a step found is kept in a file, and a
second run repeats only the steps that are missing or failed. Each device, version of JAX and commit has a folder of its
own for that, and so has a small check. Every step runs on a CPU too; with `--small`, in a minute.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [str(ROOT / folder) for folder in ("bench", "tests/support", "tests/perf")]
THROUGHPUT_PROCESSES = 3
"""Kernels are chosen anew in each process, so that speeds differ between processes."""
STEP_SECONDS = 600
LAST_WORDS = 400
IDENTITY = "identity"
"""The step that names what kept steps depend on: device, version of JAX, commit. It is never kept."""
STEPS = (
    "products",
    "sensors",
    *(f"throughput {process}" for process in range(1, THROUGHPUT_PROCESSES + 1)),
    "processes",
    "lowerings",
    "lanes",
    "ratios",
    "suite",
)


class Fact(msgspec.Struct, frozen=True):
    """A line of the table.

    Attributes:
        name: Of what was found.
        value: In words.
        ok: False if it is not as it should be; None if there is nothing to compare it with.
    """

    name: str
    value: str
    ok: bool | None = None


class Found(msgspec.Struct, frozen=True):
    """What one step found, as it is kept."""

    step: str
    seconds: float
    facts: list[Fact] = []
    failure: str | None = None


class Place(NamedTuple):
    """Where a step works, and whether it does little.

    Attributes:
        folder: For what it keeps.
        small: True for a minute on a CPU.
    """

    folder: Path
    small: bool

    @property
    def sizes(self) -> list[int]:
        """Batch sizes to time."""
        return [16, 64] if self.small else [4, 64, 256, 1024, 4096]


def check(place: Place) -> int:
    """Run the steps that are missing, print the table of all, and return how many are not as they should be."""
    known = _run(place, IDENTITY)
    if known.failure is not None:
        return print_table([known])
    names = ["small" if place.small else "full", *(fact.value for fact in known.facts)]
    place = place._replace(folder=place.folder / "_".join(names))
    place.folder.mkdir(parents=True, exist_ok=True)
    kept = _kept(place.folder)
    for step in STEPS:
        if step in kept and kept[step].failure is None:
            continue
        print(f"{step} ...", file=sys.stderr, flush=True)
        kept[step] = _run(place, step)
        with _file(place.folder).open("ab") as file:
            file.write(msgspec.json.encode(kept[step]) + b"\n")
    return print_table([kept[step] for step in STEPS])


def _run(place: Place, step: str) -> Found:
    start = time.monotonic()
    path = os.pathsep.join([*SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])
    # Steps share the device with the children that they start.
    environment = {**os.environ, "PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, str(Path(__file__).with_name("gpu_check_steps.py")), step, str(place.folder)]
    command += ["--small"] if place.small else []
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=STEP_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Found(step, STEP_SECONDS, failure=f"took more than {STEP_SECONDS} s")
    seconds = time.monotonic() - start
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        return Found(step, seconds, failure=last[-LAST_WORDS:] or f"exit status {done.returncode}")
    return Found(step, seconds, msgspec.json.decode(done.stdout.splitlines()[-1], type=list[Fact]))


def _kept(folder: Path) -> dict[str, Found]:
    """Return what was found before, the last of each step; a torn line counts as missing."""
    lines = _file(folder).read_bytes().splitlines() if _file(folder).exists() else []
    found = {}
    for line in lines:
        try:
            one = msgspec.json.decode(line, type=Found)
        except msgspec.DecodeError:
            continue
        found[one.step] = one
    return found


def _file(folder: Path) -> Path:
    return folder / "gpu_check.jsonl"


def print_table(all_found: list[Found]) -> int:
    """Print every fact with its verdict; return how many are bad."""
    bad = 0
    for found in all_found:
        print(f"\n{found.step} ({found.seconds:.0f} s)")
        facts = [Fact("failed", found.failure, ok=False)] if found.failure is not None else found.facts
        for fact in facts:
            verdict = {True: "ok", False: "NOT OK", None: ""}[fact.ok]
            print(f"  {fact.name:44}  {fact.value:34}  {verdict}".rstrip())
            bad += fact.ok is False
    print(f"\n{bad} not as it should be; {sum(found.seconds for found in all_found):.0f} s in all")
    return bad


def main(arguments: list[str] | None = None) -> int:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / ".benchmarks" / "gpu-check", help="folder for what is found")
    parser.add_argument("--small", action="store_true", help="do little, to see that every step works")
    given = parser.parse_args(arguments)
    return min(1, check(Place(given.out.resolve(), given.small)))


if __name__ == "__main__":
    sys.exit(main())
