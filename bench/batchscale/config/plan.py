"""Decide what an experiment runs: its batch sizes, learning rates, seeds, durations and tiers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product

import msgspec

from batchscale.config.experiment import Experiment, LearningRate, expand_batch_sizes
from batchscale.config.vocabulary import CellKey, Ended, Loop, Options, Phase, Point
from batchscale.errors import InputError

FIRST_CONFIRMATION_SEED = 1000
"""Confirmation seeds start here, so that adding search seeds never makes one of them a seed of a claim."""

WHOLE_BUDGET_SEEDS = 3
"""Confirmation seeds that run the whole epoch budget in a study with looks, for its claims about accuracy."""

LOWEST_RATE, HIGHEST_RATE = 1e-30, 1e9
"""Rates that float32 and a row can hold."""
MOST_EVALUATIONS = 100_000
"""The most evaluations of a trial: its curve must fit into one row."""

WIDEST_MICROBATCH = 256
"""The largest microbatch that a tier chooses, unless a batch size has no divisor near it."""
MOST_SPLITTING = 4
"""A batch size may share a program if its microbatch becomes at most this many times smaller than it would be alone."""
NARROWEST_SHARE = 8
"""A microbatch more than this many times smaller than the widest one allowed is avoided."""


class Tier(msgspec.Struct, frozen=True):
    """Batch sizes that are all multiples of one microbatch size, so that one program trains them."""

    microbatch_size: int
    batch_sizes: list[int]

    @property
    def label(self) -> str:
        """The batch sizes for the progress line: `B=2`, or `B=8..512` for several."""
        ends = dict.fromkeys((self.batch_sizes[0], self.batch_sizes[-1]))
        return f"B={'..'.join(map(str, ends))}"


class Duration(msgspec.Struct, frozen=True):
    """How long trials train, in examples.

    Attributes:
        budget_examples: Examples in the epoch budget. Accuracies are compared within this budget.
        max_examples: A trial ends here even if it has not reached the target.
        evaluations: Examples after which every trial is evaluated, ascending.
        past_target: Multiple of its first evaluation at the target at which a confirmation run ends; None for a study
            without looks, whose runs end at the target or at the epoch budget, whichever comes later.
    """

    budget_examples: int
    max_examples: int
    evaluations: list[int]
    past_target: float | None = None

    def ended(self, phase: Phase, seed: int, examples: int, crossed: int | None) -> Ended | None:
        """Return why a run ends after `examples`; None if it goes on.

        Args:
            phase: What the run is for.
            seed: Its seed: the first confirmation seeds run the whole epoch budget.
            examples: Examples trained.
            crossed: Examples at the first evaluation at the target; None if there was none.
        """
        if examples >= self.max_examples:
            return "budget" if self.max_examples == self.budget_examples else "max"
        if crossed is None:
            return None
        multiple = None if phase == "search" else self.past_target
        whole = multiple is None or seed < FIRST_CONFIRMATION_SEED + WHOLE_BUDGET_SEEDS
        if (whole and examples < self.budget_examples) or examples < (multiple or 1.0) * crossed:
            return None
        if whole and examples == self.budget_examples:
            return "budget"
        return "target" if multiple is None else "past_target"


def batch_sizes(experiment: Experiment, train_examples: int) -> list[int]:
    """Return the experiment's batch sizes, sorted.

    Raises:
        InputError: if one is larger than the training set.
    """
    sizes = expand_batch_sizes(experiment.batch_sizes, experiment.name)
    if sizes[-1] > train_examples:
        dataset = experiment.workload.dataset
        raise InputError(
            f"{experiment.name}: batch_sizes: {sizes[-1]}, expected at most the {train_examples} training examples"
            f" of {dataset}"
        )
    return sizes


def device_counts(experiment: Experiment, available: int, hosts: int = 1) -> list[int]:
    """Return the numbers of devices to share a batch among, each above 1.

    Args:
        experiment: The experiment.
        available: Devices of all hosts.
        hosts: Hosts that run one program; each gives the same number of devices.

    Raises:
        InputError: if the experiment asks for more devices than are `available`, or for unequal shares of the hosts.
    """
    asked = experiment.throughput.devices
    if asked == "auto":
        doubled = [hosts << power for power in range(available.bit_length())]
        return [count for count in doubled if 1 < count <= available]
    if max(asked) > available:
        found = f"{max(asked)}, expected at most the {available} local device{'s' if available > 1 else ''}"
        raise InputError(f"{experiment.name}: throughput.devices: {found}")
    counts = sorted({count for count in asked if count > 1})
    if uneven := [count for count in counts if count % hosts]:
        raise InputError(f"{experiment.name}: throughput.devices: {uneven[0]}, expected multiples of the {hosts} hosts")
    return counts


def parallel_batch_sizes(sizes: Iterable[int], devices: int, train_examples: int) -> list[int]:
    """Return the batch sizes to split over several devices.

    The batch sizes of one device show strong scaling (the same work in less time); batches `devices` times as large
    show weak scaling (more work in the same time).
    """
    kept = set(sizes)
    together = {size * devices for size in kept if size * devices <= train_examples}
    return sorted(together | {size for size in kept if size % devices == 0})


def cells(
    experiment: Experiment, sizes: Sequence[int], devices: Sequence[int], train_examples: int, *, graphs: bool = False
) -> list[CellKey]:
    """Return every cell to time: each batch size on one device, then on several in the precision that is trained in.

    A loop inside a program cannot take batches from host memory, so those are only dispatched. Where a CUDA graph can
    hold a loop, each loop on one device is timed that way too.

    Args:
        experiment: Names the loops, inputs and precisions.
        sizes: Batch sizes of one device.
        devices: Numbers of devices above 1, as `device_counts` returns them.
        train_examples: Size of the train split; no batch is larger.
        graphs: True if a CUDA graph can hold a loop.
    """
    table, trained_in = experiment.throughput, experiment.workload.precision
    loops: list[Loop] = [*table.loops, *(["graph"] if graphs and "scan" in table.loops else [])]
    alone = [
        CellKey(size, loop, source, precision)
        for precision in table.precisions or [trained_in]
        for source in table.inputs
        for size in sizes
        for loop in loops
        if source == "device" or loop == "dispatch"
    ]
    shared = [
        CellKey(size, loop, "device", trained_in, count)
        for count in devices
        for size in parallel_batch_sizes(sizes, count, train_examples)
        for loop in table.loops
    ]
    return alone + shared


def anchor_rate(table: LearningRate, batch_size: int) -> float:
    """Return the anchor rate, moved to `batch_size` by the rule."""
    ratio = batch_size / table.anchor_batch_size
    return table.anchor * {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[table.rule]


def effective_rate(point: Point) -> float:
    """Return learning rate / (1 - momentum), the sum of all steps that one gradient causes (Shallue et al., 2019).

    If momentum is not searched, this is the learning rate itself.
    """
    return point.learning_rate / _share_not_carried(point.options)


def _share_not_carried(options: Options) -> float:
    return 1.0 - dict(options).get("momentum", 0.0)


def grid_rate(table: LearningRate, batch_size: int, position: int, options: Options = ()) -> float:
    """Return the rate `position` grid steps above the anchor.

    It is rounded to six significant digits, so that reading a file gives exactly the same rate.
    """
    effective = anchor_rate(table, batch_size) * table.factor**position
    return float(f"{effective * _share_not_carried(options):.6g}")


def learning_rates(table: LearningRate, batch_size: int, options: Options = ()) -> list[float]:
    """Return the grid of one batch size and one combination of options, ascending."""
    return [grid_rate(table, batch_size, position - table.span, options) for position in range(table.grid_size)]


def check_rates(experiment: Experiment, sizes: Sequence[int]) -> None:
    """Check that a row can hold the ends of every grid, also after it has grown.

    Raises:
        InputError: names the field, the rate and the batch size.
    """
    table = experiment.learning_rate
    reach = table.span + table.extend
    ends = product(sizes, option_combinations(experiment), (-reach, reach))
    for size, options, position in ends:
        rate = grid_rate(table, size, position, options)
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise InputError(
                f"{experiment.name}: learning_rate.factor: {table.factor:g} gives, with span and extend, the rate"
                f" {rate:g} at batch size {size}, expected {LOWEST_RATE:g} to {HIGHEST_RATE:g}"
            )


def option_combinations(experiment: Experiment) -> list[Options]:
    """Return every combination of the searched options; a single empty one if none is searched."""
    each = product(*(sorted(experiment.search[name]) for name in experiment.searched))
    return [tuple(zip(experiment.searched, values, strict=True)) for values in each]


def points(experiment: Experiment, batch_size: int) -> list[Point]:
    """Return all points to try at a batch size: each combination of options with its whole grid of rates."""
    return [
        Point(rate, options)
        for options in option_combinations(experiment)
        for rate in learning_rates(experiment.learning_rate, batch_size, options)
    ]


def extension(table: LearningRate, batch_size: int, tried: Iterable[Point], *, upwards: bool) -> Point | None:
    """Return the next point beyond the edge of those `tried`; None once the grid has grown by `extend` on that side.

    Args:
        table: The grid of rates.
        batch_size: The batch size that the points were tried at.
        tried: Points with the same options.
        upwards: Grow the grid at its highest rate, rather than at its lowest.
    """
    known = sorted(tried)
    reach, options = table.span + table.extend, known[0].options
    side = range(table.span + 1, reach + 1) if upwards else range(-table.span - 1, -reach - 1, -1)
    for position in side:
        point = Point(grid_rate(table, batch_size, position, options), options)
        if (upwards and point > known[-1]) or (not upwards and point < known[0]):
            return point
    return None


def confirmation_examples(experiment: Experiment, sizes: int, duration: Duration) -> int:
    """Return the lane-examples that confirmation runs of a study with looks may spend, for a number of batch sizes."""
    return experiment.seeds.confirm * sizes * duration.budget_examples


def first_seeds(experiment: Experiment) -> int:
    """Return the confirmation seeds of every batch size before the first look, or before the end where none is."""
    most = experiment.seeds.confirm
    return min(most, experiment.confirm.looks[0]) if experiment.confirm else most


def search_seeds(experiment: Experiment) -> list[int]:
    """Return the seeds that rates are chosen on."""
    return list(range(1, experiment.seeds.search + 1))


def confirmation_seeds(experiment: Experiment) -> list[int]:
    """Return the fresh seeds that claims are made on."""
    return list(range(FIRST_CONFIRMATION_SEED, FIRST_CONFIRMATION_SEED + experiment.seeds.confirm))


def duration(experiment: Experiment, train_examples: int) -> Duration:
    """Return the budgets and the evaluations, which are the same for every batch size.

    Raises:
        InputError: if the budget is less than one example, or asks for more than MOST_EVALUATIONS.
    """
    evaluation, field = experiment.evaluation, f"{experiment.name}: budget.epochs"
    most_epochs = MOST_EVALUATIONS / evaluation.per_epoch
    budget = experiment.budget_examples(train_examples)
    longest = round(experiment.max_epochs * train_examples)
    if budget < 1:
        raise InputError(f"{field}: {experiment.budget.epochs:g}, expected at least 1 of {train_examples} examples")
    if experiment.max_epochs > most_epochs:
        longer = "epochs" if experiment.budget.epochs == experiment.max_epochs else "max_epochs"
        raise InputError(
            f"{experiment.name}: budget.{longer}: {experiment.max_epochs:g}, expected at most {most_epochs:g}: with"
            f" evaluation.per_epoch = {evaluation.per_epoch} that is {MOST_EVALUATIONS} evaluations of each trial"
        )
    early = [round(train_examples * i / evaluation.first_epoch) for i in range(1, evaluation.first_epoch + 1)]
    later = [
        round(train_examples * (1 + i / evaluation.per_epoch))
        for i in range(1, math.ceil((experiment.max_epochs - 1) * evaluation.per_epoch) + 1)
    ]
    points = {point for point in [*early, *later, budget, longest] if 0 < point <= longest}
    past_target = experiment.confirm.past_target if experiment.confirm else None
    return Duration(budget, longest, sorted(points), past_target)


def tiers(sizes: Sequence[int], widest: int = WIDEST_MICROBATCH, most_splitting: int = MOST_SPLITTING) -> list[Tier]:
    """Group batch sizes into few programs, from the largest down.

    A tier's microbatch is the largest common divisor of its batch sizes up to `widest`. A batch size joins the first
    tier whose common microbatch stays at least 1/`most_splitting` of the microbatch that each member would use alone,
    and is larger than 1: batch size 1 needs no sums of gradients, so it gets its own program.
    """
    groups: list[list[int]] = []
    for size in sorted(sizes, reverse=True):
        for group in groups:
            together = _microbatch([*group, size], widest)
            alone = [_microbatch([one], widest) for one in [*group, size]]
            if together > 1 and max(alone) <= most_splitting * together:
                group.append(size)
                break
        else:
            groups.append([size])
    made = [Tier(_microbatch(group, widest), sorted(group)) for group in groups]
    return sorted(made, key=lambda tier: tier.batch_sizes)


def spaced(sizes: Sequence[int], factor: int) -> list[int]:
    """Return the smallest size and, ascending, every size that is at least `factor` times the last one returned."""
    kept: list[int] = []
    for size in sorted(sizes):
        if not kept or size >= factor * kept[-1]:
            kept.append(size)
    return kept


def _microbatch(sizes: Sequence[int], widest: int) -> int:
    """Return the largest common divisor of the batch sizes up to `widest`.

    If this divisor is less than 1/NARROWEST_SHARE of `widest` and of the common divisor of all sizes (as for primes),
    return the smallest divisor above `widest`. This costs memory but not speed.
    """
    common = math.gcd(*sizes)
    divisors = [divisor for divisor in range(1, common + 1) if common % divisor == 0]
    narrow = max(divisor for divisor in divisors if divisor <= widest)
    if narrow * NARROWEST_SHARE >= min(common, widest):
        return narrow
    return min(divisor for divisor in divisors if divisor > widest)
