"""What a verb prints: names of files and folders stand in its lines, so only visible text reaches the terminal."""

from __future__ import annotations

import sys

from batchscale.printable import visible


def tell(*lines: str) -> None:
    """Lines on standard output."""
    sys.stdout.write("".join(f"{visible(line)}\n" for line in lines))


def warn(line: str) -> None:
    """A line on standard error."""
    sys.stderr.write(f"batchscale: {visible(line)}\n")
