"""The commands that put results folders next to each other and publish them: compare, site, submit."""

from __future__ import annotations

from pathlib import Path

import click

from batchscale.cli.reading import print_json, print_written
from batchscale.cli.shared_options import AS_JSON, FOLDER, PATH, WITHIN, Number, example
from batchscale.errors import warn
from batchscale.printable import visible

PUBLISHED = Path("results/published")


@click.command(epilog=example("batchscale compare A B"))
@click.argument("folders", type=PATH, nargs=-1, required=True, metavar="DIR...")
@click.option("--throughput-only", is_flag=True, help="Compare speeds of unlike protocols.")
@click.option(
    "--fail-if-slower",
    type=Number("a percentage such as 5%", 100, unit="%"),
    metavar="PERCENT",
    help="Exit with 1 if a folder is slower than the first by more than this.",
)
@click.option("--out", type=PATH, default="comparison", show_default=True, metavar="DIR", help="Folder for the page.")
@WITHIN
@AS_JSON
def compare(
    *,
    folders: tuple[Path, ...],
    throughput_only: bool,
    fail_if_slower: float | None,
    out: Path,
    within: float | None,
    as_json: bool,
) -> int:
    """Compare results folders of one workload with the first of them."""
    from batchscale.analysis.compare.compare import compare as compare_folders
    from batchscale.analysis.pages import comparison, terminal

    found = compare_folders(folders, throughput_only=throughput_only, within=within)
    page = comparison.write_comparison(found, out)
    if as_json:
        print_json(found)
    else:
        console = terminal.console_for()
        console.print(terminal.table(comparison.optima(found)))
        console.print(terminal.table(comparison.table(found)))
        for sentence in comparison.sentences(found):
            console.print(terminal.plain(sentence))
        print(visible(f"page: {page}"))
    slower = [] if fail_if_slower is None else found.slower_than(fail_if_slower / 100)
    for line in slower:
        warn(line)
    return 1 if slower else 0


@click.command(epilog=example("batchscale site --out site"))
@click.argument("published", type=PATH, default=PUBLISHED, metavar="[DIR]")
@click.option("--out", type=PATH, default="site", show_default=True, metavar="DIR", help="Folder for the site.")
@AS_JSON
def site(*, published: Path, out: Path, as_json: bool) -> None:
    """Build a static site of all published folders.

    DIR holds the published folders (default: results/published).
    """
    from batchscale.analysis.pages.site import site as build

    print_written([build(published, out)], as_json=as_json)


@click.command(epilog=example("batchscale submit results/local/lenet_mnist/MACHINE"))
@FOLDER
@click.option(
    "--published", type=PATH, default=PUBLISHED, show_default=True, metavar="DIR", help="Folder to place it in."
)
@AS_JSON
def submit(*, folder: Path, published: Path, as_json: bool) -> int:
    """Check a results folder and place it with the published ones.

    Exits with 1, and prints the reasons, if the folder cannot be published.
    """
    from batchscale.analysis.exchange.submit import submit as place

    found = place(folder, published)
    if as_json:
        print_json(found)
    else:
        lines = [*found.problems, f"placed in {found.place}" if found.place else "not placed"]
        print(*map(visible, lines), sep="\n")
    return 1 if found.problems else 0
