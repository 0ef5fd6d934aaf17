"""The commands that bring in measurements made elsewhere: analyze, predict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

import click

from batchscale.cli.reading import answer, print_json, show
from batchscale.cli.shared_options import AS_JSON, FOLDER, PATH, PRICE, WITHIN, Number, Whole, example
from batchscale.config.experiment import LARGEST_BATCH_SIZE
from batchscale.config.vocabulary import LARGEST_EXAMPLES, OUTSIDE_FORMS, OutsideForm
from batchscale.printable import printable, visible

if TYPE_CHECKING:
    from batchscale.analysis.exchange.analyze import Known
    from batchscale.analysis.outside.runs import Asked
    from batchscale.config.goal import MetricName


_METRIC = re.compile(r"(?:(?P<column>[^:]{1,80}):)?(?P<metric>accuracy(?P<percent>%?)|loss|bits_per_byte|score|cost)")
_GOAL = re.compile(
    r"\s*(?P<column>[^<>=]{1,80}?)\s*(?P<sign><=|>=)\s*(?P<value>-?[0-9.]{1,20}(?:e-?[0-9]{1,2})?)(?P<percent>%?)\s*"
)


COUNT = Whole(1, LARGEST_EXAMPLES)
"""Of examples or of tokens."""
MOST_COLUMNS = 4
"""Columns that group runs: an answer is read along each of them."""
MOST_ROWS = 40
"""Groups that are printed; the page has all."""


class _Said(TypedDict):
    """What the user knows and no file holds: see `analysis.exchange.analyze.Known`, and `form` in `Asked`."""

    train_examples: int | None
    tokens_per_example: int | None
    target: float | None
    evaluated_every: float | None
    workload: str | None
    tolerance: float | None
    form: OutsideForm | None


def _metric(_: click.Context, __: click.Parameter, text: str | None) -> re.Match[str] | None:
    from batchscale.analysis.outside.runs import metric_of

    if text is None:
        return None
    found = _METRIC.fullmatch(text) or _METRIC.fullmatch(f"{text}:{metric_of(text)}")
    if not found:
        metrics = "accuracy, accuracy%, loss, bits_per_byte, score or cost, or NAME:score"
        raise click.BadParameter(f"{printable(text)}, expected {metrics}")
    return found


def _goal(_: click.Context, __: click.Parameter, text: str | None) -> re.Match[str] | None:
    found = _GOAL.fullmatch(text) if text is not None else None
    if text is not None and not found:
        raise click.BadParameter(f"{printable(text)}, expected such as 'val_loss<=3.28' or 'acc>=97%'")
    return found


def _share(_: click.Context, __: click.Parameter, percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _columns(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))
    if text is not None and not 0 < len(found) <= MOST_COLUMNS:
        raise click.BadParameter(f"{printable(text)}, expected 1 to {MOST_COLUMNS} names of columns, such as N,D")
    return found


@click.command(epilog=example("batchscale analyze --convergence runs.csv --goal 'val_loss<=3.28' --out analysis"))
@click.option(
    "--convergence",
    type=PATH,
    required=True,
    multiple=True,
    metavar="FILE|DIR",
    help="Training runs: a CSV of needs, curves or final scores; trainer_state.json; metrics.csv of Lightning;"
    " CSV or Parquet of W&B; event files of TensorBoard; MLPerf points and logs. May be given again.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(OUTSIDE_FORMS),
    help="Form of these files; by default their content shows it. scores: curves or final scores as CSV or Parquet.",
)
@click.option(
    "--throughput", type=PATH, metavar="CSV", help="Columns batch_size, and a speed such as seconds_per_step."
)
@click.option("--out", type=PATH, required=True, metavar="DIR", help="A new folder for the answer.")
@click.option("--train-examples", type=COUNT, metavar="N", help="Number of training examples, to convert units.")
@click.option("--tokens-per-example", type=COUNT, metavar="N", help="To convert tokens; 1 if batch sizes count tokens.")
@click.option(
    "--batch-size", type=Whole(1, LARGEST_BATCH_SIZE), metavar="N", help="Of runs whose files do not name it."
)
@click.option(
    "--target", type=Number("a score such as 0.99", 1e12, signed=True), metavar="SCORE", help="The score to reach."
)
@click.option(
    "--metric",
    callback=_metric,
    metavar="[NAME:]METRIC",
    help="accuracy (a share), accuracy% (in percent), loss, bits_per_byte; of any sign and scale: score (rises), cost.",
)
@click.option("--goal", callback=_goal, metavar="GOAL", help="Both at once, such as 'val_loss<=3.28' or 'acc>=97%'.")
@click.option(
    "--evaluated-every",
    type=float,
    metavar="X",
    help="Distance of two evaluations, in the unit of the table; by default read from its numbers.",
)
@click.option("--workload", metavar="NAME", help="Name of what was trained; needed to compare folders later.")
@click.option(
    "--by",
    callback=_columns,
    metavar="COLUMNS",
    help="Columns that group runs, such as N,D: an answer for each group, and how the optimum moves.",
)
@click.option(
    "--tolerance",
    type=Number("a share such as 0.25%", 100, "%"),
    callback=_share,
    metavar="PERCENT",
    help="Also name the batch sizes whose score differs from the best by at most this share of it.",
)
@PRICE
@WITHIN
@AS_JSON
def analyze(
    *,
    convergence: tuple[Path, ...],
    throughput: Path | None,
    out: Path,
    batch_size: int | None,
    metric: re.Match[str] | None,
    goal: re.Match[str] | None,
    by: tuple[str, ...],
    price_per_hour: float | None,
    within: float | None,
    as_json: bool,
    **said: Unpack[_Said],
) -> None:
    """Answer for runs made elsewhere, from files of other tools.

    Each machine in the tables gets a results folder.
    """
    from batchscale.analysis.exchange import analyze
    from batchscale.analysis.pages import report

    if goal and (metric or said["target"] is not None):
        raise click.UsageError("--goal: with --target or --metric, expected only one of the two forms")
    if by and (throughput or within or price_per_hour):
        raise click.UsageError("--by: compares groups of runs, expected no --throughput, --within or --price-per-hour")
    scores, wanted = _asked(metric, goal, batch_size)
    scores = replace(scores, by=by, form=said["form"])
    facts = {name: value for name, value in said.items() if name != "form"}
    known = analyze.Known(**{**facts, "target": wanted if goal else said["target"]}, scores=scores)
    if by:
        return _answer_groups(convergence, out, known, as_json=as_json)
    made = analyze.write_folders(convergence, throughput, out, known, price_per_hour)
    if len(made) == 1:
        return answer([*made.values()], as_json=as_json, within=within)
    summaries = {name: report.write_report(folder, within) for name, folder in made.items()}
    together = analyze.write_together(out, summaries)
    if as_json:
        return print_json(together)
    for name, folder in made.items():
        show(folder, summaries[name])


def _answer_groups(files: Sequence[Path], out: Path, known: Known, *, as_json: bool) -> None:
    """Write one answer for each group of runs, and print how the optima move."""
    from batchscale.analysis.exchange import groups, out_folder
    from batchscale.analysis.pages import groups as page
    from batchscale.analysis.pages import terminal

    out_folder.refuse_foreign(out, files)
    found = groups.answer_groups(files, known)
    out_folder.remove_earlier(out)
    path = page.write_groups(found, out)
    if as_json:
        return print_json(found)
    whole = page.table(found)
    shown = replace(whole, caption="", rows=whole.rows[:MOST_ROWS])
    terminal.console_for().print(terminal.table(shown, [at for at, one in enumerate(whole.columns) if not one.prose]))
    if len(whole.rows) > MOST_ROWS:
        print(f"The page has all {len(whole.rows)} groups.")
    print(*map(visible, page.sentences(found)), visible(f"page: {path}"), sep="\n")


def _asked(
    metric: re.Match[str] | None, goal: re.Match[str] | None, batch_size: int | None
) -> tuple[Asked, float | None]:
    """Return what the options say about scores, and the target that a goal names."""
    from batchscale.analysis.outside.runs import Asked, metric_of
    from batchscale.config.goal import METRICS

    if goal is None:
        column, named = (metric["column"], metric["metric"].removesuffix("%")) if metric else (None, None)
        percent = metric is not None and metric["percent"] == "%"
        return Asked(cast("MetricName | None", named), column, percent=percent, batch_size=batch_size), None
    named = metric_of(goal["column"])
    if named and (METRICS[named].direction == "at most") != (goal["sign"] == "<="):
        raise click.UsageError(
            f"--goal: {printable(goal[0])}: {named} is better the other way, expected the other sign"
        )
    try:
        value = float(goal["value"])
    except ValueError:
        raise click.UsageError(f"--goal: {printable(goal['value'])}, expected a number") from None
    return _of_goal(goal, named, value, batch_size)


def _of_goal(
    goal: re.Match[str], named: MetricName | None, value: float, batch_size: int | None
) -> tuple[Asked, float]:
    """Return what a goal says, by the metric that the name of its score means, if it means one."""
    from batchscale.analysis.outside.runs import Asked

    asked = Asked(column=goal["column"], batch_size=batch_size)
    percent = goal["percent"] == "%" or (named == "accuracy" and value > 1)
    value = value / 100 if percent else value
    if goal["sign"] == "<=":
        return replace(asked, metric="cost" if value <= 0 else named or "loss", percent=percent), value
    if percent or named == "accuracy":
        if not 0 < value < 1:
            expected = "expected a share between 0 and 1, or a percentage such as 97%, of a score that rises"
            raise click.UsageError(f"--goal: {printable(goal[0])}: {expected}")
        return replace(asked, metric="accuracy", percent=percent), value
    return replace(asked, metric="score", may_be_share=named is None and 0 < value < 1), value


@click.command(epilog=example("batchscale predict DIR --seconds-per-step t.csv"))
@FOLDER
@click.option(
    "--seconds-per-step",
    type=PATH,
    required=True,
    metavar="CSV|DIR",
    help="A table or a results folder with the speeds to join.",
)
@WITHIN
@AS_JSON
def predict(*, folder: Path, seconds_per_step: Path, within: float | None, as_json: bool) -> None:
    """Predict the best batch size where nothing was trained."""
    from batchscale.analysis.exchange.predict import predict as join
    from batchscale.analysis.pages import terminal

    found = join(folder, seconds_per_step, within)
    if as_json:
        return print_json(found)
    for summary in found.values():
        terminal.render(summary)
