"""A plan as sentences, a table and a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batchscale.analysis import number_format
from batchscale.analysis.figures import encode, planned, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.pages import html
from batchscale.analysis.pages.html import PageFigure
from batchscale.analysis.pages.tables import Column, Entry, Table, TableRow, entry
from batchscale.printable import LONGEST_REASON, bare
from batchscale.records import row_files
from batchscale.records.plan_file import LeastTime, Plan, PlannedStep, TargetPlan

NAME, DATA = "plan.html", "plan.json"
CAPTIONS = {
    planned.memory_and_bounds: (
        "Memory and step time",
        "Left: memory that a training step needs according to the compiler; dotted: what JAX's allocator has by"
        " default. Right: the line is a bound, which no step can beat; the shade is an estimate, not a measurement.",
    ),
    planned.least_times: (
        "Time to the goal",
        "Measured steps to the goal, each at the bound of a step (line) and at its likely time (shade, an estimate).",
    ),
}
METHOD = (
    "Nothing here was measured on these devices. XLA compiled the training step for each of them; memory is as the"
    " compiler reports it, without what libraries take on the device. The bound is the model's arithmetic at the"
    " published peak rate, or the bytes that must travel at the published bandwidth, whichever takes longer. The likely"
    " range is an estimate from assumptions: 1.3 to 2.5 µs from one GPU kernel to the next (TPU: at most 1), at least"
    " 30% of peak arithmetic and 60% of the bandwidth."
)


def write_plan(plan: Plan, out: Path) -> Path:
    """Write `plan.html` and `plan.json` into `out`; return the path of the page.

    Raises:
        InputError: when the disk reports an error.
    """
    row_files.write_json(out / DATA, plan)
    row_files.write_whole(out / NAME, render(plan))
    return out / NAME


def render(plan: Plan) -> bytes:
    """Return the page."""
    return html.render(
        "plan.html.jinja",
        title=f"{plan.title}: planned for {number_format.listed(target.title for target in plan.targets)}",
        sentences=sentences(plan),
        plots=list(_figures(plan)),
        steps=table(plan),
        method=METHOD,
    )


def sentences(plan: Plan) -> list[str]:
    """Return what fits on each device and which batch sizes can be the fastest there."""
    return [sentence for target in plan.targets for sentence in _of_target(plan, target)]


def table(plan: Plan) -> Table:
    """Return every step of every device, one row each."""
    columns = [Column("Device", text=True), Column("Batch size"), Column("Memory"), Column("Fits", text=True)]
    columns += [Column("FLOPs"), Column("Must travel"), Column("Kernels"), Column("Step at least")]
    columns += [Column("Bound by", text=True), Column("Likely (estimate)"), Column("Mostly", text=True)]
    timed = any(target.least_times for target in plan.targets)
    columns += [Column("Goal at least"), Column("Goal likely (estimate)")] if timed else []
    rows = []
    for target in plan.targets:
        times = {time.batch_size: time for time in target.least_times}
        for step in target.steps:
            further = _time_cells(times.get(step.batch_size)) if timed else []
            rows.append(TableRow([Entry(target.title), *_step_cells(step), *further]))
    return Table("Bounds and estimates of one training step.", columns, rows)


def _of_target(plan: Plan, target: TargetPlan) -> Iterator[str]:
    if target.message:
        yield f"{target.title}: not planned, because {_reason(target.message)}."
        return
    yield from _of_memory(plan, target)
    yield from _of_times(plan, target)


def _of_memory(plan: Plan, target: TargetPlan) -> Iterator[str]:
    pool = number_format.mebibytes(target.pool_bytes)
    if target.largest_batch_size is None:
        which = "that could be planned" if any(step.fits is None for step in target.steps) else "of the sweep"
        yield f"{target.title}: no batch size {which} fits in the {pool} that JAX's allocator has by default."
    elif target.all_examples_fit:
        yield (
            f"{target.title}: every batch fits in the {pool} that JAX's allocator has by default, even all"
            f" {plan.train_examples:,} training examples at once."
        )
    else:
        yield (
            f"{target.title}: the largest batch found to fit in the {pool} that JAX's allocator has by default is"
            f" {target.largest_batch_size:,}{_beyond(target, target.largest_batch_size)}."
        )
    if target.recomputes_from is not None:
        yield f"{target.title}: {_recomputing(target, target.recomputes_from)}."
    if left := [step for step in target.steps if step.fits is None]:
        sizes = number_format.batch_sizes(step.batch_size for step in left)
        yield f"{target.title}: {sizes} could not be planned: {_reason(left[0].message or 'no reason is known')}."


def _of_times(plan: Plan, target: TargetPlan) -> Iterator[str]:
    launching = [step.batch_size for step in target.steps if step.likely_limited_by == "launches"]
    if launching:
        yield (
            f"{target.title}: an estimate: launching kernels takes most of a step at"
            f" {number_format.batch_sizes(launching)}."
        )
    if target.may_be_optimal:
        yield (
            f"{target.title}: the fastest batch size to {plan.goal} can only be among"
            f" {number_format.batch_sizes(target.may_be_optimal)}, if the best of them takes at most its likely time."
        )
    if target.likely_optimal:
        yield f"{target.title}: an estimate of that range: {number_format.batch_sizes(target.likely_optimal)}."


def _reason(message: str) -> str:
    """Return a compiler's message as a part of a sentence."""
    return bare(" ".join(message.split()), LONGEST_REASON).rstrip(".")


def _beyond(target: TargetPlan, largest: int) -> str:
    """Return what is known of sizes above the largest that fits, to follow it in a sentence."""
    too_large = min((step.batch_size for step in target.steps if step.fits is False), default=None)
    early = "" if target.larger_tried else f", because compiling had taken {target.compile_cpu_seconds:.0f} s"
    if too_large is not None and too_large > largest + 1:
        return f"; {too_large:,} does not fit, and sizes between them were not tried{early}"
    return f"; larger ones were not tried{early}" if early else ""


def _recomputing(target: TargetPlan, size: int) -> str:
    """Return from which size on the compiler recomputes, as far as the sizes tried show it."""
    plain = [step.batch_size for step in target.steps if step.fits and not step.recomputes and step.batch_size < size]
    than = f"at {size:,} examples and not yet at {max(plain):,}" if plain else f"already at {size:,} examples"
    return f"{than}, XLA recomputes values to save memory"


def _step_cells(step: PlannedStep) -> list[Entry]:
    low, high = step.likely_seconds or (None, None)
    fits = {None: "not known", False: "no", True: "yes, recomputing" if step.recomputes else "yes"}[step.fits]
    return [
        entry(step.batch_size, number_format.whole),
        entry(step.memory_bytes, number_format.mebibytes),
        Entry(fits),
        entry(step.flops, number_format.short),
        entry(step.compulsory_bytes, number_format.mebibytes),
        entry(step.kernels, number_format.whole),
        entry(step.bound_seconds, number_format.seconds),
        Entry(step.bound_by or "—"),
        Entry("—" if low is None or high is None else _range(low, high), low),
        Entry(step.likely_limited_by or "—"),
    ]


def _time_cells(time: LeastTime | None) -> list[Entry]:
    if time is None:
        return [Entry("—"), Entry("—")]
    return [
        entry(time.least_seconds, number_format.seconds),
        Entry(_range(*time.likely_seconds), time.likely_seconds[0]),
    ]


def _range(low: float, high: float) -> str:
    return f"{number_format.seconds(low)} to {number_format.seconds(high)}"


def _figures(plan: Plan) -> Iterator[PageFigure]:
    alt_text = " ".join(sentences(plan))
    with style.applied():
        for draw, (title, caption) in CAPTIONS.items():
            try:
                files = encode(draw(plan), ("png", "svg"))
            except NothingToDrawError:
                continue
            name = draw.__name__
            yield PageFigure(name, title, caption, html.image(files["svg"], files["png"], name, alt_text, {}))
