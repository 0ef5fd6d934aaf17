"""The commands that use the device (run, verify, doctor), and `list`, which names what can be measured."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from batchscale.cli import cluster_options
from batchscale.cli.reading import answer, print_json
from batchscale.cli.shared_options import AS_JSON, FOLDER, PATH, PRICE, Number, example
from batchscale.config import experiment
from batchscale.config.vocabulary import STAGES
from batchscale.errors import InputError, warn
from batchscale.printable import printable, visible
from batchscale.records import results_folder
from batchscale.records.row_types import Verification
from batchscale.records.taken_trials import Source

INTERRUPTED = 130
MUCH_LONGER = 1.5
"""A verified run that takes more than this many times its predicted time needs a reason."""
TRIALS = "batchscale.trials"
"""Where the context of `run` holds the folder that trials are taken from."""
QUICK_MINUTES, LONGER_MINUTES = 5, 60
"""What `--quick` measures for, and what it proposes where its answer is undecided."""
RESULTS = click.option(
    "--results", type=PATH, default=results_folder.LOCAL, show_default=True, metavar="DIR", help="Folder for results."
)


def _stages(text: str) -> list[str]:
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in STAGES:
            raise click.BadParameter(f"{printable(name)} is not a stage, expected {' or '.join(STAGES)}")
    return named


def _keep_source(ctx: click.Context, param: click.Parameter, folder: Path | None) -> None:
    """Keep which folder trials are taken from; two options name one, and only one of them may be given."""
    if folder is not None:
        if TRIALS in ctx.meta:
            raise click.UsageError("--continue-from: with --convergence-from, expected only one of the two")
        ctx.meta[TRIALS] = Source(folder, continues=param.name == "continue_from")


def _share_device() -> None:
    """Let child processes use the device too; every command that measures does this, because rows record it."""
    from batchscale.measure.throughput import cell_process

    for name, value in cell_process.VARIABLES.items():
        os.environ.setdefault(name, value)


@click.command(epilog=example("batchscale run lenet_mnist mlp_mnist --budget 30"))
@click.argument("experiments", nargs=-1, metavar="[EXPERIMENT]...")
@RESULTS
@click.option(
    "--budget",
    type=Number("a number of minutes", 100_000),
    metavar="MINUTES",
    help="Scale seeds, rates and epochs to this time.",
)
@click.option(
    "--stages",
    type=_stages,
    default=",".join(STAGES),
    show_default=True,
    metavar="LIST",
    help="Stages to measure, separated by commas.",
)
@click.option(
    "--convergence-from",
    type=PATH,
    metavar="DIR",
    expose_value=False,
    callback=_keep_source,
    help="Use the training runs of another results folder instead of training, at the scale chosen there.",
)
@click.option(
    "--continue-from",
    type=PATH,
    metavar="DIR",
    expose_value=False,
    callback=_keep_source,
    help="Continue a run that another machine began, at the scale chosen there: keep its training runs.",
)
@cluster_options.added
@PRICE
@click.option("--quick", is_flag=True, help="Answer in about five minutes, and say how undecided that answer is.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed or ran out of memory before.")
@AS_JSON
@click.pass_obj
def run(
    typed: list[str],
    *,
    experiments: tuple[str, ...],
    results: Path,
    budget: float | None,
    stages: list[str],
    price_per_hour: float | None,
    quick: bool,
    retry_failed: bool,
    as_json: bool,
) -> int | None:
    """Measure what is missing of experiments, then report.

    An EXPERIMENT is a shipped name or a .toml file; without one, the default suite of this device is measured.
    With --quick, this is the first experiment of that suite.
    """
    minutes = _minutes(budget, quick=quick)
    cluster = cluster_options.chosen(stages, _scaled_by(budget, quick=quick))  # it sets JAX, so it comes first

    from batchscale.measure.control import signals
    from batchscale.measure.data.files import sources
    from batchscale.measure.run import suite

    _share_device()
    if fault := sources.folder_fault():
        warn(f"warning: {fault}")
    trials = click.get_current_context().meta.get(TRIALS)
    request = suite.Request(experiments, results, minutes, stages, trials, retry_failed, only_first=quick)
    try:
        with cluster_options.measuring(cluster, results) as measure, signals.Stopper() as stopper:
            # A process of --multihost that is not the first has no folder.
            if measured := measure(request, stopper):
                request.progress.say(f"writing {len(measured)} {'page' if len(measured) == 1 else 'pages'}")
                longer = _longer(typed, experiments, measured) if quick else None
                answer(measured, as_json=as_json, price_per_hour=price_per_hour, longer=longer)
    except (signals.Stopped, KeyboardInterrupt):
        sys.stderr.write("\n")
        warn(f"stopped; everything measured is in {results}. To continue: {shlex.join([*_program(), *typed])}")
        return INTERRUPTED


def _minutes(budget: float | None, *, quick: bool) -> float | None:
    """Return the minutes that experiments are scaled to; None without a limit."""
    if quick and budget is not None:
        raise click.UsageError("--quick: with --budget, expected only one of the two")
    return QUICK_MINUTES if quick else budget


def _scaled_by(budget: float | None, *, quick: bool) -> str | None:
    """Return the option that scales experiments by a trial of this machine's speed; None if nothing does."""
    if TRIALS in click.get_current_context().meta:
        return None  # The scale is that of the other folder.
    return "--quick" if quick else None if budget is None else "--budget"


def _longer(typed: list[str], named: tuple[str, ...], measured: list[Path]) -> str:
    """Return the command that measures what a quick run measured, but for longer."""
    longer = ["--budget", str(LONGER_MINUTES)]
    words = [word for one in typed for word in (longer if one == "--quick" else [one])]
    # A quick run without a name measured one experiment of the suite.
    suite = [] if named else [folder.parent.name.removesuffix(f"_{QUICK_MINUTES}min") for folder in measured]
    return shlex.join([*_program(), *words, *suite])


def _program() -> list[str]:
    """Return how this program is started here: by its name where the shell finds it, else by this Python."""
    if shutil.which("batchscale"):
        return ["batchscale"]
    python = Path(sys.executable)
    here = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    modules = os.environ.get("PYTHONPATH")
    return [*(["env", f"PYTHONPATH={modules}"] if modules else []), str(here), "-m", "batchscale"]


def _ratio(row: Verification) -> str:
    """Return how many times as long as predicted a run took, and why if it is short."""
    from batchscale.analysis.pages.report import SHORT_RUN_SECONDS

    if not row.seconds or not row.predicted_seconds:
        return "no time"
    ratio = row.seconds / row.predicted_seconds
    mostly_calls = ratio > MUCH_LONGER and row.predicted_seconds < SHORT_RUN_SECONDS
    why = "; in so short a run, starting a call for each evaluation takes longest" if mostly_calls else ""
    return f"{ratio:.2f} times{why}"


@click.command("list", epilog=example("batchscale list"))
@AS_JSON
def list_names(*, as_json: bool) -> None:
    """List experiments, models, datasets, tasks and optimizers."""
    from batchscale.cli.json_parts import Listed
    from batchscale.measure.data.datasets import dataset_names
    from batchscale.measure.training.learner import model_names, task_names
    from batchscale.measure.training.optimizers import OPTIMIZERS

    titles = {name: experiment.find(name).title for name in experiment.shipped()}
    found = Listed(
        experiments=titles,
        models=model_names(),
        datasets=dataset_names(),
        tasks=task_names(),
        optimizers=[*OPTIMIZERS],
    )
    if as_json:
        return print_json(found)
    kinds = {name: getattr(found, name) for name in ("models", "datasets", "tasks", "optimizers")}
    lines = ["experiments", *(f"  {name:24}{title}" for name, title in titles.items())]
    for kind, names in kinds.items():
        lines += [kind, f"  {', '.join(names)}"]
    print(*map(visible, lines), sep="\n")


@click.command(epilog=example("batchscale doctor"))
@RESULTS
@AS_JSON
def doctor(*, results: Path, as_json: bool) -> None:
    """Check device, versions, timer, memory and data sources."""
    from batchscale.cli.json_parts import Check, Checks
    from batchscale.measure.run.doctor import diagnose

    found = diagnose(results)
    if as_json:
        return print_json(Checks(checks=[Check(**one._asdict()) for one in found]))
    for one in found:
        print(visible(f"{'ok' if one.ok else '--':4}{one.item:34}  {one.value}"))


@click.command(epilog=example("batchscale verify results/local/lenet_mnist/MACHINE"))
@FOLDER
@click.option(
    "--sources",
    type=PATH,
    default=Path(),
    metavar="DIR",
    help="Folder of the experiment's file, if it names files of yours.",
)
@AS_JSON
def verify(*, folder: Path, sources: Path, as_json: bool) -> None:
    """Train single runs alone, to check the predicted times.

    These are the recommended batch size and two others; their measured times become part of the report.
    """
    from batchscale.analysis.frames.frames import load
    from batchscale.analysis.metrics.sweep import Sweep
    from batchscale.analysis.summary.build import summarize
    from batchscale.measure.run.verify import Reported
    from batchscale.measure.run.verify import verify as train_alone

    _share_device()
    measured = load(folder)
    if measured.imported:
        raise InputError(f"{folder}: made from tables, so there is nothing to train, expected a measured folder")
    found = summarize(Sweep.of(measured))
    if found.time_optimal is None:
        raise InputError(f"{folder}: no batch size reached the target, so there is no time to verify")
    reported = {
        cell.batch_size: Reported(cell.best_learning_rate, cell.best_options, cell.loop, cell.seconds_per_step)
        for cell in found.cells
        if cell.claims_on == "confirm" and cell.best_learning_rate
        if cell.accumulation == 1 and cell.loop and cell.seconds_per_step
    }
    rows = train_alone(folder, found.time_optimal.batch_size, reported, sources)
    for row in rows if not as_json else ():
        print(
            f"B = {row.batch_size}: {row.steps} steps in {row.seconds:.3g} s;"
            f" predicted: {row.predicted_steps} steps in {row.predicted_seconds:.3g} s ({_ratio(row)})"
        )
    answer([folder], as_json=as_json)
