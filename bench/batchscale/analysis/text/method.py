"""How the numbers of a report came about: what was timed, what was trained, and what the claims rest on."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import pandas as pd

from batchscale.analysis import number_format
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import CELL, batch_sizes, one_before, only, values
from batchscale.analysis.metrics import speeds
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text.provenance import seeds
from batchscale.config.experiment import LearningRate, Option

LONGEST_OPTIONS = 300
"""Characters of a model's or an optimizer's options that are shown; any file may name as many as it likes."""


def paragraphs(measured: Frames, summary: Summary) -> list[str]:
    """Workload, speed, limits of the machine, training and claims; one without anything to tell is left out."""
    if measured.imported:
        elsewhere = "The rows were made from tables measured elsewhere; how they were measured is not known here."
        return [elsewhere, _claims(summary)]
    speed, limits = _speed(measured), _limits(measured, summary)
    told = [_workload(measured), speed, limits, _training(measured, summary), _claims(summary)]
    return [paragraph for paragraph in told if paragraph]


def _workload(measured: Frames) -> str:
    """What a reader needs to train the same elsewhere."""
    workload, rates = measured.experiment.workload, measured.experiment.learning_rate
    model, optimizer = workload.model, workload.optimizer
    return (
        f"Workload: {_with(model, workload.model_options)} on {workload.dataset}, trained in {workload.precision} by"
        f" {_with(optimizer, workload.optimizer_options)}. Learning rates lie a factor of {rates.factor:g} apart;"
        f" {_schedule(rates)}."
    )


def _with(name: str, options: Mapping[str, Option]) -> str:
    said = ", ".join(f"{number_format.option(option)} {_value(value)}" for option, value in sorted(options.items()))
    return f"{name} ({textwrap.shorten(said, LONGEST_OPTIONS, placeholder=' ...')})" if said else name


def _value(value: Option) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return number_format.listed(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _schedule(rates: LearningRate) -> str:
    """How a rate moves within a run."""
    warmed = f"each warms up over {number_format.epochs(rates.warmup_epochs)}"
    return {
        "constant": "each is held constant",
        "warmup": f"{warmed} and is then held constant",
        "warmup_cosine": f"{warmed} and then falls along a cosine to 0 at the budget",
        "linear_decay": "each falls linearly to 0 at the budget",
    }[rates.schedule]


def _speed(measured: Frames) -> str:
    rounds = measured.rounds.groupby(list(CELL)).size()
    if rounds.empty:
        return "Speed: not measured here."
    return (
        f"Speed: {rounds.min()} timed rounds or more of every way to run a step, interleaved in shuffled order, each"
        " ending when the device has finished; compilation is not in them. Times use the faster loop at each size."
        + _beyond_memory(measured)
    )


def _limits(measured: Frames, summary: Summary) -> str:
    """What the machine did at best, and how a model's share of it is counted; empty where it was not calibrated."""
    top, precision = summary.ceilings, measured.experiment.workload.precision
    if top is None:
        return ""
    known = [
        (
            top.matmul_flops_per_second,
            lambda rate: f"multiplies large {precision} matrices at {number_format.flops_per_second(rate)}",
        ),
        (
            top.copy_bytes_per_second,
            lambda rate: f"copies memory at {number_format.bytes_per_second(rate)} (read and written)",
        ),
        (top.timer_resolution_seconds, lambda tick: f"tells the time to {number_format.seconds(tick)}"),
    ]
    best = number_format.listed(say(value) for value, say in known if value)
    return (
        f"Limits: in a short calibration this machine {best}, at best. FLOPs are counted from the model, two for each"
        " multiply-add of its products and convolutions, forwards and backwards, whatever the program really does;"
        " bytes are those that the compiler says its program reads and writes."
    )


def _beyond_memory(measured: Frames) -> str:
    """What was timed in another way, because it did not fit or might not have."""
    compilations, rounds = (speeds.comparable(measured, rows) for rows in (measured.compilations, measured.rounds))
    alone = only(compilations, compilations["isolated"])
    pieces = only(rounds, rounds["accumulation"] > 1)
    said = ""
    if len(alone):
        sizes = number_format.listed(batch_sizes(alone))
        said += f" Batch size {sizes} was timed in a process of its own, all its rounds in a row, as it might not fit."
    if len(pieces):
        sizes = number_format.listed(batch_sizes(pieces))
        said += f" Batch size {sizes} does not fit: its step averages the gradients of microbatches and updates once."
    return said


def _training(measured: Frames, summary: Summary) -> str:
    experiment = measured.experiment
    longest = number_format.epochs(experiment.max_epochs)
    beside = [number_format.option(name) for name in experiment.searched]
    tuned = " and ".join([", ".join(["The learning rate", *beside[:-1]]), *beside[-1:]]) + (" are" if beside else " is")
    return (
        f"Training: at most {longest}{_cadence(measured.curves)}, on a validation split held out of"
        f" the training set; test accuracy is reported and steered nothing. {tuned} tuned at every batch size on search"
        f" seeds; claims rest on {seeds(summary)} at what was best.{_averaging(experiment.evaluation.averaging_epochs)}"
    )


def _cadence(curves: pd.DataFrame) -> str:
    """The longest that any run trained before it was evaluated, first or again."""
    gaps = values(curves, "epochs") - one_before(curves, "epochs")
    return f", evaluated every {number_format.number(float(gaps.max()), 2)} epochs or more often" if len(gaps) else ""


def _averaging(epochs: float | None) -> str:
    """What an average of the parameters is, and that nothing rests on it."""
    if epochs is None:
        return ""
    return (
        f" An average of the parameters that forgets exponentially over {number_format.epochs(epochs)} was"
        " evaluated beside them; it steered nothing, and claims rest on the parameters themselves."
    )


def _claims(summary: Summary) -> str:
    best = summary.time_optimal or summary.throughput_optimal
    test = f" Ties: {best.metric}, {best.test}, at {number_format.percent(best.level)}." if best else ""
    return (
        "Claims: time to the target is steps to the target times seconds per step. A run that never reaches the target"
        " counts as infinite, never as missing. Medians carry 95% intervals over seeds and rounds." + test
    )
