"""`results/README.md` states what the published rows show; run as a script, this file writes its numbers anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path

import msgspec
import pytest
from batchscale.analysis import number_format
from batchscale.analysis.metrics.scaling import OVERHEAD
from batchscale.analysis.summary import build
from batchscale.analysis.summary_types import Optimum, Summary
from batchscale.records import results_folder

RESULTS = Path(__file__).resolve().parents[2] / "results"
PAGE = RESULTS / "README.md"
NONE = "—"
VERDICTS = {"supported": "yes", "contradicted": "no", "undecided": "undecided"}
LITERATURE = ("arXiv:", "JMLR")
"""A line with one of these may hold numbers that no row of ours shows."""

Published = dict[str, Summary]
"""The summary of every published folder by its address, relative to the page."""
Lines = Iterable[str]


def published() -> Published:
    """Read the summaries of all published folders."""
    folders = sorted(path.parent for path in RESULTS.glob("published/*/*/summary.json"))
    return {str(folder.relative_to(RESULTS)): build.read(folder) for folder in folders}


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def link(address: str, of: Summary) -> str:
    return f"[{of.experiment}]({address})"


def answers(found: Published) -> Lines:
    """The fastest batch size of each folder, what is tied with it, and what is known of the machine."""
    yield row("rows", "machine", "target", "fastest", "time", "tied with it", "bound", "seeds", "matrix products")
    for address, of in found.items():
        best, peak = of.time_optimal, of.ceilings.matmul_flops_per_second if of.ceilings else None
        speed = number_format.flops_per_second(peak) if peak else NONE
        answer = (NONE, NONE, NONE, NONE)
        if best is not None:
            bound = best.recommended.bound if best.recommended else None
            answer = (
                best.batch_size,
                number_format.seconds(best.seconds),
                others(best),
                number_format.percent(bound) if bound is not None else NONE,
            )
        yield row(link(address, of), of.machine, number_format.goal(of.goal), *answer, of.seeds, speed)


def questions(found: Published) -> Lines:
    """The best batch size of each of three questions, with those tied."""
    yield row("rows", "least time to the target", "best score within the budget", "most examples per second")
    for address, of in found.items():
        asked = (of.time_optimal, of.score_optimal, of.throughput_optimal)
        yield row(link(address, of), *(with_ties(one) for one in asked))


def scales(found: Published) -> Lines:
    """What is fitted to the steps of each folder, with 95 % intervals."""
    yield row(
        *("rows", "critical batch size", "perfect scaling ends", "gradient noise scale", "it grows"),
        *("best rate grows as B to the power", "over the whole sweep the best rate"),
    )
    for address, of in found.items():
        knee, noise = of.critical_batch_size, of.gradient_noise
        power = of.learning_rates.overall if of.learning_rates else None
        end = number_format.number(OVERHEAD * knee.value, 2) if knee else NONE
        ends = (number_format.number(one, 2) for one in (noise.start, noise.end)) if noise else ()
        shape = of.learning_rates.shape if of.learning_rates else None
        yield row(
            *(link(address, of), ranged(knee), end, ranged(noise), " to ".join(ends) or NONE, ranged(power, 2)),
            shape.shape.replace("_", " ") if shape else NONE,
        )


def claims(found: Published) -> Lines:
    """The verdict of each folder on each of the classic claims."""
    yield row("claim", *(link(address, of) for address, of in found.items()))
    statements = {one.claim: one.statement for of in found.values() for one in of.verdicts}
    for claim, statement in sorted(statements.items()):
        given = ({one.claim: VERDICTS[one.verdict] for one in of.verdicts} for of in found.values())
        yield row(f"{claim}. {statement}", *(verdicts.get(claim, NONE) for verdicts in given))


TABLES: tuple[Callable[[Published], Lines], ...] = (answers, questions, scales, claims)


def others(best: Optimum) -> str:
    return ", ".join(str(size) for size in best.tied if size != best.batch_size) or "none"


def with_ties(best: Optimum | None) -> str:
    if best is None:
        return NONE
    edge = f" ({best.edge} tried)" if best.edge in ("smallest", "largest") else ""
    return f"{best.batch_size}{edge}" + (f"; tied: {others(best)}" if len(best.tied) > 1 else "")


def ranged(fit, digits: int = 3) -> str:
    if fit is None:
        return NONE
    low, high = (number_format.number(end, digits) for end in fit.interval)
    return f"{number_format.number(fit.value, digits)} ({low} to {high})"


def said(found: Published, statement: str) -> Lines:
    """Yield the numbers behind the verdicts on a statement, a line for each folder that has some."""
    for address, of in found.items():
        for one in of.verdicts:
            if one.statement == statement:
                yield f"- {link(address, of)}: {one.numbers}"


def renewed(text: str, found: Published) -> str:
    """Return the page with its tables, and the lists under headings that are claims, written from the summaries."""
    written, left = [], text.splitlines()
    while left:
        line = left.pop(0)
        written.append(line)
        table = next((lines for make in TABLES if first_cell(*(lines := [*make(found)])) == first_cell(line)), None)
        if line.startswith("| ") and table:
            written[-1:] = [table[0], re.sub(r"[^|]+", "---", table[0]), *table[1:]]
            del left[: len([*takewhile(lambda one: one.startswith("|"), left)])]
        elif line.startswith("### ") and (lines := [*said(found, line.removeprefix("### "))]):
            del left[: len([*takewhile(lambda one: not one or one.startswith("- ["), left)])]
            written += ["", *lines, *([""] if left else [])]
    return "\n".join(written) + "\n"


def first_cell(header: str, *_: str) -> tuple[str, ...]:
    """Return what tells a table from the others: its first two titles, or the first where folders are its columns."""
    cells = [cell.strip() for cell in header.split("|")[1:3]]
    return tuple(cells[:1] if cells[:1] == ["claim"] else cells)


@pytest.fixture(scope="module")
def found():
    return published()


def test_the_page_of_findings_states_what_the_published_rows_show(found):
    text = PAGE.read_text()
    assert renewed(text, found) == text, "python tests/promises/test_findings.py writes its numbers"


def test_every_published_folder_is_in_every_table_and_a_stale_number_is_noticed(found):
    text = PAGE.read_text()
    rows = re.findall(r"^\| \[\w+\]\(([^)]+)\)", text, re.MULTILINE)
    assert rows == [*found] * 3
    for stale in (text.replace("| 64 |", "| 65 |", 1), text.replace("needed", "took", 1)):
        assert stale != text
        assert renewed(stale, found) == text


def test_folders_of_one_workload_agree(found):
    """Some batch size is tied with the fastest in both."""
    studies: dict[bytes, list[Summary]] = {}
    for address, of in found.items():
        asked = results_folder.read_experiment(RESULTS / address)
        key = msgspec.json.encode((asked.workload, asked.goal, asked.searched), order="deterministic")
        studies.setdefault(key, []).append(of)
    assert any(len(study) > 1 for study in studies.values())
    for study in studies.values():
        tied = [{*of.time_optimal.tied} for of in study if of.time_optimal]
        assert not tied or set.intersection(*tied), [of.experiment for of in study]


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_table_of_speeds_holds_what_make_peers_measured(page):
    [file] = RESULTS.glob("peers/*.json")
    measured = msgspec.json.decode(file.read_bytes())["ratios"]
    ways = ("PyTorch eager", "torch.compile", "JAX with Flax's layers")
    lines = (RESULTS.parent / page).read_text().splitlines()
    header = next(at for at, line in enumerate(lines) if "| PyTorch |" in line)
    shown = [[float(cell) for cell in line.split("|")[2:5]] for line in lines[header + 2 : header + 4]]
    assert shown == [
        [float(f"{measured[f'{study}: over {way}']['value']:.2g}") for way in ways] for study in ("LeNet", "decoder")
    ]


def test_no_number_of_the_page_stands_without_its_rows():
    """Prose holds none but those of code, of lists, and of a named paper."""
    kept = [line for line in PAGE.read_text().splitlines() if not line.startswith(("| ", "- [", "![", "#"))]
    known = re.compile(r"`[^`]+`|95 %|\bB = ")
    numbered = [text for text in "\n".join(kept).split("\n\n") if re.search(r"\d", known.sub("", text))]
    assert [text for text in numbered if not any(name in text for name in LITERATURE)] == []


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(), published()))
