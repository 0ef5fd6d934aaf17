"""How far a run is and when it will end.

The time left is the work still planned times its cost: a guess at first (the constants below), then the speed measured.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TextIO

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.printable import visible

LINE_SECONDS = 10.0
"""Seconds between progress lines where the output is no terminal."""
LIVE_SECONDS = 0.2
"""Seconds between changes of the live line of a terminal."""
KNOWN_SHARE = 0.03
"""Share of an item that must be done before its measured speed replaces the guess."""
CLEARED = "\r\x1b[2K"
"""Moves a terminal's cursor to the start of its line and clears the line."""

# Guessed costs on a slow CPU with two cores; measured speeds replace those of training and timing. What compiling costs
# depends on the platform, whose policy has the seconds.
SECONDS_PER_CELL = 0.2
"""Finding how many steps of a timed cell fill a round."""
ENERGY_ROUNDS = 3
"""Rounds of a block in which the fastest loop of a batch size is timed until its energy is known."""
SECONDS_PER_LOWERING = 1.5
"""Trying a compiled lowering at one batch size."""
LOWERINGS_APART = 4
"""Factor between the batch sizes at which lowerings are tried."""
SECONDS_PER_PAGE = 10.0
"""Analysing rows and drawing the page."""
CALIBRATIONS = 5
"""Number of peak rates that are measured."""
SECONDS_PER_CALIBRATION = 0.5
"""Measuring one peak rate."""
MAX_BATCH_SIZE_SECONDS = 20.0
"""Starting a process, compiling a step of the whole training set and running it once."""
SHARE_OF_SEARCH = 0.85
"""Share of a full search to the epoch budget that is trained; losing rates are stopped early."""
RATES_CONFIRMED = 1.6
"""Rates confirmed per batch size, on average."""
BEYOND_BUDGET = 1.2
"""Examples of all trials over those of the epoch budget: some trials continue towards the target."""
SHARES_LEFT = (0.66, 0.44, 0.3)
"""Share of batch sizes that go on after each look, those of ended studies as 0: means over the truths that looks are
simulated on."""


def timing_seconds(experiment: Experiment, cells: float, energy_seconds: float = 0.0, loops: int = 1) -> float:
    """Guess the seconds that the rounds of a number of timed `cells` take, without compiling.

    Args:
        experiment: The experiment.
        cells: How many.
        energy_seconds: How long a round must last for its energy to be known.
        loops: How many loops each batch size is timed in. One of them is timed for its energy.
    """
    table = experiment.throughput
    longer = ENERGY_ROUNDS * max(0.0, energy_seconds - table.round_seconds) / loops
    return cells * (table.rounds * table.round_seconds + longer + SECONDS_PER_CELL)


def lowering_trials(experiment: Experiment, batch_sizes: Sequence[int], lowerings: int) -> int:
    """Return how often one of a number of `lowerings` is tried, in every precision; a single one needs no trial."""
    precisions = max(1, len(experiment.throughput.precisions))
    return len(plan.spaced(batch_sizes, LOWERINGS_APART)) * precisions * lowerings if lowerings > 1 else 0


def max_batch_size_seconds(experiment: Experiment) -> float:
    """Guess the seconds to find the largest batch size."""
    return MAX_BATCH_SIZE_SECONDS if experiment.throughput.max_batch_size != "skip" else 0.0


def search_trials(experiment: Experiment, tier: plan.Tier) -> float:
    """Guess a tier's search, as a number of trials to the epoch budget."""
    points = sum(len(plan.points(experiment, size)) for size in tier.batch_sizes)
    return points * experiment.seeds.search * SHARE_OF_SEARCH


def confirm_trials(experiment: Experiment, tier: plan.Tier) -> float:
    """Guess a tier's confirmation, the fixed rate included, as a number of trials to the epoch budget.

    Looks may spend `seeds.confirm` trials per batch size on the times to the target. What the first seeds train beyond
    the epoch budget, and other rates, which get these seeds alone, come on top.
    """
    first = plan.first_seeds(experiment)
    others = RATES_CONFIRMED - 1 + (experiment.learning_rate.fixed is not None)
    of_a_size = experiment.seeds.confirm + (BEYOND_BUDGET - 1) * first + others * BEYOND_BUDGET * first
    return len(tier.batch_sizes) * of_a_size


def later_blocks(experiment: Experiment) -> float:
    """Guess how often rounds of a batch size are timed again between looks, on average over all batch sizes.

    Looks follow one another as long as the trials that seeds cost until then fit the budget.
    """
    if experiment.confirm is None:
        return 0.0
    left, blocks = float(experiment.seeds.confirm - plan.first_seeds(experiment)), 0.0
    for share, (seeds, more) in zip(SHARES_LEFT, pairwise(experiment.confirm.looks), strict=False):
        if left <= 0:
            break
        blocks += share
        left -= share * (more - seeds)
    return blocks


@dataclass
class Item:
    """One piece of planned work.

    Attributes:
        expected: all of the work, in any unit.
        guessed_rate: units per second, until a rate is measured.
        done: work done so far.
        seconds: time that work took.
        closed: True once the work is finished, even if less was done than expected.
        at_most: the most that the work under way can still be, once it goes on beyond the plan; 0 until then.
    """

    expected: float
    guessed_rate: float
    done: float = 0.0
    seconds: float = 0.0
    closed: bool = False
    at_most: float = 0.0

    @property
    def is_beyond_plan(self) -> bool:
        """Whether the work under way can take longer than what is left of the plan."""
        return not self.closed and self.at_most > self.expected - self.done

    def remaining_seconds(self) -> float:
        """Return the seconds still needed, at the measured rate once `KNOWN_SHARE` is done."""
        if self.closed:
            return 0.0
        measured = self.done > KNOWN_SHARE * self.expected and self.seconds > 0
        rate = self.done / self.seconds if measured else self.guessed_rate
        return max(self.expected - self.done, self.at_most) / rate


@dataclass
class Progress:
    """The work of a run, shown as one live line on a terminal, and as a plain line now and then elsewhere.

    This class writes the line without rich, which hides the cursor while its line is live: a killed run would leave the
    cursor hidden.

    Attributes:
        output: where lines are written.
        clock: returns seconds since some moment.
        quiet: True if nothing is written.
        items: planned work by experiment and name.
        prefix: the experiment that work is planned and done for.
        last_line: when the last line was written, by `clock`.
        note: what the line also shows, such as the batch sizes that are undecided.
        machine: the machine that the line is about, where several share the output.
    """

    output: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    quiet: bool = False
    items: dict[tuple[str, str], Item] = field(default_factory=dict)
    prefix: str = ""
    last_line: float = -1e9
    note: str = ""
    machine: str = ""

    def begin(self, experiment: str) -> None:
        """Plan and count work for this experiment from now on."""
        self.prefix = experiment

    def plan(self, name: str, expected: float, rate: float) -> None:
        """Plan work, or revise how much there is; `rate` is units per second until one is measured."""
        item = self.items.setdefault((self.prefix, name), Item(expected, rate))
        item.expected, item.guessed_rate = max(expected, item.done), rate

    def advance(self, name: str, amount: float, seconds: float, doing: str = "", at_most: float = 0.0) -> None:
        """Count work done and show the line; work that was not planned counts as well.

        Args:
            name: which work.
            amount: how much of it was done.
            seconds: how long that took.
            doing: what the line shows next to the name.
            at_most: the most that the work under way can still be, once it goes on beyond the plan.
        """
        item = self.items.setdefault((self.prefix, name), Item(amount, 1.0))
        item.done += amount
        item.seconds += seconds
        item.at_most = at_most
        item.expected = max(item.expected, item.done)
        self.show(f"{name} {doing}".strip())

    def close(self, name: str) -> None:
        """Mark an item as finished, so that it adds no time. An item that was never planned is ignored."""
        if (self.prefix, name) in self.items:
            self.items[self.prefix, name].closed = True

    def remaining_seconds(self) -> float:
        """Return the seconds until everything planned is done."""
        return sum(item.remaining_seconds() for item in self.items.values())

    def show(self, doing: str, *, force: bool = False, planned: bool = True) -> None:
        """Show one line: the experiment, what is being done, and the time left.

        Args:
            doing: what is being done.
            force: True to show it even if the last line is recent.
            planned: False while work is still being planned, so that the time left is not known.
        """
        live, now = self._live(), self.clock()
        if self.quiet or (not force and now - self.last_line < (LIVE_SECONDS if live else LINE_SECONDS)):
            return
        self.last_line = now
        up_to = "up to " if any(item.is_beyond_plan for item in self.items.values()) else ""
        left = f" | {up_to}{readable(self.remaining_seconds())} left" if planned else ""
        line = " | ".join(part for part in (self.machine, self.prefix, doing, self.note) if part) + left
        # A live line that wraps could not be cleared.
        self.output.write(f"{CLEARED}{line[: shutil.get_terminal_size().columns - 1]}" if live else f"{line}\n")
        self.output.flush()

    def end(self) -> None:
        """Clear the live line."""
        if not self.quiet and self._live():
            self.output.write(CLEARED)

    def say(self, line: str) -> None:
        """Write a line that stays, or several; control characters in them are written as escapes."""
        if not self.quiet:
            shown = "\n".join(map(visible, line.split("\n")))
            self.output.write((CLEARED if self._live() else "") + shown + "\n")
            self.output.flush()

    def _live(self) -> bool:
        return self.output.isatty()


def readable(seconds: float) -> str:
    """Return seconds as `41 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
