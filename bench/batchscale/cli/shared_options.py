"""Arguments and options that several commands share, and the types whose refusals state what is expected."""

from __future__ import annotations

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
    """

    name = "number"

    def __init__(self, description: str, most: float, unit: str = "") -> None:
        self.description, self.most, self.unit = description, most, unit

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or refuse it in one line with the range that is accepted."""
        try:
            number = float(value.removesuffix(self.unit))
        except ValueError:
            number = 0.0
        if not 0 < number <= self.most:
            accepted = f"expected a number above 0{self.unit} and at most {self.most:,.0f}{self.unit}"
            self.fail(f"{printable(value)} is not {self.description}, {accepted}", param, ctx)
        return number


EXIT_CODES = """\b
exit codes:
  0    done
  1    a check that was asked for fails: compare --fail-if-slower, submit
  2    the input cannot be used, or the device keeps failing; one line on standard error names why
  130  stopped by Ctrl-C or SIGTERM; what was measured is kept"""


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
