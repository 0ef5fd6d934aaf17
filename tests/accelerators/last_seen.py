"""Write `last_seen.toml`: the most that any of the given compilations showed of each program.

`python tests/accelerators/last_seen.py h100=FILE ...` reads what `compile_suite.py` printed, one FILE for each device
and version of JAX, so that the bounds hold at both ends of the range of versions.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

HEADER = """\
# What was last seen of each program on each described device:
# [kernels of a tick, bytes of temporary memory, processor seconds of compiling]. Written by last_seen.py.
"""


def main(arguments: list[str]) -> None:
    seen: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for argument in arguments:
        target, _, path = argument.partition("=")
        for one in map(json.loads, Path(path).read_text().splitlines()):
            if (facts := one.get("facts")) is None:
                continue
            found = [facts["kernels"], facts["temp_bytes"], round(facts["compile_cpu_seconds"], 1)]
            before = seen[target].get(one["name"], found)
            seen[target][one["name"]] = [max(pair) for pair in zip(before, found, strict=True)]
    tables = [
        "\n".join([f"[{target}]", *(f"{json.dumps(name)} = {values}" for name, values in programs.items())])
        for target, programs in seen.items()
    ]
    (Path(__file__).parent / "last_seen.toml").write_text(HEADER + "\n" + "\n\n".join(tables) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
