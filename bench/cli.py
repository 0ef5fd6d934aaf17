"""`batchscale`: parse, call, print. Every subcommand is one function; heavy imports wait until they are needed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench import __version__, folders
from bench.errors import InputError

INTERRUPTED = 130
Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits 2 with one line on bad input, 130 when stopped by the user."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    options = parser().parse_args(arguments)
    try:
        return options.command(options)
    except InputError as error:
        sys.stderr.write(f"batchscale: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nbatchscale: stopped; what was measured is kept\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="batchscale",
        description="Which batch size should I train with, on this hardware? Measure it.",
        epilog=(
            "examples:\n"
            "  batchscale run                          measure this machine's default suite and answer\n"
            "  batchscale run lenet_mnist --budget 60  one experiment, scaled to an hour\n"
            "  batchscale report results/local/lenet_mnist/MACHINE\n"
            "  batchscale compare FOLDER FOLDER        two machines side by side"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"batchscale {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_run, _add_report, _add_list, _add_doctor):
        add(commands)
    return top


def _command(
    commands: argparse._SubParsersAction, name: str, call: Command, says: str, example: str
) -> argparse.ArgumentParser:
    made = commands.add_parser(
        name,
        help=says,
        description=says[0].upper() + says[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(command=call)
    return made


def _add_run(commands: argparse._SubParsersAction) -> None:
    made = _command(
        commands,
        "run",
        run_experiments,
        "measure what is missing of experiments, then report",
        "batchscale run lenet_mnist mlp_mnist --budget 30",
    )
    made.add_argument(
        "experiments",
        nargs="*",
        metavar="EXPERIMENT",
        help="shipped names or .toml files (default: this device's suite)",
    )
    made.add_argument(
        "--results", type=Path, default=folders.LOCAL, metavar="DIR", help="where results go (%(default)s)"
    )
    made.add_argument(
        "--budget", type=_minutes, metavar="MINUTES", help="scale seeds, rates and epochs to these minutes"
    )
    made.add_argument(
        "--stages", default="throughput,convergence", type=_stages, metavar="LIST", help="which stages (%(default)s)"
    )
    made.add_argument(
        "--convergence-from", type=Path, metavar="DIR", help="join convergence measured elsewhere instead of training"
    )
    made.add_argument("--json", action="store_true", help="print the summaries as JSON")


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!a} is not a number of minutes above 0")
    return value


def _stages(text: str) -> list[str]:
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in ("throughput", "convergence"):
            raise argparse.ArgumentTypeError(f"{name!a} is not one of throughput, convergence")
    return named


def run_experiments(options: argparse.Namespace) -> int:
    """Measure, then write and print the answer of each results folder."""
    from bench import experiment
    from bench.measure import interrupts, suite
    from bench.measure.host import Host

    if options.convergence_from is not None:
        experiment.read(options.convergence_from / "experiment.toml")
        options.stages = ["throughput"]
    request = suite.Request(
        names=options.experiments, results=options.results, minutes=options.budget, stages=options.stages
    )
    try:
        with interrupts.Stopper() as stopper:
            measured = suite.measure(request, Host.describe(), stopper)
    except (interrupts.Stopped, KeyboardInterrupt):
        again = " ".join(["batchscale run", *options.experiments, *_repeated(options)])
        sys.stderr.write(f"\nbatchscale: stopped; everything measured is in {options.results}. To continue: {again}\n")
        return INTERRUPTED
    if options.convergence_from is not None:
        for folder in measured:
            folders.join_convergence(folder, options.convergence_from)
    return _answer(measured, as_json=options.json)


def _repeated(options: argparse.Namespace) -> list[str]:
    """The options of a run, as they would be typed again."""
    budget = [] if options.budget is None else ["--budget", f"{options.budget:g}"]
    results = [] if options.results == folders.LOCAL else ["--results", str(options.results)]
    return [*budget, *results]


def _answer(measured: Sequence[Path], *, as_json: bool) -> int:
    """Write the page of every folder, then print its answer and where the page is."""
    from bench.analysis import report, summary, terminal

    pages = [report.write_report(folder) for folder in measured]
    summaries = [summary.read(folder) for folder in measured]
    if as_json:
        sys.stdout.write(json.dumps([msgspec.to_builtins(one) for one in summaries]) + "\n")
        return 0
    for one, page in zip(summaries, pages, strict=True):
        sys.stdout.write(f"\n{one.title}\n")
        terminal.render(one)
        sys.stdout.write(f"page: {page}\n")
    return 0


def _add_report(commands: argparse._SubParsersAction) -> None:
    made = _command(
        commands,
        "report",
        report_folder,
        "write summary.json, figures and report.html of a results folder again",
        "batchscale report results/local/lenet_mnist/MACHINE",
    )
    made.add_argument("folder", type=Path, metavar="DIR")
    made.add_argument("--json", action="store_true", help="print the summary as JSON")


def report_folder(options: argparse.Namespace) -> int:
    """Analyse one folder again."""
    return _answer([options.folder], as_json=options.json)


def _add_list(commands: argparse._SubParsersAction) -> None:
    made = _command(
        commands, "list", list_names, "experiments, models, datasets and optimizers there are", "batchscale list"
    )
    made.add_argument("--json", action="store_true", help="print as JSON")


def list_names(options: argparse.Namespace) -> int:
    """What can be named in an experiment."""
    from bench import experiment
    from bench.measure.datasets import DATASETS
    from bench.measure.learner import model_names
    from bench.measure.optimizers import OPTIMIZERS

    titles = {name: experiment.find(name).title for name in experiment.shipped()}
    if options.json:
        names = {"experiments": titles, "models": model_names(), "datasets": [*DATASETS], "optimizers": [*OPTIMIZERS]}
        sys.stdout.write(json.dumps(names) + "\n")
        return 0
    sys.stdout.write("experiments\n" + "".join(f"  {name:24}{title}\n" for name, title in titles.items()))
    for kind, names in (("models", model_names()), ("datasets", DATASETS), ("optimizers", OPTIMIZERS)):
        sys.stdout.write(f"{kind}\n  {', '.join(names)}\n")
    return 0


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    made = _command(
        commands,
        "doctor",
        diagnose,
        "device, versions, timer, memory, and which data sources answer",
        "batchscale doctor",
    )
    made.add_argument(
        "--results", type=Path, default=folders.LOCAL, metavar="DIR", help="the folder to check (%(default)s)"
    )
    made.add_argument("--json", action="store_true", help="print as JSON")


def diagnose(options: argparse.Namespace) -> int:
    """One line for each finding; exit code 1 when something would keep a run from working."""
    from bench.measure.doctor import diagnose as findings

    found = findings(options.results)
    if options.json:
        sys.stdout.write(json.dumps([one._asdict() for one in found]) + "\n")
        return 0
    for one in found:
        sys.stdout.write(f"{'ok' if one.ok else '--':4}{one.item:36}{one.value}\n")
    return 0
