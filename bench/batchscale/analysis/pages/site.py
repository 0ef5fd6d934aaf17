"""The gallery: a static site over everything published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from batchscale.analysis import number_format
from batchscale.analysis.compare.compare import compare
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import page_templates, report
from batchscale.analysis.pages.comparison import NAME as COMPARISON
from batchscale.analysis.pages.comparison import write_comparison
from batchscale.analysis.summary import summary_file as summaries
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Summary
from batchscale.errors import InputError
from batchscale.records import row_files

HOME_FROM_RESULT, HOME_FROM_COMPARISON = "../../index.html", "../index.html"
FACETS = ("dataset", "model", "machine")


@dataclass(frozen=True)
class Shelf:
    """One published folder, read."""

    folder: Path
    measured: Frames
    summary: Summary

    @property
    def address(self) -> str:
        """Its folder on the site; both names are validated slugs, so it cannot leave the site."""
        return f"{self.summary.experiment}/{self.summary.machine}"


@dataclass(frozen=True)
class Entry:
    """A line of the index."""

    title: str
    experiment: str
    dataset: str
    model: str
    optimizer: str
    machine: str
    fastest: str
    seconds: str
    seconds_value: float | None
    accurate: str
    address: str


def site(published: Path, out: Path) -> Path:
    """Write an index, a page for each published folder, and a comparison for each experiment; returns the index.

    Raises:
        InputError: when nothing is published, a folder is not valid, two are of one experiment and machine, or the
            site would be written among the published folders.
    """
    shelves = [_read(folder) for folder in published_folders(published)]
    if not shelves:
        raise InputError(f"{published}: no published results (folders <experiment>/<machine> with an experiment.toml)")
    _refuse_twins(shelves)
    _refuse_inside(published, [out, *(out / shelf.address for shelf in shelves)])
    for shelf in shelves:
        _write_result(shelf, out / shelf.address)
    entries = _told_apart([_entry(shelf) for shelf in shelves])
    page = page_templates.render(
        "index.html.jinja",
        entries=entries,
        facets={facet: sorted({getattr(entry, facet) for entry in entries}) for facet in FACETS},
        comparisons=_write_comparisons(shelves, out),
    )
    row_files.write_whole(out / "index.html", page)
    return out / "index.html"


def published_folders(published: Path) -> list[Path]:
    """The results folders under `published`, sorted."""
    return sorted(path.parent for path in published.glob("*/*/experiment.toml"))


def _read(folder: Path) -> Shelf:
    measured = frames.load(folder)
    return Shelf(folder, measured, summarize(Sweep.of(measured)))


def _refuse_twins(shelves: Sequence[Shelf]) -> None:
    known: dict[str, Path] = {}
    for shelf in shelves:
        twin = known.setdefault(shelf.address, shelf.folder)
        if twin != shelf.folder:
            raise InputError(f"{shelf.folder}: is of the same experiment and machine as {twin}: {shelf.address}")


def _refuse_inside(published: Path, places: Sequence[Path]) -> None:
    """What is published is evidence: no page of the site may replace or join it."""
    for place in places:
        if place.resolve().is_relative_to(published.resolve()):
            raise InputError(
                f"{place}: is, or lies in, {published}, whose results the site only reads; give another --out"
            )


def _write_result(shelf: Shelf, out: Path) -> None:
    for name in (*report.FILES, "convergence_from.json"):
        if (shelf.folder / name).is_file():
            row_files.write_whole(out / name, (shelf.folder / name).read_bytes())
    summaries.write(out, shelf.summary)
    report.write_page(out, shelf.measured, shelf.summary, home=HOME_FROM_RESULT)


def _write_comparisons(shelves: Sequence[Shelf], out: Path) -> list[dict[str, str]]:
    """A comparison for each experiment that several machines ran under one protocol."""
    groups: dict[str, list[Shelf]] = {}
    for shelf in shelves:
        groups.setdefault(shelf.summary.experiment, []).append(shelf)
    written = []
    for experiment, group in groups.items():
        fingerprints = {shelf.measured.experiment.fingerprint for shelf in group}
        if len(group) > 1 and len(fingerprints) == 1:
            comparison = compare([shelf.folder for shelf in group])
            write_comparison(comparison, out / experiment, home=HOME_FROM_COMPARISON)
            title = f"{group[0].summary.title}: {number_format.listed(comparison.labels)}"
            written.append({"title": title, "address": f"{experiment}/{COMPARISON}"})
    return written


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Titles that several experiments have, with the experiment's name."""
    named: dict[str, set[str]] = {}
    for entry in entries:
        named.setdefault(entry.title, set()).add(entry.experiment)
    return [
        replace(entry, title=f"{entry.title} ({entry.experiment})") if len(named[entry.title]) > 1 else entry
        for entry in entries
    ]


def _entry(shelf: Shelf) -> Entry:
    of = shelf.summary
    return Entry(
        title=of.title,
        experiment=of.experiment,
        dataset=of.workload.dataset,
        model=of.workload.model,
        optimizer=of.workload.optimizer,
        machine=of.machine,
        fastest=str(of.time_optimal.batch_size) if of.time_optimal else "—",
        seconds=number_format.seconds(of.time_optimal.seconds) if of.time_optimal else "—",
        seconds_value=of.time_optimal.seconds if of.time_optimal else None,
        accurate=str(of.accuracy_optimal.batch_size) if of.accuracy_optimal else "—",
        address=f"{shelf.address}/{report.NAME}",
    )
