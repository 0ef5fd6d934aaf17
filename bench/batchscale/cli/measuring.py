"""The verbs that use the device: run, list, doctor."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from batchscale.cli.arguments import Verbs, add_json, add_price, add_results, add_verb, minutes
from batchscale.cli.output import tell, warn
from batchscale.cli.reading import answer
from batchscale.config import experiment
from batchscale.config.vocabulary import STAGES
from batchscale.errors import InputError
from batchscale.records import results_folder

INTERRUPTED = 130


def add(verbs: Verbs) -> None:
    """Add them to the command line."""
    run = add_verb(
        verbs,
        run_experiments,
        "run",
        "measure what is missing of experiments, then report",
        "batchscale run lenet_mnist mlp_mnist --budget 30",
    )
    run.add_argument(
        "experiments",
        nargs="*",
        metavar="EXPERIMENT",
        help="shipped names or .toml files (default: this device's suite)",
    )
    add_results(run, results_folder.LOCAL)
    run.add_argument("--budget", type=minutes, metavar="MINUTES", help="scale seeds, rates and epochs to these minutes")
    run.add_argument("--stages", default=[*STAGES], type=_stages, metavar="LIST", help=f"of {','.join(STAGES)} (both)")
    run.add_argument(
        "--convergence-from",
        type=Path,
        metavar="DIR",
        help="join convergence measured elsewhere, as it was scaled there, instead of training",
    )
    add_price(run)
    run.add_argument("--retry-failed", action="store_true", help="try again what failed or ran out of memory before")
    add_json(run)
    add_json(add_verb(verbs, list_names, "list", "experiments, models, datasets and optimizers", "batchscale list"))
    _add_verify(verbs)
    doctor = add_verb(
        verbs, diagnose, "doctor", "device, versions, timer, memory, and which data sources answer", "batchscale doctor"
    )
    add_results(doctor, results_folder.LOCAL)
    add_json(doctor)


def _add_verify(verbs: Verbs) -> None:
    verify = add_verb(
        verbs,
        verify_folder,
        "verify",
        "train the recommended batch size and two others, alone, and set measured beside predicted times",
        "batchscale verify results/local/lenet_mnist/MACHINE",
    )
    verify.add_argument("folder", type=Path, metavar="DIR")
    add_json(verify)


def _stages(text: str) -> list[str]:
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in STAGES:
            raise argparse.ArgumentTypeError(f"{name!a} is not one of {', '.join(STAGES)}")
    return named


def _share_device() -> None:
    """Rows name what is set, so every verb that measures sets it."""
    from batchscale.measure.throughput import child_process

    for name, value in child_process.VARIABLES.items():
        os.environ.setdefault(name, value)


def run_experiments(options: argparse.Namespace) -> int:
    """Measure, then write and print the answer of each results folder."""
    from batchscale.measure.control import signals
    from batchscale.measure.data import datasets
    from batchscale.measure.device.host import Host
    from batchscale.measure.run import suite

    _share_device()
    if fault := datasets.folder_fault():
        warn(f"warning: {fault}")
    request = suite.Request(
        names=options.experiments,
        results=options.results,
        minutes=options.budget,
        stages=options.stages,
        convergence_from=options.convergence_from,
        retries_failed=options.retry_failed,
    )
    try:
        with signals.Stopper() as stopper:
            measured = suite.measure(request, Host.describe(), stopper)
            request.progress.say(f"writing {len(measured)} {'page' if len(measured) == 1 else 'pages'}")
            return answer(measured, as_json=options.json, price_per_hour=options.price_per_hour)
    except (signals.Stopped, KeyboardInterrupt):
        again = shlex.join([*_program(), "run", *options.experiments, *_repeated(options)])
        sys.stderr.write("\n")
        warn(f"stopped; everything measured is in {options.results}. To continue: {again}")
        return INTERRUPTED


def _program() -> list[str]:
    """What to type for this program here: its name where the shell finds it, else this Python."""
    if shutil.which("batchscale"):
        return ["batchscale"]
    python = Path(sys.executable)
    here = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return [str(here), "-m", "batchscale"]


def _repeated(options: argparse.Namespace) -> Sequence[str]:
    """The options of a run, as they would be typed again."""
    budget = [] if options.budget is None else ["--budget", f"{options.budget:g}"]
    results = [] if options.results == results_folder.LOCAL else ["--results", str(options.results)]
    stages = [] if set(options.stages) == set(STAGES) else ["--stages", ",".join(options.stages)]
    joined = [] if options.convergence_from is None else ["--convergence-from", str(options.convergence_from)]
    price = [] if options.price_per_hour is None else ["--price-per-hour", str(options.price_per_hour)]
    again = ["--retry-failed"] if options.retry_failed else []
    return [*budget, *results, *stages, *joined, *price, *again]


def list_names(options: argparse.Namespace) -> int:
    """What can be named in an experiment."""
    from batchscale.measure.data.datasets import DATASETS
    from batchscale.measure.training.learner import model_names
    from batchscale.measure.training.optimizers import OPTIMIZERS

    titles = {name: experiment.find(name).title for name in experiment.shipped()}
    kinds = {"models": model_names(), "datasets": [*DATASETS], "optimizers": [*OPTIMIZERS]}
    if options.json:
        tell(json.dumps({"experiments": titles, **kinds}))
        return 0
    tell("experiments", *(f"  {name:24}{title}" for name, title in titles.items()))
    for kind, names in kinds.items():
        tell(kind, f"  {', '.join(names)}")
    return 0


def diagnose(options: argparse.Namespace) -> int:
    """One line for each finding."""
    from batchscale.measure.run import doctor

    found = doctor.diagnose(options.results)
    if options.json:
        tell(json.dumps([one._asdict() for one in found]))
        return 0
    for one in found:
        tell(f"{'ok' if one.ok else '--':4}{one.item:34}  {one.value}")
    return 0


def verify_folder(options: argparse.Namespace) -> int:
    """Measure, report again, and print one line for each run."""
    from batchscale.analysis.frames.frames import load
    from batchscale.analysis.summary.build import summarize
    from batchscale.measure.run.verify import Reported, verify

    _share_device()
    measured = load(options.folder)
    if measured.imported:
        raise InputError(f"{options.folder}: it is made of tables, so there is nothing here to train")
    found = summarize(measured)
    if found.time_optimal is None:
        raise InputError(f"{options.folder}: no batch size reached the target, so there is no time to verify")
    reported = {
        cell.batch_size: Reported(cell.best_learning_rate, cell.best_options, cell.loop, cell.seconds_per_step)
        for cell in found.cells
        if cell.claims_on == "confirm" and cell.best_learning_rate
        if cell.accumulation == 1 and cell.loop and cell.seconds_per_step
    }
    rows = verify(options.folder, found.time_optimal.batch_size, reported)
    for row in rows if not options.json else ():
        tell(
            f"B = {row.batch_size}: {row.steps} steps in {row.seconds:.3g} s;"
            f" predicted were {row.predicted_steps} in {row.predicted_seconds:.3g} s"
        )
    return answer([options.folder], as_json=options.json)
