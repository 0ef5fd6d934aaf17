"""`batchscale`: parse, call, and turn what went wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from batchscale import __version__
from batchscale.cli import measuring, reading
from batchscale.cli.arguments import Parser
from batchscale.cli.output import warn
from batchscale.errors import UserError

EXAMPLES = """examples:
  batchscale run                          measure this machine's default suite and answer
  batchscale run lenet_mnist --budget 60  one experiment, scaled to an hour
  batchscale report results/local/lenet_mnist/MACHINE
  batchscale compare DIR DIR              two machines side by side
  batchscale COMMAND --help               what a command takes"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 2 with one line on bad input or a device that keeps failing, 130 when stopped by the user."""
    code = run(arguments)
    if code == measuring.INTERRUPTED:
        # Threads that still compile would crash on what the interpreter takes down before them.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    options = parser().parse_args(arguments)
    try:
        return options.call(options)
    except UserError as error:
        sys.stderr.write(f"batchscale: {error}\n")
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        warn(f"{where}the system refuses ({error.strerror})")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nbatchscale: stopped\n")
        return measuring.INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="batchscale",
        description="Which batch size should I train with, on this hardware? Measure it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"batchscale {__version__}")
    verbs = top.add_subparsers(required=True, metavar="COMMAND")
    measuring.add(verbs)
    reading.add(verbs)
    return top
