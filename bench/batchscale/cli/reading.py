"""The verbs that only read results: they never import JAX."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from batchscale.cli.arguments import Verbs, accuracy, add_json, add_price, add_verb, inches, names, percent
from batchscale.cli.output import tell, warn
from batchscale.records import results_folder, row_files

PUBLISHED = Path("results/published")
EXPORTS = ("pytest-benchmark",)


def add(verbs: Verbs) -> None:
    """Add them to the command line."""
    _add_single(verbs)
    _add_several(verbs)
    _add_tables(verbs)


def _add_single(verbs: Verbs) -> None:
    report = add_verb(
        verbs,
        lambda options: answer([options.folder], as_json=options.json, price_per_hour=options.price_per_hour),
        "report",
        "write summary.json, figures and report.html of a results folder again",
        "batchscale report results/local/lenet_mnist/MACHINE",
    )
    report.add_argument("folder", type=Path, metavar="DIR")
    add_price(report)
    add_json(report)
    figures = add_verb(
        verbs,
        draw_figures,
        "figures",
        "draw just the figures a paper needs",
        "batchscale figures DIR --only time_to_target --format pdf --width 3.3",
    )
    figures.add_argument("folder", type=Path, metavar="DIR")
    figures.add_argument("--only", type=names, metavar="NAMES", help="comma-separated names (default: all)")
    figures.add_argument("--format", type=names, default=["png", "svg"], metavar="FORMATS", help="of png,svg,pdf")
    figures.add_argument("--width", type=inches, metavar="INCHES", help="such as 3.3 for one column, 6.9 for two")
    figures.add_argument("--style", type=Path, metavar="FILE", help="a matplotlib style file")
    figures.add_argument("--out", type=Path, metavar="DIR", help="where to (default: DIR/figures)")
    export = add_verb(
        verbs,
        export_folder,
        "export",
        "write a results folder's timed rounds in another tool's format",
        "batchscale export DIR --format pytest-benchmark && pytest-benchmark compare DIR/pytest-benchmark.json",
    )
    export.add_argument("folder", type=Path, metavar="DIR")
    export.add_argument("--format", choices=EXPORTS, default=EXPORTS[0], help="(%(default)s)")
    export.add_argument("--out", type=Path, metavar="FILE", help="where to (default: DIR/FORMAT.json)")


def _add_several(verbs: Verbs) -> None:
    compare = add_verb(
        verbs, compare_folders, "compare", "results folders of one workload, side by side", "batchscale compare A B"
    )
    compare.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    compare.add_argument("--throughput-only", action="store_true", help="compare speeds of unlike protocols")
    compare.add_argument(
        "--fail-if-slower", type=percent, metavar="PERCENT", help="exit 1 where a folder is this slower"
    )
    compare.add_argument("--out", type=Path, default=Path("comparison"), metavar="DIR", help="(%(default)s)")
    add_json(compare)
    site = add_verb(verbs, build_site, "site", "a static site over all published folders", "batchscale site --out site")
    site.add_argument("published", type=Path, nargs="?", default=PUBLISHED, metavar="DIR", help="(%(default)s)")
    site.add_argument("--out", type=Path, default=Path("site"), metavar="DIR", help="(%(default)s)")
    submit = add_verb(
        verbs,
        submit_folder,
        "submit",
        "check a results folder for publication and place it under results/published",
        "batchscale submit results/local/lenet_mnist/MACHINE",
    )
    submit.add_argument("folder", type=Path, metavar="DIR")
    submit.add_argument("--published", type=Path, default=PUBLISHED, metavar="DIR", help="(%(default)s)")
    add_json(submit)


def _add_tables(verbs: Verbs) -> None:
    analyze = add_verb(
        verbs,
        analyze_tables,
        "analyze",
        "the same answer for runs made elsewhere, from two CSV tables",
        "batchscale analyze --convergence c.csv --throughput t.csv --train-examples 55000 --out analysis",
    )
    analyze.add_argument(
        "--convergence", type=Path, required=True, metavar="CSV", help="batch_size, seed, epochs_to_target"
    )
    analyze.add_argument(
        "--throughput", type=Path, required=True, metavar="CSV", help="batch_size, examples_per_second"
    )
    analyze.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for the answer")
    analyze.add_argument("--train-examples", type=int, metavar="N", help="where a conversion needs it")
    analyze.add_argument("--target", type=accuracy, metavar="ACCURACY", help="the target, for the page")
    add_price(analyze)
    add_json(analyze)
    predict = add_verb(
        verbs,
        predict_machine,
        "predict",
        "the time-optimal batch size on hardware where nothing was trained",
        "batchscale predict DIR --seconds-per-step t.csv",
    )
    predict.add_argument("folder", type=Path, metavar="DIR")
    predict.add_argument("--seconds-per-step", type=Path, required=True, metavar="CSV|DIR", help="speeds to join")
    add_json(predict)


def answer(measured: Sequence[Path], *, as_json: bool, price_per_hour: float | None = None) -> int:
    """Write the page of every folder, then print its answer and where the page is; a price is kept beside the rows."""
    from batchscale.analysis.pages import report, terminal

    if price_per_hour is not None:
        for folder in measured:
            results_folder.set_price(folder, price_per_hour)
    summaries = [report.write_report(folder) for folder in measured]
    _tell_of_torn_lines(measured)
    if as_json:
        return _print_json(summaries[0] if len(summaries) == 1 else summaries)
    for folder, one in zip(measured, summaries, strict=True):
        terminal.render(one)
        tell(f"page: {folder / report.NAME}", "")
    return 0


def _tell_of_torn_lines(measured: Sequence[Path]) -> None:
    for path in (
        folder / name for folder in measured for name in (results_folder.THROUGHPUT, results_folder.CONVERGENCE)
    ):
        if row_files.is_torn(path):
            warn(f"warning: {path}: its last line is torn and left out; `run` measures that row again")


def _print_json(value: object) -> int:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    return 0


def draw_figures(options: argparse.Namespace) -> int:
    """Draw and name the files."""
    from batchscale.analysis.figures import write_figures
    from batchscale.analysis.frames import frames
    from batchscale.analysis.summary.build import summarize

    measured = frames.load(options.folder)
    out = options.out or options.folder / "figures"
    for path in write_figures(
        measured, summarize(measured), out, options.only, options.format, options.width, options.style
    ):
        tell(str(path))
    return 0


def export_folder(options: argparse.Namespace) -> int:
    """Write and name the file."""
    from batchscale.analysis.exchange.export import export

    tell(str(export(options.folder, options.format, options.out)))
    return 0


def compare_folders(options: argparse.Namespace) -> int:
    """Compare with the first folder; exit 1 when one is slower than allowed."""
    from batchscale.analysis.compare.compare import compare
    from batchscale.analysis.pages import comparison, terminal

    found = compare(options.folders, throughput_only=options.throughput_only)
    page = comparison.write_comparison(found, options.out)
    if options.json:
        _print_json(found)
    else:
        console = terminal.console_for()
        console.print(terminal.table(comparison.optima(found)))
        console.print(terminal.table(comparison.table(found)))
        for sentence in comparison.sentences(found):
            console.print(terminal.plain(sentence))
        tell(f"page: {page}")
    slower = [] if options.fail_if_slower is None else found.slower_than(options.fail_if_slower)
    for line in slower:
        warn(line)
    return 1 if slower else 0


def build_site(options: argparse.Namespace) -> int:
    """Build the gallery and name its index."""
    from batchscale.analysis.pages.site import site

    tell(str(site(options.published, options.out)))
    return 0


def submit_folder(options: argparse.Namespace) -> int:
    """Place a folder, or say what stands in the way and exit 1."""
    from batchscale.analysis.exchange.submit import submit

    found = submit(options.folder, options.published)
    if options.json:
        _print_json(found)
    else:
        tell(*found.problems, f"placed in {found.place}" if found.place else "not placed")
    return 1 if found.problems else 0


def analyze_tables(options: argparse.Namespace) -> int:
    """Make results folders of two tables and answer for each machine."""
    from batchscale.analysis.exchange.import_tables import analyze
    from batchscale.analysis.pages import report

    made = analyze(
        options.convergence,
        options.throughput,
        options.out,
        options.train_examples,
        options.target,
        options.price_per_hour,
    )
    results_folder = list(made.values())
    if len(results_folder) == 1 or not options.json:
        return answer(results_folder, as_json=options.json)
    for folder in results_folder:
        report.write_report(folder)
    sys.stdout.write((options.out / "summary.json").read_text())
    return 0


def predict_machine(options: argparse.Namespace) -> int:
    """Print the joined answer of every machine."""
    from batchscale.analysis.exchange.predict import predict
    from batchscale.analysis.pages import terminal

    found = predict(options.folder, options.seconds_per_step)
    if options.json:
        return _print_json(found)
    for summary_file in found.values():
        terminal.render(summary_file)
    return 0
