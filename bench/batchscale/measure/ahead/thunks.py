"""What a compiled GPU program launches: CUDA graphs, loops that the host turns, and kernels.

The text of a program (`hlo_text`) does not show which kernels a graph holds; only the dump of its thunks does. A
*thunk* is one thing that XLA's runtime does: it launches a kernel or a graph, copies, or turns a loop.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

_THUNK = re.compile(r"^( *)\d+: (k\w+)")
_FILES = "*thunk_sequence_after_thunk_passes.txt"
_GRAPH, _LOOP = "kCommandBuffer", "kWhile"


class Launches(NamedTuple):
    """What the host does for a program.

    Attributes:
        graphs: CUDA graphs in the program.
        host_loops: Loops outside of every graph: each turn of one waits for the host.
        launches: Graphs and single thunks that the host starts in a turn of its loops, or in a call where it has none.
    """

    graphs: int
    host_loops: int
    launches: int


def compiled_with_launches(
    compile_it: Callable[[dict[str, str | bool]], jax.stages.Compiled],
) -> tuple[jax.stages.Compiled, Launches | None]:
    """Compile a program and return what it launches; None where XLA writes no file (JAX 0.10, loops in a graph).

    Args:
        compile_it: Compiles with the given further options.
    """
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile_it({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        files = sorted(Path(folder).glob(_FILES))
        return compiled, read(files[-1].read_text()) if files else None


def read(text: str) -> Launches:
    """Read the thunks of a program, one a line; those inside of another are indented below it."""
    above: list[tuple[int, str]] = []
    graphs = host_loops = at_the_top = in_loops = 0
    for depth, kind in ((len(found[1]), found[2]) for found in map(_THUNK.match, text.splitlines()) if found):
        above = [one for one in above if one[0] < depth]
        kinds = {name for _, name in above}
        graphs += kind == _GRAPH
        if _GRAPH not in kinds:
            host_loops += kind == _LOOP
            at_the_top += not kinds
            in_loops += _LOOP in kinds and kind != _LOOP
        above.append((depth, kind))
    return Launches(graphs, host_loops, in_loops if host_loops else at_the_top)
