"""The parts of a report below its figures: claims, checks, machine, how to run it again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from batchscale.analysis import number_format
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import values
from batchscale.analysis.pages.text_table import Column, Entry, Grid, Line, said
from batchscale.analysis.summary_types import FurtherTarget, Optimum, ParallelPoint, Summary
from batchscale.analysis.text.provenance import VIRTUAL, origin
from batchscale.config.experiment import shipped

SHORT_RUN_SECONDS = 0.02
"""A call costs some 0.1 ms, and a run is one for each evaluation."""
UNCONFIRMED = "†"
"""After a batch size of a further target whose learning rate was not confirmed."""


def subtitle(measured: Frames, summary: Summary) -> str:
    """Machine, workload, seeds and source of convergence in one line."""
    described = measured.machine.machine
    device = "" if described.device_kind in described.name else f" ({described.device_kind})"
    return origin(measured, summary).replace(summary.machine, f"{summary.machine}{device}", 1)


def verdicts(summary: Summary) -> Grid | None:
    """Each claim with what these rows say of it."""
    rows = [
        Line([Entry(str(one.claim)), Entry(one.statement), Entry(one.verdict), Entry(one.numbers)])
        for one in summary.verdicts
    ]
    columns = (Column("Claim"), Column("It says", prose=True), Column("Here", text=True), Column("Because", prose=True))
    caption = "Claims of a widely read 2015 experiment with LeNet on MNIST, each judged from the rows of this folder."
    return Grid(caption, columns, rows) if rows else None


def verifications(measured: Frames) -> Grid | None:
    """Runs made alone to the target beside the steps and the time that were predicted for them."""
    same = ["batch_size", "learning_rate", "options", "seed", "status", "predicted_steps", "steps"]
    runs = measured.verifications.groupby(same, dropna=False, as_index=False)
    timed = runs.agg(runs=("seconds", "size"), seconds=("seconds", "median"), predicted=("predicted_seconds", "median"))
    rows = [Line(_verified(run)) for run in timed.to_dict("records")]
    titles = ("Batch size", "Learning rate", "Seed", "Status", "Runs", "Steps predicted", "Steps measured")
    titles += ("Time predicted", "Time measured", "Difference", "Difference of a step")
    columns = [Column(title, text=title == "Status") for title in titles]
    caption = (
        "Single, unmapped runs to the target beside the mapped run of the same seed times the seconds of a step; of "
        "several runs the median. Both round differently, so one may pass the target an evaluation later; the last "
        "column compares speed alone."
    )
    if np.any(values(timed, "predicted") < SHORT_RUN_SECONDS):
        caption += (
            " A run this short is mostly the calls that lead from one evaluation to the next, which cost more than "
            "its steps do."
        )
    return Grid(caption, columns, rows) if rows else None


def _verified(run: Mapping[str, Any]) -> list[Entry]:
    off = run["seconds"] / run["predicted"] - 1 if run["predicted"] > 0 else None
    steps = run["predicted_steps"] / run["steps"] if run["steps"] > 0 else math.nan
    return [
        Entry(number_format.whole(run["batch_size"]), run["batch_size"]),
        Entry(number_format.point(run["learning_rate"], dict(run["options"])), run["learning_rate"]),
        Entry(number_format.whole(run["seed"])),
        Entry(run["status"].replace("_", " ")),
        Entry(number_format.whole(run["runs"]), run["runs"]),
        said(run["predicted_steps"], number_format.whole),
        said(run["steps"], number_format.whole),
        said(run["predicted"], number_format.seconds),
        said(run["seconds"], number_format.seconds),
        said(off, _off),
        said(None if off is None else (1 + off) * steps - 1, _off),
    ]


def _off(share: float) -> str:
    return f"{100 * share:+.1f}%"


def further_targets(summary: Summary) -> Grid | None:
    """The same question for other accuracies, from the same curves."""
    rows = [Line(_further_cells(one)) for one in summary.further_targets]
    columns = [Column("Target"), Column("Fastest"), Column("Time"), Column("Tied", text=True)]
    columns += [Column("Critical batch size"), Column("Reached by", text=True)]
    caption = "Other targets, read from the same learning curves."
    own = summary.target_accuracy or 1.0
    if ends := [one.within_epochs for one in summary.further_targets if one.accuracy > own and one.within_epochs]:
        said = number_format.target(own)
        caption += f" Above {said}, within {number_format.epochs(ends[0])}: runs that have {said} by then end there."
    if any(one.unconfirmed for one in summary.further_targets):
        caption += f" {UNCONFIRMED} not confirmed: on the seeds that chose its learning rate."
    return Grid(caption, columns, rows) if rows else None


def _further_cells(one: FurtherTarget) -> list[Entry]:
    best, critical = one.time_optimal, one.critical_batch_size
    return [
        Entry(number_format.target(one.accuracy), one.accuracy),
        Entry(str(best.batch_size), best.batch_size) if best else Entry("—"),
        said(best.seconds if best else None, number_format.seconds),
        Entry(_tied_list(best)),
        said(critical.value if critical else None, lambda value: number_format.number(value, 2)),
        Entry(
            number_format.listed(f"{size}{UNCONFIRMED * (size in one.unconfirmed)}" for size in one.reached) or "none"
        ),
    ]


def _tied_list(best: Optimum | None) -> str:
    return number_format.listed(size for size in best.tied if size != best.batch_size) or "none" if best else "—"


def several_devices(summary: Summary) -> Grid | None:
    """Speed, updates and epochs of every batch that was shared by several devices."""
    titles = ("Devices", "Batch size", "Examples/s", "Efficiency: same batch", "Efficiency: batch for each")
    joined = ("Updates per epoch", "Epochs to target", "Times those of one device's part", "Time to target")
    caption = (
        "A batch in equal parts on several devices. Efficiency is speed over so many times that of one device, at the"
        " same batch or at one device's part of it; epochs are those of the training runs at that batch size."
    )
    note = f" Here {VIRTUAL}." if summary.virtual_devices else ""
    rows = [Line(_parallel_cells(one)) for one in summary.data_parallel]
    return Grid(caption + note, [Column(title) for title in (*titles, *joined)], rows) if rows else None


def _parallel_cells(one: ParallelPoint) -> list[Entry]:
    return [
        Entry(str(one.devices), one.devices),
        Entry(str(one.batch_size), one.batch_size),
        said(one.examples_per_second, number_format.short),
        said(one.strong_efficiency, number_format.percent),
        said(one.weak_efficiency, number_format.percent),
        said(one.updates_per_epoch, number_format.number),
        said(one.epochs_to_target, number_format.number),
        said(one.epochs_ratio, number_format.number),
        said(one.time_to_target, number_format.seconds),
    ]


def machine(measured: Frames) -> Grid:
    """The machine and every environment its rows name."""
    described = measured.machine.machine
    columns, caption = (Column("Part", text=True), Column("Here", prose=True)), "What the rows were measured on."
    if measured.imported:
        return Grid(caption, columns, [Line([Entry("Device"), Entry(described.device_kind)])])
    memory = described.device_memory_bytes
    pairs = [
        ("Device", f"{described.device_count} x {described.device_kind} ({described.platform})"),
        ("Device memory", number_format.mebibytes(memory) if memory else "not reported"),
        ("Processor", f"{described.cpu}, {described.cpu_cores} cores"),
        ("Memory", number_format.mebibytes(described.host_memory_bytes)),
    ]
    for name, software in sorted(measured.machine.environments.items()):
        packages = ", ".join(f"{package} {version}" for package, version in sorted(software.packages.items()))
        pairs.append((f"Environment {name[:8]}", f"Python {software.python}, {software.os}, {packages}"))
        extras = {"driver": software.driver or "", "XLA flags": software.xla_flags, **software.settings}
        set_here = "; ".join(f"{key} {value}" for key, value in extras.items() if value)
        pairs += [("Settings", set_here)] if set_here else []
    rows = [Line([Entry(name), Entry(text)]) for name, text in pairs]
    return Grid(caption, columns, rows)


def reproduce(measured: Frames, summary: Summary) -> str:
    """The commands that measure this again."""
    if measured.imported:
        return "batchscale analyze --convergence CSV --throughput CSV --out DIR"
    joined = " --convergence-from FOLDER" if summary.convergence_from else ""
    source = summary.experiment if summary.experiment in shipped() else "experiment.toml"
    return f"batchscale run {source}{joined}\nbatchscale report results/local/{summary.experiment}/MACHINE"
