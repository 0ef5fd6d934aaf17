"""How the numbers of a report came about: what was timed, what was trained, and what the claims rest on."""

from __future__ import annotations

from bench.analysis import metrics, words
from bench.analysis.columns import CELL, only
from bench.analysis.figures.origin import seeds
from bench.analysis.figures.series import batch_sizes
from bench.analysis.frames import Frames
from bench.analysis.summary import Summary


def paragraphs(measured: Frames, summary: Summary) -> list[str]:
    """Speed, the limits of the machine, training and claims; one without anything to tell is left out."""
    if measured.imported:
        elsewhere = "The rows were made from tables measured elsewhere; how they were measured is not known here."
        return [elsewhere, _claims(summary)]
    told = [_speed(measured), _limits(measured, summary), _training(measured, summary), _claims(summary)]
    return [paragraph for paragraph in told if paragraph]


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
            lambda rate: f"multiplies large {precision} matrices at {words.flops_per_second(rate)}",
        ),
        (top.copy_bytes_per_second, lambda rate: f"copies memory at {words.bytes_per_second(rate)}, read and written"),
        (top.timer_resolution_seconds, lambda tick: f"tells the time to {words.seconds(tick)}"),
    ]
    best = words.listed(say(value) for value, say in known if value)
    return (
        f"Limits: in a short calibration this machine {best}, at best. FLOPs are counted from the model, two for each"
        " multiply-add of its products and convolutions, forwards and backwards, whatever the program really does;"
        " bytes are those that the compiler says its program reads and writes."
    )


def _beyond_memory(measured: Frames) -> str:
    """What was timed in another way, because it did not fit or might not have."""
    compilations, rounds = (metrics.comparable(measured, rows) for rows in (measured.compilations, measured.rounds))
    alone = only(compilations, compilations["isolated"])
    pieces = only(rounds, rounds["accumulation"] > 1)
    said = ""
    if len(alone):
        sizes = words.listed(batch_sizes(alone))
        said += f" Batch size {sizes} was timed in a process of its own, all its rounds in a row, as it might not fit."
    if len(pieces):
        sizes = words.listed(batch_sizes(pieces))
        said += f" Batch size {sizes} does not fit: its step averages the gradients of microbatches and updates once."
    return said


def _training(measured: Frames, summary: Summary) -> str:
    experiment = measured.experiment
    quantum = summary.evaluation_quantum_epochs
    cadence = f", evaluated every {words.number(quantum, 2)} epochs or more often" if quantum else ""
    beside = [words.option(name) for name in experiment.searched]
    tuned = " and ".join([", ".join(["The learning rate", *beside[:-1]]), *beside[-1:]]) + (" are" if beside else " is")
    return (
        f"Training: at most {words.number(experiment.max_epochs)} epochs{cadence}, on a validation split held out of"
        f" the training set; test accuracy is reported and steered nothing. {tuned} tuned at every batch size on search"
        f" seeds; claims rest on {seeds(summary)} at what was best."
    )


def _claims(summary: Summary) -> str:
    best = summary.time_optimal or summary.throughput_optimal
    test = f" Ties: {best.metric}, {best.test}, at {words.percent(best.level)}." if best else ""
    return (
        "Claims: time to the target is steps to the target times seconds per step. A run that never reaches the target"
        " counts as infinite, never as missing. Medians carry 95% intervals over seeds and rounds." + test
    )
