"""The commands that read one results folder: report, figures, export. They never import JAX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from batchscale.cli.shared_options import AS_JSON, FOLDER, PATH, PRICE, WITHIN, Number, Whole, example
from batchscale.errors import warn
from batchscale.printable import printable, visible
from batchscale.records import results_folder, row_files

SCHEMA = Path(__file__).with_name("json_output.schema.json")

if TYPE_CHECKING:
    from batchscale.analysis.summary_types import Summary

EXPORTS = ("pytest-benchmark",)


def answer(
    measured: Sequence[Path],
    *,
    as_json: bool,
    price_per_hour: float | None = None,
    longer: str | None = None,
    within: float | None = None,
) -> None:
    """Write the page of every folder, then print its answer and the place of its page.

    Args:
        measured: results folders.
        as_json: print the summary, or the list of summaries, instead of sentences and a table.
        price_per_hour: a price to keep in every folder first.
        longer: the command that measures for longer; the output then says how undecided the answer is.
        within: a time in seconds, for which the batch size with the best score is wanted too.
    """
    from batchscale.analysis.pages import report
    from batchscale.analysis.text import explain

    if price_per_hour is not None:
        for folder in measured:
            results_folder.set_price(folder, price_per_hour)
    summaries = [report.write_report(folder, within) for folder in measured]
    for path in (one / name for one in measured for name in (results_folder.THROUGHPUT, results_folder.CONVERGENCE)):
        if row_files.is_torn(path):
            warn(f"warning: {path}: its last line is torn and was left out; `batchscale run` measures that row again")
    decided, doubts = all(map(explain.decided, summaries)), [*map(explain.how_undecided, summaries)]
    if as_json and longer is not None:
        from batchscale.cli.json_output import Quick

        following = None if decided else longer
        return print_json(Quick(decided=decided, undecided=doubts, next_command=following, summaries=summaries))
    if as_json:
        return print_json(summaries[0] if len(summaries) == 1 else summaries)
    for folder, summary in zip(measured, summaries, strict=True):
        show(folder, summary)
    if longer is not None:
        lines = [*doubts, *([] if decided else [f"To decide it: {longer}"])]
        print(*map(visible, lines), sep="\n")


def show(folder: Path, summary: Summary) -> None:
    """Print the answer of a results folder and the place of its page."""
    from batchscale.analysis.pages import report, terminal

    terminal.render(summary)
    print(visible(f"page: {folder / report.NAME}"), end="\n\n")


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    print(msgspec.json.encode(value).decode())


def print_written(paths: Sequence[Path], *, as_json: bool) -> None:
    """Print the paths of what was written, one a line."""
    from batchscale.cli.json_parts import Written

    if as_json:
        return print_json(Written(written=[str(path) for path in paths]))
    for path in paths:
        print(visible(str(path)))


def _names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise click.BadParameter(f"{printable(text)} holds no name, expected names separated by commas")
    return found


@click.command(epilog=example("batchscale report results/local/lenet_mnist/MACHINE"))
@FOLDER
@PRICE
@WITHIN
@AS_JSON
def report(*, folder: Path, price_per_hour: float | None, within: float | None, as_json: bool) -> None:
    """Write the page, figures and summary of a results folder again."""
    answer([folder], as_json=as_json, price_per_hour=price_per_hour, within=within)


@click.command(epilog=example("batchscale explain results/local/lenet_mnist/MACHINE --batch-size 256"))
@FOLDER
@click.option("--batch-size", type=Whole(1, 10**12), metavar="B", show_default="the fastest", help="Which one.")
@AS_JSON
def explain(*, folder: Path, batch_size: int | None, as_json: bool) -> None:
    """Explain in at most ten lines why the answer is what it is."""
    from batchscale.analysis.frames import frames
    from batchscale.analysis.metrics.sweep import Sweep
    from batchscale.analysis.summary.build import summarize
    from batchscale.analysis.text.explain import explain as lines_of

    found = lines_of(summarize(Sweep.of(frames.load(folder))), batch_size)
    if as_json:
        return print_json(found)
    for line in found.lines:
        print(visible(line))


@click.command(epilog=example("batchscale schema > schema.json"))
@click.option("--experiment", is_flag=True, help="Print that of an experiment's TOML file: its keys and defaults.")
@click.option("--json", is_flag=True, expose_value=False, help="Print JSON, as is done without it too.")
def schema(*, experiment: bool) -> None:
    """Print the JSON Schema of what commands print with --json.

    `#/$defs/COMMAND` describes one command.
    """
    text = SCHEMA.read_text()
    if experiment:
        from batchscale.cli.json_output import encoded, experiment_schema

        text = encoded(experiment_schema()).decode()
    print(text, end="")


@click.command(epilog=example("batchscale figures DIR --only time_to_target --format pdf --width 3.3"))
@FOLDER
@click.option("--only", type=_names, metavar="NAMES", show_default="all", help="Figures, separated by commas.")
@click.option(
    "--format",
    "formats",
    type=_names,
    default="png,svg",
    show_default=True,
    metavar="FORMATS",
    help="One or more of png,svg,pdf.",
)
@click.option(
    "--width",
    type=Number("a width in inches", 20),
    metavar="INCHES",
    help="Such as 3.3 for one column, 6.9 for two.",
)
@click.option("--style", type=PATH, metavar="FILE", help="A matplotlib style file.")
@click.option("--out", type=PATH, metavar="DIR", show_default="DIR/figures", help="Folder to write to.")
@AS_JSON
def figures(
    *,
    folder: Path,
    only: list[str] | None,
    formats: list[str],
    width: float | None,
    style: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Draw only the figures that a paper needs."""
    from batchscale.analysis.figures import write_figures
    from batchscale.analysis.frames import frames
    from batchscale.analysis.metrics.sweep import Sweep
    from batchscale.analysis.summary.build import summarize

    sweep = Sweep.of(frames.load(folder))
    drawn = write_figures(sweep, summarize(sweep), out or folder / "figures", only, formats, width, style)
    print_written(drawn, as_json=as_json)


@click.command(
    epilog=example(
        "batchscale export DIR --format pytest-benchmark && pytest-benchmark compare DIR/pytest-benchmark.json"
    )
)
@FOLDER
@click.option("--format", "form", type=click.Choice(EXPORTS), default=EXPORTS[0], show_default=True)
@click.option("--out", type=PATH, metavar="FILE", show_default="DIR/FORMAT.json", help="File to write.")
@AS_JSON
def export(*, folder: Path, form: str, out: Path | None, as_json: bool) -> None:
    """Write the timed rounds of a results folder for another tool."""
    from batchscale.analysis.exchange.export import export as write

    print_written([write(folder, form, out)], as_json=as_json)
