"""Comparisons of batch sizes whose truth is known, from the first look to the last."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from batchscale.statistics.looks import Decision, Rules, State, decide
from scipy import special

SIZES = tuple(16 * 2**k for k in range(9))
EPOCHS = np.log([1.95, 2.0, 1.98, 2.15, 2.17, 2.39, 3.1, 4.7, 8.9])
"""Log epochs to the target of the batch sizes 16 to 4096."""
OCTAVES = np.arange(9)
SHARP = 0.22 * np.abs(OCTAVES - 4)
TIMES = {
    "sharp": SHARP,
    "flat": np.array([0.45, 0.3, 0.15, 0.02, 0, 0.01, 0.03, 0.03, 0.2]),
    "monotone": 0.12 * (8 - OCTAVES),
    "edge": 0.03 * OCTAVES**1.5,
    "misses": SHARP,
    "mlp": np.log([0.0250, 0.0148, 0.01253, 0.01162, 0.01085, 0.01112, 0.0129, 0.02, 0.0379]),
}
"""Log times to the target of a run that reaches it."""
MISS_RATES = {"misses": np.array([0, 0, 0, 0, 0.3, 0, 0, 0.2, 0.5])}
RUN_SPREAD = 0.13
SEED_CORRELATION = 0.26
SMOOTHING_BIAS = 0.008
ROUNDS = 14
ROUND_SPREAD = 0.14
BLOCK_SPREAD = 0.04
WHOLE_BUDGET_SEEDS = 3
BUDGET_EPOCHS = 9.0
PAST_TARGET = 1.42
LANE_EPOCHS = 830.0


@dataclass(frozen=True)
class Ended:
    """How a simulated search for the best batch size ended."""

    decision: Decision
    sizes: tuple[int, ...]
    regrets: np.ndarray
    spent: float

    @property
    def tied(self):
        return np.array(self.sizes)[self.decision.comparison.tied]

    @property
    def octaves(self):
        return float(np.log2(self.tied.max() / self.tied.min()))

    @property
    def holds_best(self):
        return bool(self.decision.comparison.tied[np.argmin(self.regrets)])

    @property
    def bound(self):
        return float(np.min(self.decision.comparison.bounds))

    @property
    def regret(self):
        return float(self.regrets[self.decision.comparison.recommended])


class World:
    """One drawn world: every seed of every size, and its timed blocks."""

    def __init__(self, name: str, random: np.random.Generator, block_spread: float, rounds: int) -> None:
        self.random, self.rounds, self.block_spread = random, rounds, block_spread
        times, count = TIMES[name], len(SIZES)
        spread = RUN_SPREAD * np.exp(0.2 * random.standard_normal(count))
        own = np.sqrt(1 - SEED_CORRELATION) * random.standard_normal((96, count))
        shared = np.sqrt(SEED_CORRELATION) * random.standard_normal((96, 1))
        self.step_seconds = times - EPOCHS + np.log(SIZES)
        self.values = EPOCHS + SMOOTHING_BIAS * random.standard_normal(count) + spread * (own + shared)
        rates = MISS_RATES.get(name, np.zeros(count))
        self.values[random.random((96, count)) < rates] = np.inf
        late = lateness(rates) * spread
        self.regrets = times + late - np.min(times + late)

    def block(self, timed: np.ndarray) -> np.ndarray:
        shape = (self.rounds, len(SIZES))
        level = self.step_seconds + self.block_spread * self.random.standard_normal(len(SIZES))
        seconds = level + 0.05 * self.random.standard_normal() + ROUND_SPREAD * self.random.standard_normal(shape)
        return np.where(timed, seconds, np.nan)


def lateness(rates):
    """How much later than the typical run that crosses the median of all runs comes, in standard deviations."""
    return np.where(rates < 0.5, special.ndtri(0.5 / np.maximum(1 - rates, 0.5 + 1e-12)), np.inf)


def search(name, random, budget=LANE_EPOCHS, block_spread=0.0, rounds=ROUNDS, draws=4000, rules=None) -> Ended:
    """Look until the rules or the budget stop it."""
    rules = rules or Rules()
    world = World(name, random, block_spread, rounds)
    whole = np.maximum(BUDGET_EPOCHS, PAST_TARGET * np.exp(EPOCHS))
    spent, seeds, out = WHOLE_BUDGET_SEEDS * whole.sum(), rules.seeds[0], np.zeros(len(SIZES), dtype=bool)
    blocks, values = [], np.full((0, len(SIZES)), np.nan)
    cost = PAST_TARGET * np.exp(EPOCHS)
    for look in range(len(rules.seeds)):
        blocks.append(world.block(~out))
        values = np.concatenate([values, np.where(out, np.nan, world.values[len(values) : seeds])])
        state = State(look, SIZES, out, values, np.stack(blocks), cost, budget - spent)
        decision = decide(state, rules, draws=draws)
        if decision.stop:
            break
        rules = replace(rules, spent=rules.spent + decision.comparison.alpha)
        spent += cost[~decision.out].sum() * (decision.seeds - seeds)
        seeds, out = decision.seeds, decision.out
    return Ended(decision, SIZES, world.regrets, spent)
