"""`batchscale`: parse what was typed, call the command, and turn an error into one line and an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import click

from batchscale import __version__
from batchscale.cli import measuring, outside_data, planning, publishing, reading
from batchscale.cli.shared_options import EXIT_CODES
from batchscale.errors import UserError, warn

EXAMPLES = f"""\b
examples:
  batchscale run                          measure this machine's default suite and answer
  batchscale run lenet_mnist --budget 60  one experiment, scaled to an hour
  batchscale report results/local/lenet_mnist/MACHINE
  batchscale compare DIR DIR              two machines side by side
  batchscale COMMAND --help               the options of a command

{EXIT_CODES}"""

WITHOUT_VALUE = ("ray",)
"""Options whose value may be left out."""


class Commands(click.Group):
    """The commands, listed in the order in which a user needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return [*self.commands]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an empty line with a hint, which click would not give."""
        if not args:
            ctx.fail("Missing command; `batchscale --help` lists the commands.")
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse `--results --json`, where click would name a folder `--json`."""
        name, command, rest = super().resolve_command(ctx, args)
        options = (one for one in (command.params if command else ()) if isinstance(one, click.Option))
        with_value = {flag for one in options if not one.is_flag and one.name not in WITHOUT_VALUE for flag in one.opts}
        for option, value in pairwise(rest):
            if option in with_value and value.startswith("--"):
                raise click.BadOptionUsage(option, f"Option {option!r} requires an argument, found {value!r}.")
        return name, command, rest


APP = Commands(
    help="Which batch size should I train with, on this hardware? Measure it.",
    epilog=EXAMPLES,
    commands=[
        measuring.run,
        measuring.list_names,
        measuring.verify,
        measuring.doctor,
        reading.report,
        reading.explain,
        reading.figures,
        reading.export,
        reading.schema,
        publishing.compare,
        publishing.site,
        publishing.submit,
        outside_data.analyze,
        outside_data.predict,
        planning.plan,
    ],
)
click.version_option(__version__, message="batchscale %(version)s")(APP)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 2 with one line on bad input or a failing device, 130 when the user stopped it."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # A scheduler's SIGTERM ends every command as Ctrl-C does; `run` answers both itself while it measures.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = run(arguments)
    if code == measuring.INTERRUPTED:
        # A thread that still compiles would crash while the interpreter shuts down, so nothing is shut down.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the arguments of this process) and return its exit code."""
    _open_closed_streams()
    _never_fail_to_print()
    _draw_without_the_users_settings()
    _show_only_errors_of_xla()
    try:
        code = _call(sys.argv[1:] if arguments is None else [*arguments])
        sys.stdout.flush()  # here a closed pipe ends quietly; when Python shuts down it would print a traceback
        return code
    except click.UsageError as error:
        command = f"{error.ctx.info_name}: " if error.ctx and error.ctx.parent else ""
        warn(f"{command}{error.format_message()}")
    except UserError as error:
        sys.stderr.write(f"batchscale: {error}\n")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        warn(f"{where}the operating system reports an error ({error.strerror})")
    except ValueError as error:
        if not _is_of_jax_settings(error):
            raise
        warn(f"JAX does not start: {error}, expected one that JAX knows, or none")
    except KeyboardInterrupt:
        sys.stderr.write("\nbatchscale: stopped\n")
        return measuring.INTERRUPTED
    return 2


def _is_of_jax_settings(error: ValueError) -> bool:
    """Return True if JAX refused a variable of the environment while it was imported."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "").startswith("jax._src.config")


def _open_closed_streams() -> None:
    """Discard what is printed to a stream that was closed before this process began."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - as open as a stream


def _never_fail_to_print() -> None:
    """Escape characters that the terminal's encoding lacks, where printing them would end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="backslashreplace")


def _draw_without_the_users_settings() -> None:
    """Let matplotlib read no settings of the user; the backend of a notebook, for example, may be missing here."""
    os.environ.update(MPLBACKEND="agg", MATPLOTLIBRC=os.devnull)


def _show_only_errors_of_xla() -> None:
    """Keep XLA's warnings about the kernels that it tries out of the line of progress, unless the user set a level.

    JAX sets one when it is imported, so this comes before.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _call(typed: list[str]) -> int:
    for before, one in pairwise(["", *typed]):
        # The empty path would be the current folder, which nobody asked for.
        if one == "" or (one.startswith("--") and one.endswith("=")):
            option = next((part for part in (one, before) if part.startswith("-")), "an argument")
            raise click.UsageError(f"{option.removesuffix('=')}: empty, expected a value")
    try:
        with APP.make_context("batchscale", [*typed], obj=typed) as context:
            return APP.invoke(context) or 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
