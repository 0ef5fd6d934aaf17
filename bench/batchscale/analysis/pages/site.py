"""The gallery: a static site of all published results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from batchscale.analysis import number_format
from batchscale.analysis.compare.compare import compare_sweeps
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import html, report
from batchscale.analysis.pages.comparison import NAME as COMPARISON
from batchscale.analysis.pages.comparison import write_comparison
from batchscale.analysis.summary import build
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Summary
from batchscale.errors import InputError
from batchscale.records import results_folder, row_files
from batchscale.untrusted_input import is_within

HOME_FROM_RESULT, HOME_FROM_COMPARISON = "../../index.html", "../index.html"
FACETS = ("dataset", "model", "machine")


@dataclass(frozen=True)
class PublishedResult:
    """One published folder, read."""

    folder: Path
    sweep: Sweep

    @cached_property
    def summary(self) -> Summary:
        """Its summary."""
        return summarize(self.sweep)

    @property
    def address(self) -> str:
        """Its folder on the site. Both names are validated slugs, so it cannot be outside the site."""
        measured = self.sweep.frames
        return f"{measured.experiment.name}/{measured.machine.machine.name}"


@dataclass(frozen=True)
class IndexRow:
    """One row of the index: a published result with its answer."""

    title: str
    experiment: str
    dataset: str
    model: str
    optimizer: str
    machine: str
    peak: str
    peak_value: float | None
    fastest: str
    seconds: str
    seconds_value: float | None
    tied: str
    taken: str
    bound: str
    accurate: str
    address: str


def site(published: Path, out: Path) -> Path:
    """Write an index, a page for each published folder, and a comparison for each experiment; return the index.

    Raises:
        InputError: when nothing is published, a folder is not valid, two are of one experiment and machine, or the
            site would be written among the published folders.
    """
    results = [PublishedResult(folder, Sweep.of(frames.load(folder))) for folder in published_folders(published)]
    if not results:
        raise InputError(f"{published}: no published results (folders <experiment>/<machine> with an experiment.toml)")
    _refuse_twins(results)
    _refuse_inside(published, [out, *(out / result.address for result in results)])
    for result in results:
        _write_result(result, out / result.address)
    entries = _with_unique_titles([_index_row(result) for result in results])
    page = html.render(
        "index.html.jinja",
        entries=entries,
        facets={facet: sorted({getattr(entry, facet) for entry in entries}) for facet in FACETS},
        comparisons=_write_comparisons(results, out),
    )
    row_files.write_whole(out / "index.html", page)
    return out / "index.html"


def published_folders(published: Path) -> list[Path]:
    """Return the results folders under `published`, sorted."""
    return sorted(path.parent for path in published.glob(f"*/*/{results_folder.EXPERIMENT}"))


def _refuse_twins(results: Sequence[PublishedResult]) -> None:
    known: dict[str, Path] = {}
    for result in results:
        twin = known.setdefault(result.address, result.folder)
        if twin != result.folder:
            raise InputError(
                f"{result.folder}: holds the same experiment and machine as {twin}, expected one folder of each"
            )


def _refuse_inside(published: Path, places: Sequence[Path]) -> None:
    """Refuse to write among published results, which are evidence."""
    for place in places:
        if is_within(place, published):
            raise InputError(
                f"{place}: is inside {published}, whose results the site only reads, expected another --out"
            )


def _write_result(result: PublishedResult, out: Path) -> None:
    for name in (*report.FILES, results_folder.JOINED_FROM):
        if (result.folder / name).is_file():
            row_files.write_whole(out / name, (result.folder / name).read_bytes())
    build.write(out, result.summary)
    report.write_page(out, result.sweep, result.summary, home=HOME_FROM_RESULT)


def _write_comparisons(results: Sequence[PublishedResult], out: Path) -> list[dict[str, str]]:
    """Write a comparison for each experiment that several machines ran under one protocol; return their links."""
    groups: dict[str, list[PublishedResult]] = {}
    for result in results:
        groups.setdefault(result.summary.experiment, []).append(result)
    written = []
    for experiment, group in groups.items():
        fingerprints = {result.sweep.frames.experiment.fingerprint for result in group}
        if len(group) > 1 and len(fingerprints) == 1:
            comparison = compare_sweeps([one.sweep for one in group], [one.summary for one in group])
            write_comparison(comparison, out / experiment, home=HOME_FROM_COMPARISON)
            title = f"{group[0].summary.title}: {number_format.listed(comparison.labels)}"
            written.append({"title": title, "address": f"{experiment}/{COMPARISON}"})
    return written


def _with_unique_titles(entries: Sequence[IndexRow]) -> list[IndexRow]:
    """Add the experiment's name to titles that several experiments have."""
    named: dict[str, set[str]] = {}
    for entry in entries:
        named.setdefault(entry.title, set()).add(entry.experiment)
    return [
        replace(entry, title=f"{entry.title} ({entry.experiment})") if len(named[entry.title]) > 1 else entry
        for entry in entries
    ]


def _index_row(result: PublishedResult) -> IndexRow:
    of = result.summary
    peak = of.ceilings.matmul_flops_per_second if of.ceilings else None
    best = of.time_optimal
    take = best.recommended if best else None
    return IndexRow(
        title=of.title,
        experiment=of.experiment,
        dataset=of.workload.dataset,
        model=of.workload.model,
        optimizer=of.workload.optimizer,
        machine=of.machine,
        peak=number_format.flops_per_second(peak) if peak else "—",
        peak_value=peak,
        fastest=str(best.batch_size) if best else "—",
        seconds=number_format.seconds(best.seconds) if best else "—",
        seconds_value=best.seconds if best else None,
        tied=", ".join(str(size) for size in best.tied if size != best.batch_size) if best else "—",
        taken=str(take.batch_size) if take else "—",
        bound=number_format.percent(take.bound) if take and take.bound is not None else "—",
        accurate=str(of.score_optimal.batch_size) if of.score_optimal else "—",
        address=f"{result.address}/{report.NAME}",
    )
