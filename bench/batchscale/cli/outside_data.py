"""The commands that bring in measurements made elsewhere: analyze, predict."""

from __future__ import annotations

from pathlib import Path

import click

from batchscale.cli.reading import answer, print_json, show
from batchscale.cli.shared_options import AS_JSON, FOLDER, PATH, PRICE, Number, example


@click.command(
    epilog=example("batchscale analyze --convergence c.csv --throughput t.csv --train-examples 55000 --out analysis")
)
@click.option(
    "--convergence", type=PATH, required=True, metavar="CSV", help="Columns batch_size, seed, epochs_to_target."
)
@click.option("--throughput", type=PATH, required=True, metavar="CSV", help="Columns batch_size, examples_per_second.")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="A new folder for the answer.")
@click.option("--train-examples", type=int, metavar="N", help="Number of training examples, to convert units.")
@click.option(
    "--target", type=Number("an accuracy such as 0.99", 1), metavar="ACCURACY", help="The target, for the page."
)
@click.option(
    "--evaluated-every",
    type=float,
    metavar="X",
    help="Distance of two evaluations, in the unit of the table; by default read from its numbers.",
)
@click.option("--workload", metavar="NAME", help="Name of what was trained; needed to compare folders later.")
@PRICE
@AS_JSON
def analyze(
    *,
    convergence: Path,
    throughput: Path,
    out: Path,
    train_examples: int | None,
    target: float | None,
    evaluated_every: float | None,
    workload: str | None,
    price_per_hour: float | None,
    as_json: bool,
) -> None:
    """Answer for runs made elsewhere, from two CSV tables.

    Each machine in the tables gets a results folder.
    """
    from batchscale.analysis.exchange import analyze
    from batchscale.analysis.pages import report

    known = analyze.Known(
        train_examples=train_examples, target=target, evaluated_every=evaluated_every, workload=workload
    )
    made = analyze.write_folders(convergence, throughput, out, known, price_per_hour)
    if len(made) == 1:
        return answer([*made.values()], as_json=as_json)
    summaries = {name: report.write_report(folder) for name, folder in made.items()}
    together = analyze.write_together(out, summaries)
    if as_json:
        return print_json(together)
    for name, folder in made.items():
        show(folder, summaries[name])


@click.command(epilog=example("batchscale predict DIR --seconds-per-step t.csv"))
@FOLDER
@click.option(
    "--seconds-per-step",
    type=PATH,
    required=True,
    metavar="CSV|DIR",
    help="A table or a results folder with the speeds to join.",
)
@AS_JSON
def predict(*, folder: Path, seconds_per_step: Path, as_json: bool) -> None:
    """Predict the best batch size where nothing was trained."""
    from batchscale.analysis.exchange.predict import predict as join
    from batchscale.analysis.pages import terminal

    found = join(folder, seconds_per_step)
    if as_json:
        return print_json(found)
    for summary in found.values():
        terminal.render(summary)
