"""What a scheduler runs on a node: it starts a worker in a process of its own. It never imports JAX itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from batchscale.measure.control.child_process import ChildProcess, command

COMMAND = command("batchscale.measure.cluster.worker_main")
LAST_WORDS = 2
"""Lines of standard error that explain why a worker ended."""


class Ended(msgspec.Struct, frozen=True, tag_field="kind", tag="ended"):
    """The last line of a worker.

    Attributes:
        reason: Why the worker did not finish; None if it did.
    """

    reason: str | None = None


def lines(work: bytes, variables: Mapping[str, str]) -> Iterator[bytes]:
    """Start a worker; yield its lines as they come, and then how it ended.

    Args:
        work: `Instructions` as JSON.
        variables: Environment variables of the process, such as `JAX_PLATFORMS`.
    """
    reason = None
    with ChildProcess(msgspec.Raw(work), COMMAND, variables) as child:
        yield from child.lines()
        if child.status:
            reason = f"its process {child.how_it_ended()}: {child.last_words(LAST_WORDS) or 'it wrote no message'}"
    yield msgspec.json.encode(Ended(reason)) + b"\n"


def write_lines(work: bytes, variables: Mapping[str, str], path: Path) -> None:
    """Start a worker and append its lines to a file, each as soon as it comes."""
    with path.open("ab", buffering=0) as file:
        for line in lines(work, variables):
            file.write(line)
