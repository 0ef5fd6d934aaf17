"""How a verb is added to the command line, and option types with one clear line for what does not fit."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from batchscale.printable import printable, visible
from batchscale.records.results_folder import MOST_PER_HOUR

Verb = Callable[[argparse.Namespace], int]
Verbs = argparse._SubParsersAction


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # so that -5% is a value, refused with its range

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        self.exit(2, f"{self.prog}: {visible(message)}\n")


def add_verb(verbs: Verbs, call: Verb, name: str, says: str, example: str) -> argparse.ArgumentParser:
    """A subcommand whose help ends with an example."""
    made = verbs.add_parser(
        name,
        help=says,
        description=says[0].upper() + says[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(call=call)
    return made


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, the same for every verb that has it."""
    parser.add_argument("--json", action="store_true", help="print JSON for scripts")


def add_results(parser: argparse.ArgumentParser, default: Path) -> None:
    """`--results`, the same for every verb that has it."""
    parser.add_argument("--results", type=Path, default=default, metavar="DIR", help="where results go (%(default)s)")


def add_price(parser: argparse.ArgumentParser) -> None:
    """`--price-per-hour`, the same for every verb that has it."""
    parser.add_argument(
        "--price-per-hour", type=price, metavar="PRICE", help="of this machine, in any currency; kept with the results"
    )


def minutes(text: str) -> float:
    """A number of minutes above 0."""
    return _number(text, 0, 100_000, "a number of minutes")


def price(text: str) -> float:
    """What an hour costs."""
    return _number(text, 0, MOST_PER_HOUR, "a price such as 2.5")


def inches(text: str) -> float:
    """The width of a figure."""
    return _number(text, 0, 20, "a width in inches")


def accuracy(text: str) -> float:
    """An accuracy between 0 and 1."""
    return _number(text, 0, 1, "an accuracy such as 0.99")


def percent(text: str) -> float:
    """`5%` or `5` as 0.05."""
    return _number(text, 0, 100, "a percentage such as 5%", unit="%") / 100


def names(text: str) -> list[str]:
    """`a,b` as a list."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"{printable(text)} names nothing; names separated by commas are right")
    return found


def _number(text: str, above: float, most: float, right: str, unit: str = "") -> float:
    try:
        value = float(text.removesuffix(unit))
    except ValueError:
        value = above
    if not above < value <= most:
        bounds = f"above {above:,g}{unit} and at most {most:,.0f}{unit}"
        raise argparse.ArgumentTypeError(f"{printable(text)} is not {right}, {bounds}")
    return value
