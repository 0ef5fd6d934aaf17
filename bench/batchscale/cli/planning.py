"""The command for hardware that one does not have: plan."""

from __future__ import annotations

from pathlib import Path

import click

from batchscale.cli.held_errors import held_back
from batchscale.cli.reading import print_json
from batchscale.cli.shared_options import AS_JSON, PATH, example
from batchscale.printable import visible
from batchscale.records import row_files


@click.command(epilog=example("batchscale plan lenet_mnist --on h100 --on tpu-v6e --needs DIR"))
@click.argument("experiment", metavar="EXPERIMENT")
@click.option(
    "--on", "targets", multiple=True, required=True, metavar="DEVICE", help="A device; may be given several times."
)
@click.option("--needs", type=PATH, metavar="DIR", help="A results folder with the steps to the goal.")
@click.option("--out", type=PATH, default="plan", show_default=True, metavar="DIR", help="Folder for the page.")
@AS_JSON
def plan(*, experiment: str, targets: tuple[str, ...], needs: Path | None, out: Path, as_json: bool) -> None:
    """Compile for devices you do not have: what fits, and bounds.

    No number is a measurement: a bound is the least time that a step can take, and an estimate is named so.
    """
    with held_back():
        from batchscale.analysis.exchange.least_times import needs_of, with_steps
        from batchscale.analysis.pages import planned, terminal
        from batchscale.config import experiment as experiments
        from batchscale.measure.ahead import planning
        from batchscale.measure.control.progress import Progress

    # Before minutes of compiling, which steps of another workload, or a page without a place, would make useless.
    row_files.refuse_unwritable(out)
    steps = needs and needs_of(needs, experiments.find(experiment).workload)
    progress = Progress()
    found = planning.plan(experiment, list(dict.fromkeys(targets)), progress)
    progress.end()
    if steps is not None:
        found = with_steps(found, steps)
    page = planned.write_plan(found, out)
    if as_json:
        return print_json(found)
    console = terminal.console_for()
    console.print(terminal.table(planned.table(found)))
    for sentence in planned.sentences(found):
        console.print(terminal.plain(sentence))
    print(visible(f"page: {page}"))
