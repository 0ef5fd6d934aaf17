"""Arguments and options that several commands share, and the types whose refusals state what is expected."""

from __future__ import annotations

import math
import re
from pathlib import Path

import click

from batchscale.printable import printable
from batchscale.records.results_folder import MOST_PER_HOUR


class Number(click.ParamType):
    """A number above 0 and at most `most`; NaN is refused, which `click.FloatRange` lets pass.

    Args:
        description: the kind of number, for the refusal, such as "a width in inches".
        most: the largest value that is accepted.
        unit: a sign that may follow the number, such as "%".
        signed: whether it may be 0 or negative too.
    """

    name = "number"

    def __init__(self, description: str, most: float, unit: str = "", *, signed: bool = False) -> None:
        self.description, self.most, self.unit, self.signed = description, most, unit, signed

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or refuse it in one line with the range that is accepted."""
        try:
            number = float(value.removesuffix(self.unit))
        except ValueError:
            number = math.nan
        if not (-self.most if self.signed else 0) <= number <= self.most or (number == 0 and not self.signed):
            least = f"from {-self.most:,.0f}" if self.signed else f"above 0{self.unit}"
            accepted = f"expected a number {least} and at most {self.most:,.0f}{self.unit}"
            self.fail(f"{printable(value)} is not {self.description}, {accepted}", param, ctx)
        return number


class Whole(click.ParamType):
    """A whole number from `least` to `most`."""

    name = "whole number"

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or refuse it in one line with the range that is accepted."""
        found = int(value) if re.fullmatch(r"-?[0-9]{1,18}", str(value)) else None
        if found is None or not self.least <= found <= self.most:
            expected = f"expected a whole number from {self.least:,} to {self.most:,}"
            self.fail(f"{printable(value)} is not allowed, {expected}", param, ctx)
        return found


EXIT_CODES = """\b
exit codes:
  0    done
  1    a check that was asked for fails: compare --fail-if-slower, submit
  2    the input cannot be used, or the device keeps failing; one line on standard error names why
  130  stopped by Ctrl-C or SIGTERM; what was measured is kept"""


class Duration(click.ParamType):
    """A time with its unit, such as 90s, 10m or 1.5h, in seconds."""

    name = "duration"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or refuse the text in one line with the units that are accepted."""
        found = _DURATION.fullmatch(value)
        seconds = float(found["count"]) * UNITS[found["unit"]] if found else 0.0
        if not 0 < seconds <= LONGEST_SECONDS:
            self.fail(f"{printable(value)} is not a time, expected such as 90s, 10m or 1.5h, at most 1000h", param, ctx)
        return seconds


UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
LONGEST_SECONDS = 3.6e6
_DURATION = re.compile(r"(?P<count>[0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})(?P<unit>s|m|min|h)")


def example(line: str) -> str:
    """Return the end of a command's help, which is never wrapped: an example and the exit codes."""
    return f"\b\nexample:\n  {line}\n\n{EXIT_CODES}"


PATH = click.Path(path_type=Path)
FOLDER = click.argument("folder", type=PATH, metavar="DIR")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, described by `batchscale schema`.")
PRICE = click.option(
    "--price-per-hour",
    type=Number("a price such as 2.5", MOST_PER_HOUR),
    metavar="PRICE",
    help="Price of this machine, in any currency; kept with the results.",
)
WITHIN = click.option(
    "--within",
    type=Duration(),
    metavar="TIME",
    help="Also name the batch size with the best score in this time of training, such as 10m.",
)
