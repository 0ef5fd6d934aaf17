"""`results/README.md` states what the published rows show; `make findings` runs this file, which writes its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from batchscale.analysis import number_format
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.scaling import OVERHEAD
from batchscale.analysis.summary import build
from batchscale.analysis.summary_types import Optimum, Summary
from batchscale.records import results_folder
from batchscale.records.row_types import Trial

RESULTS = Path(__file__).resolve().parents[2] / "results"
PAGE = RESULTS / "README.md"
NONE = "—"
VERDICTS = {"supported": "yes", "contradicted": "no", "undecided": "undecided"}
LITERATURE = ("arXiv:", "JMLR", "zhuanlan")
"""A line with one of these may hold numbers that no row of ours shows."""


class Original(NamedTuple):
    """What the experiment of 2015 reports of a batch size; None where it reports nothing.

    Attributes:
        epochs: Epochs to an accuracy of 0.99.
        time: Time to it, over the least of all batch sizes.
        validation_error: The best in 200 epochs.
        test_error: The error on the test split after 200 epochs.
    """

    epochs: int | None = None
    time: float | None = None
    validation_error: float | None = None
    test_error: float | None = None


ORIGINAL = {
    1: Original(),
    2: Original(),
    5: Original(None, None, 0.032, 0.0662),
    10: Original(9, 1.729, 0.01, 0.008),
    20: Original(9, 1.082, 0.0084, 0.0088),
    50: Original(24, 1.7, 0.0098, 0.0082),
    100: Original(45, 1.874, 0.009, 0.009),
    256: Original(41, 1, 0.01, 0.01),
    500: Original(78, 1.48, 0.01, 0.01),
    1000: Original(135, 2.12, 0.01, 0.01),
    2000: Original(None, None, 0.011, 0.01),
    5000: Original(None, None, 0.015, 0.0134),
}
"""The table of Cheng Yin (2015, zhuanlan.zhihu.com/p/32673260), by batch size."""

REPEATED = "published/lenet_mnist_2015_985/cpu-amd-epyc-2c"
"""The repetition to an accuracy of 0.985, at one rate and with the rate tuned for each batch size."""
ON_CPU, ON_GPU = (f"published/mlp_mnist/{machine}" for machine in ("cpu-amd-epyc-2c", "nvidia-h100-80gb-hbm3"))
"""The same training runs with the speeds of two machines."""
ALL_EPOCHS = "published/lenet_mnist_2015_small/cpu-amd-epyc-2c"
"""The repetition over all 200 epochs, at one rate and with the rate tuned for each batch size."""

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
    elsewhere = f" on {of.machine}" if of.convergence_from else ""
    return f"[{of.experiment}{elsewhere}]({address})"


def trained(found: Published) -> Published:
    """Return the folders whose training runs were made for them, and not taken from another folder."""
    return {address: of for address, of in found.items() if not of.convergence_from}


def answers(found: Published) -> Lines:
    """The fastest batch size of each folder, what is tied with it, and what is known of the machine."""
    asked = ("fastest", "time", "tied with it", "take", "bound")
    yield row("rows", "machine", "target", *asked, "most seeds", "matrix products")
    for address, of in found.items():
        best, peak = of.time_optimal, of.ceilings.matmul_flops_per_second if of.ceilings else None
        speed = number_format.flops_per_second(peak) if peak else NONE
        answer = [NONE] * len(asked)
        if best is not None:
            answer[:3] = str(best.batch_size), number_format.seconds(best.seconds), others(best)
            if take := best.recommended:
                answer[3:] = str(take.batch_size), NONE if take.bound is None else number_format.percent(take.bound)
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
    for address, of in trained(found).items():
        knee, noise = of.critical_batch_size, of.gradient_noise
        power = of.learning_rates.overall if of.learning_rates else None
        end = number_format.number(OVERHEAD * knee.value, 2) if knee else NONE
        ends = [shown(one, 2) for one in (noise.start, noise.end)] if noise and noise.start is not None else []
        shape = of.learning_rates.shape if of.learning_rates else None
        yield row(
            *(link(address, of), ranged(knee), end, positive(noise), " to ".join(ends) or NONE, ranged(power, 2)),
            shape.shape.replace("_", " ") if shape else NONE,
        )


def claims(found: Published) -> Lines:
    """The verdict of each folder on each of the classic claims."""
    found = trained(found)
    yield row("claim", *(link(address, of) for address, of in found.items()))
    statements = {one.claim: one.statement for of in found.values() for one in of.verdicts}
    for claim, statement in sorted(statements.items()):
        given = ({one.claim: VERDICTS[one.verdict] for one in of.verdicts} for of in found.values())
        yield row(f"{claim}. {statement}", *(verdicts.get(claim, NONE) for verdicts in given))


def repetition(found: Published) -> Lines:
    """The experiment of 2015 next to its repetition, at one rate and with the rate tuned for each batch size."""
    to_target, errors_of = ([f"[rate 0.1]({of})", f"[tuned]({of})"] for of in (REPEATED, ALL_EPOCHS))
    yield row(
        *("batch size", "epochs, 2015", *to_target, "time, 2015", *to_target),
        *("best validation error, 2015", *errors_of, "last test error, 2015", *errors_of),
    )
    ways = [epochs_to_target(REPEATED, found[REPEATED], phase) for phase in ("fixed", "confirm")]
    times = [relative_times(way, found[REPEATED]) for way in ways]
    errors = [errors_in(ALL_EPOCHS, found[ALL_EPOCHS], phase) for phase in ("fixed", "confirm")]
    for size, original in ORIGINAL.items():
        best, last = ([over_seeds([run[of] for run in way[size]]) for way in errors] for of in (0, 1))
        yield row(
            *(size, shown(original.epochs, 3), *(over_seeds(way.get(size, ())) for way in ways)),
            *(shown(original.time, 2), *(shown(one.get(size), 2) for one in times)),
            *(shown(original.validation_error, 2), *best, shown(original.test_error, 2), *last),
        )


def hardware(found: Published) -> Lines:
    """The same training runs with the speeds of two machines, side by side."""
    cpu, gpu = found[ON_CPU], found[ON_GPU]
    names = [f"[{of.machine}]({address})" for address, of in ((ON_CPU, cpu), (ON_GPU, gpu))]
    yield row(
        *("batch size", "epochs to the target", "step: " + names[0], "step: " + names[1]),
        *("time: " + names[0], "time: " + names[1], "energy: " + names[1]),
    )
    for slow, fast in zip(cpu.cells, gpu.cells, strict=True):
        steps = (number_format.seconds(cell.seconds_per_step) for cell in (slow, fast))
        times = (median_of(cell.time_to_target, number_format.seconds) for cell in (slow, fast))
        epochs = median_of(fast.epochs_to_target, lambda value: shown(value, 3))
        yield row(fast.batch_size, epochs, *steps, *times, median_of(fast.joules_to_target, number_format.joules))


def median_of(estimate, show: Callable[[float], str]) -> str:
    return NONE if estimate is None or estimate.median is None else show(estimate.median)


def epochs_to_target(address: str, of: Summary, phase: str) -> dict[int, list[float]]:
    """Return the epochs to the target of each seed, infinite where it missed, at the fixed or at the chosen rate."""
    read = frames.load(RESULTS / address)
    chosen = {cell.batch_size: cell.best_learning_rate for cell in of.cells}
    epochs: dict[int, list[float]] = {}
    for one in read.trials.itertuples():
        if one.phase == phase and (phase == "fixed" or one.learning_rate == chosen[one.batch_size]):
            epochs.setdefault(one.batch_size, []).append(one.examples_to_target / read.train_examples)
    return epochs


def over_seeds(epochs: Sequence[float]) -> str:
    """Return the median, and the least and the most of several; a dash stands for a run that missed."""
    if not epochs:
        return NONE
    least, middle, most = (shown(of(epochs), 2) for of in (min, median, max))
    return middle if least == most else f"{middle} ({least} to {most})"


def shown(value: float | None, digits: int) -> str:
    return NONE if value is None or not math.isfinite(value) else number_format.number(value, digits)


def relative_times(epochs: Mapping[int, Sequence[float]], of: Summary) -> dict[int, float]:
    """Return the median time to the target of each batch size over the least of them."""
    speeds = {cell.batch_size: cell.examples_per_second for cell in of.cells}
    times = {size: median(each) / speed for size, each in epochs.items() if (speed := speeds.get(size))}
    return {size: time / min(times.values()) for size, time in times.items()}


def errors_in(address: str, of: Summary, phase: str) -> dict[int, list[tuple[float, float]]]:
    """Return the best validation error and the last test error of every run at the fixed or the chosen rate."""
    chosen = {cell.batch_size: cell.best_learning_rate_for_score for cell in of.cells}
    experiment = results_folder.read_experiment(RESULTS / address)
    errors: dict[int, list[tuple[float, float]]] = {}
    for one in results_folder.rows(RESULTS / address, results_folder.CONVERGENCE, experiment):
        if not isinstance(one, Trial) or one.phase != phase:
            continue
        if phase == "fixed" or one.point.learning_rate == chosen[one.batch_size]:
            best, last = max(one.curve.scores["accuracy"]), one.curve.test_scores["accuracy"][-1]
            errors.setdefault(one.batch_size, []).append((1 - best, 1 - last))
    return errors


TABLES: tuple[Callable[[Published], Lines], ...] = (answers, hardware, questions, scales, claims, repetition)


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


def positive(fit) -> str:
    """Return what is known of something that cannot be negative, whose interval may begin below zero."""
    return f"at most {number_format.number(fit.interval[1], 3)}" if fit and fit.interval[0] <= 0 else ranged(fit)


def said(found: Published, statement: str) -> Lines:
    """Yield the numbers behind the verdicts on a statement, a line for each folder that has some."""
    for address, of in trained(found).items():
        for one in of.verdicts:
            if one.statement == statement:
                yield f"- {link(address, of)}: {one.numbers}"


def renewed(text: str, found: Published) -> str:
    """Return the page with its tables, and the lists under headings that are claims, written from the summaries."""
    written, left = [], text.splitlines()
    tables = {first_cell(*lines): lines for lines in ([*make(found)] for make in TABLES)}
    while left:
        line = left.pop(0)
        written.append(line)
        if line.startswith("| ") and (table := tables.get(first_cell(line))):
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
    assert renewed(text, found) == text, "`make findings` writes its numbers"


def test_every_published_folder_is_in_every_table_and_a_stale_number_is_noticed(found):
    text = PAGE.read_text()
    rows = re.findall(r"^\| \[[^\]]+\]\(([^)]+)\)", text, re.MULTILINE)
    assert rows == [*found, *found, *trained(found)]
    for stale in (text.replace("| 64 |", "| 65 |", 1), text.replace("needed", "took", 1)):
        assert stale != text
        assert renewed(stale, found) == text


def test_folders_of_one_workload_and_one_machine_agree(found):
    """Some batch size is tied with the fastest in both."""
    studies: dict[bytes, list[Summary]] = {}
    for address, of in found.items():
        asked = results_folder.read_experiment(RESULTS / address)
        key = msgspec.json.encode((asked.workload, asked.goal, asked.searched, of.machine), order="deterministic")
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


def test_the_fastest_batch_size_is_inside_the_sweep_and_tied_with_others(found):
    reached = {address: of for address, of in found.items() if of.time_optimal}
    assert found.keys() - reached.keys() == {ALL_EPOCHS}
    for of in reached.values():
        sizes, best = [cell.batch_size for cell in of.cells], of.time_optimal
        assert sizes[0] < best.batch_size < sizes[-1]
        assert {best.batch_size} < {*best.tied}
        assert (sizes[0] in best.tied) == (of.experiment == "lenet_fashion_small"), of.experiment


def test_another_machine_has_another_best_batch_size(found):
    """Each block is a statement of the page."""
    cpu, gpu, longer = found[ON_CPU], found[ON_GPU], found["published/mlp_mnist_15min/cpu-amd-epyc-2c"]
    assert [cell.epochs_to_target for cell in cpu.cells] == [cell.epochs_to_target for cell in gpu.cells]
    slow, fast = cpu.time_optimal.tied, gpu.time_optimal.tied
    assert {*slow} & {*fast} == {max(slow)}
    assert max(slow) == min(fast) < max(fast)
    assert not {*longer.time_optimal.tied} & {*fast}
    said = f"from {slow[0]} to {slow[-1]:,} are tied for the least time on two CPU cores, and "
    said += f"{fast[0]:,} and {fast[1]:,} on an H100"
    assert said in (RESULTS.parent / "README.md").read_text().replace("\n", " ")

    sizes, energy = [cell.batch_size for cell in gpu.cells], gpu.energy_optimal
    assert energy.batch_size == gpu.time_optimal.batch_size
    at = sizes.index(energy.batch_size)
    assert energy.tied == sizes[at - 1 : at + 2]

    steps = {cell.batch_size: cell.seconds_per_step for cell in gpu.cells}
    assert steps[512] < 1.5 * steps[16]
    steps = {cell.batch_size: cell.seconds_per_step for cell in cpu.cells}
    assert steps[512] > 10 * steps[16]
    pairs = zip(cpu.cells, gpu.cells, strict=True)
    assert all(on_cpu.seconds_per_step >= 3 * on_gpu.seconds_per_step for on_cpu, on_gpu in pairs)

    rounds = frames.load(RESULTS / ON_GPU).rounds
    seconds = rounds.groupby(["batch_size", "loop"])["seconds_per_step"].median().unstack()
    assert (seconds.idxmin(axis=1) == "scan").all()
    assert (seconds["graph"] < seconds["dispatch"]).all()


def test_perfect_scaling_ends_where_the_page_says(found):
    knees = {of.experiment: of.critical_batch_size for of in trained(found).values()}
    ends = {name: OVERHEAD * knee.value for name, knee in knees.items() if knee}
    on_mnist = [end for name, end in ends.items() if name.startswith("lenet_mnist")]
    assert 16 <= min(ends.values()) <= max(ends.values()) <= 8192
    assert 2 * max(on_mnist) < ends["lenet_fashion_small"]
    same_network = [
        results_folder.read_experiment(RESULTS / f"published/{name}/cpu-amd-epyc-2c").workload
        for name in ("lenet_mnist_99", "lenet_fashion_small")
    ]
    assert same_network[0].model_options == same_network[1].model_options
    assert knees["lenet_mnist_99"].interval[1] > knees["lenet_fashion_small"].interval[0]
    others = [end for end in on_mnist if end != ends["lenet_mnist_99"]]
    assert min(others) <= ends["lenet_mnist_99"] <= max(others)


def test_the_noise_scale_is_of_the_size_that_the_page_says(found):
    noises = {of.experiment: of.gradient_noise for of in found.values() if of.gradient_noise}
    starts = [noise.start for name, noise in noises.items() if name.startswith("lenet_mnist") and noise.start]
    assert [round(min(starts)), round(max(starts))] == [44, 99]
    ratios = [noise.ratio_to_critical for noise in noises.values() if noise.ratio_to_critical]
    assert len(ratios) > 5
    assert max(ratios) < 1


def test_the_verdicts_on_the_experiment_of_2015_follow_from_its_rows(found):
    """Each block is a statement of the page."""
    of, small = found[REPEATED], (1, 2, 5)
    fixed, tuned = (epochs_to_target(REPEATED, of, phase) for phase in ("fixed", "confirm"))
    one_rate, chosen = ({size: median(runs[size]) for size in ORIGINAL} for runs in (fixed, tuned))
    speeds = {cell.batch_size: cell.examples_per_second for cell in of.cells}
    times = [one_rate[size] / speeds[size] for size in ORIGINAL]

    assert all(math.isinf(run) for size in small for run in fixed[size])
    assert all(math.isfinite(run) for size in small for run in tuned[size])
    assert max(chosen[size] for size in small) <= min(chosen.values())

    assert all(math.isinf(run) for size in ORIGINAL if size >= 1000 for run in fixed[size])

    assert has_one_minimum(times, at=[*ORIGINAL].index(20))
    assert all(late / speeds[256] > 3 * early / speeds[20] for late, early in zip(fixed[256], fixed[20], strict=True))
    assert has_one_minimum([chosen[size] / speeds[size] for size in ORIGINAL], at=[*ORIGINAL].index(50))
    assert of.time_optimal.tied == [5, 10, 20, 50, 100, 256]
    assert chosen[256] / speeds[256] > 2 * chosen[50] / speeds[50]

    assert rises([one_rate[size] for size in ORIGINAL if size >= 20])
    assert max(chosen[size] for size in ORIGINAL if size <= 100) <= 1.25 * min(chosen.values())
    assert rises([chosen[size] for size in ORIGINAL if size >= 100])

    assert of.score_optimal.tied == [size for size in ORIGINAL if size <= 1000]

    assert max(speeds, key=speeds.__getitem__) == 100
    verdicts = [VERDICTS[one.verdict] for one in of.verdicts]
    assert verdicts == ["yes", "no", "yes", "yes", "undecided", "yes", "yes", "yes", "yes"]


def test_the_verdicts_over_all_epochs_follow_from_their_rows(found):
    """Each block is a statement of the page, or of the README."""
    whole, small = found[ALL_EPOCHS], (1, 2, 5)
    errors, at_best = (
        {size: [best for best, _ in runs] for size, runs in errors_in(ALL_EPOCHS, whole, phase).items()}
        for phase in ("fixed", "confirm")
    )
    assert all(
        {size: len(runs) for size, runs in way.items()} == dict.fromkeys(ORIGINAL, 3) for way in (errors, at_best)
    )

    reached = [[size for size, runs in way.items() for best in runs if best < 0.01 + 1e-9] for way in (errors, at_best)]
    assert reached == [[20], [1, 50]]
    trials = frames.load(RESULTS / ALL_EPOCHS).trials
    lucky = trials[trials["best_score"] > 0.99 - 1e-9]
    assert (len(lucky), lucky["seed"].nunique(), {*lucky["phase"]}) == (3, 1, {"fixed", "confirm"})
    assert (trials["phase"] == "search").sum() == 63
    assert whole.time_optimal is None

    middle = {size: runs for size, runs in errors.items() if 10 <= size <= 1000}
    worst = max(max(runs) for runs in middle.values())
    assert all(best > worst for size in (*small, 2000, 5000) for best in errors[size])
    for runs, wide in ((middle, [20, 50]), (at_best, [50, 2000])):
        apart = np.ptp([*map(median, runs.values())])
        assert [size for size in ORIGINAL if size in runs and np.ptp(runs[size]) > apart + 1e-9] == wide

    assert min(errors[1]) > 10 * max(at_best[1])
    assert all(best <= worst for size in small for best in at_best[size])
    assert sum(best < 0.015 + 1e-9 for runs in at_best.values() for best in runs) == 35
    assert all(best > 0.015 + 1e-9 for size in (*small, 5000) for best in errors[size])

    assert whole.score_optimal.batch_size == 1
    assert whole.score_optimal.tied == [size for size in ORIGINAL if size not in (500, 2000)]
    stated = "batch size 1 has the best validation accuracy in the median, tied with nearly all others"
    assert stated in (RESULTS.parent / "README.md").read_text().replace("\n", " ")


def rises(values: list[float]) -> bool:
    return values == sorted(values) and values[0] < values[-1]


def has_one_minimum(values: list[float], at: int) -> bool:
    return rises(values[at::-1]) and rises(values[at:])


def test_no_number_of_the_page_stands_without_its_rows():
    """Prose holds none but those of code, of lists, and of a named paper."""
    kept = [line for line in PAGE.read_text().splitlines() if not line.startswith(("| ", "- [", "![", "#"))]
    known = re.compile(r"`[^`]+`|95 %|\bB = |\bH100\b")
    numbered = [text for text in "\n".join(kept).split("\n\n") if re.search(r"\d", known.sub("", text))]
    assert [text for text in numbered if not any(name in text for name in LITERATURE)] == []


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(), published()))
