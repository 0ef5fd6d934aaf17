"""How the numbers of a report were made: what was timed, what was trained, and what the claims rest on."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

import pandas as pd

from batchscale.analysis import number_format
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import CELL, batch_sizes, one_before, only, values
from batchscale.analysis.metrics.known_losses import ENTROPY, known_bits
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_types import ScoreOptimal, Summary
from batchscale.analysis.text.captions import seeds
from batchscale.config.experiment import LearningRate, Option
from batchscale.config.goal import Goal
from batchscale.decisions.crossings import FLAT_SLOPES
from batchscale.printable import visible
from batchscale.records.curves import CountedIn
from batchscale.statistics.effects import BLOCK_SPREAD

LONGEST_OPTIONS = 300
"""Characters of the options of a model or an optimizer that are shown; any file may name as many as it likes."""


def paragraphs(sweep: Sweep, summary: Summary) -> list[str]:
    """Return a paragraph each on workload, speed, limits of the machine, training and claims, where there is one."""
    measured = sweep.frames
    if measured.imported:
        elsewhere = "The rows were made from tables measured elsewhere; how these were measured is not known here."
        noted = " ".join([elsewhere, *map(visible, measured.imported.notes)])
        own = [noted, _estimand(measured, summary), _best_score(measured, summary), _claims(sweep, summary)]
        return [part for part in own if part]
    speed, limits = _speed(sweep), _limits(measured, summary)
    found = [
        _workload(measured),
        _data(measured),
        speed,
        limits,
        _training(sweep, summary),
        _looks(summary),
        _estimand(measured, summary),
        _best_score(measured, summary),
        _claims(sweep, summary),
    ]
    return [paragraph for paragraph in found if paragraph]


def _workload(measured: Frames) -> str:
    """Return what a reader needs to train the same elsewhere."""
    workload, rates = measured.experiment.workload, measured.experiment.learning_rate
    model, optimizer = workload.model, workload.optimizer
    return (
        f"Workload: {_with(model, workload.model_options)} on {workload.dataset}, trained in {workload.precision} with"
        f" {_with(optimizer, workload.optimizer_options)}. The learning rates tried are a factor of {rates.factor:g}"
        f" apart; {_schedule(rates)}."
    )


def _data(measured: Frames) -> str:
    """Return what the data is and what is known of it without training; empty where the rows do not name it."""
    data = measured.data
    if data is None:
        return ""
    example, bits = ("window" if data.tokens_per_example else "example"), known_bits(measured)
    entropy = bits.pop(ENTROPY, None)
    size = f" of {data.tokens_per_example:,} tokens" if data.tokens_per_example else ""
    found = (
        f"Data: {data.dataset}, {data.train_examples:,} {example}s{size} to train on, {data.validation_examples:,} for"
        f" validation and {data.test_examples:,} to test; SHA-256 {data.sha256[:16]}."
    )
    if bits:
        each = [f"{name} to {number_format.number(value)}" for name, value in bits.items()]
        found += f" Programs compress the whole text to fewer bits per byte: {number_format.listed(each)}."
    if entropy is not None:
        found += f" Its entropy is {number_format.number(entropy)} bits per byte; no model can need fewer."
    own = {"model": data.model_sha256, "task": data.task_sha256}
    code = [f"the {name} has SHA-256 {digest[:16]}" for name, digest in own.items() if digest]
    return f"{found} Of the user's own code, {number_format.listed(code)}." if code else found


def _with(name: str, options: Mapping[str, Option]) -> str:
    listed = ", ".join(f"{number_format.option(option)} {_value(value)}" for option, value in sorted(options.items()))
    return f"{name} ({textwrap.shorten(listed, LONGEST_OPTIONS, placeholder=' ...')})" if listed else name


def _value(value: Option) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return number_format.listed(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _schedule(rates: LearningRate) -> str:
    """Return how a rate changes within a run."""
    warmed = f"each warms up over {number_format.epochs(rates.warmup_epochs)}"
    return {
        "constant": "each is held constant",
        "warmup": f"{warmed} and is then held constant",
        "warmup_cosine": f"{warmed} and then falls along a cosine to 0 at the end of the budget",
        "linear_decay": "each falls linearly to 0 at the end of the budget",
    }[rates.schedule]


def _speed(sweep: Sweep) -> str:
    rounds = sweep.frames.rounds.groupby(list(CELL)).size()
    if rounds.empty:
        return "Speed: not measured here."
    return (
        f"Speed: every variant of a training step was timed in at least {rounds.min()} rounds, in shuffled order. A"
        " round ends when the device has finished, and does not include compilation. Times use the fastest loop at each"
        f" batch size.{_beyond_memory(sweep)}"
    )


def _beyond_memory(sweep: Sweep) -> str:
    """Return what was timed in another way, because it did not fit or might not have."""
    alone = batch_sizes(only(sweep.compilations, sweep.compilations["isolated"]))
    split = batch_sizes(sweep.rounds_in_microbatches)
    found = ""
    if alone:
        might = f"{number_format.batch_sizes(alone).capitalize()} might not fit in memory"
        found += f" {might}, so all rounds were timed in a row in a separate process."
    if split:
        doubt = f"{number_format.batch_sizes(split).capitalize()} did not fit in memory"
        found += f" {doubt}, so a step averages the gradients of several microbatches and updates once."
    return found


def _limits(measured: Frames, summary: Summary) -> str:
    """Return the best that the machine did, and how a model's share of it is counted; empty if not calibrated."""
    top, precision = summary.ceilings, measured.experiment.workload.precision
    if top is None:
        return ""
    known = [
        (
            top.matmul_flops_per_second,
            lambda rate: f"multiplied large {precision} matrices at {number_format.flops_per_second(rate)}",
        ),
        (
            top.copy_bytes_per_second,
            lambda rate: f"copied memory at {number_format.bytes_per_second(rate)} (read plus written)",
        ),
        (top.timer_resolution_seconds, lambda tick: f"resolved times of {number_format.seconds(tick)}"),
    ]
    best = number_format.listed(describe(value) for value, describe in known if value)
    return (
        f"Limits: in a short calibration, this machine {best}, at best. FLOPs are counted from the model: two for each"
        " multiply-add of its matrix products and convolutions, forwards and backwards. Bytes are those that the"
        " compiler reports its program to read and write."
    )


def _training(sweep: Sweep, summary: Summary) -> str:
    measured, experiment = sweep.frames, sweep.frames.experiment
    longest = number_format.epochs(experiment.max_epochs)
    tuned = number_format.listed(["learning rate", *map(number_format.option, experiment.searched)])
    verb = "were" if experiment.searched else "was"
    return (
        f"Training: at most {longest}{_cadence(measured.curves)} on a validation split that was held out of the"
        " training set. The score on the test split is reported, but nothing was chosen by it."
        f" The {tuned} {verb} tuned at every batch size on search seeds. The claims rest on"
        f" {seeds(summary)} with the best values.{_rates(sweep)}"
        f"{_averaging(experiment.evaluation.averaging_epochs)}"
    )


def _cadence(curves: pd.DataFrame) -> str:
    """Return the longest that any run trained before it was evaluated, first or again."""
    gaps = values(curves, "epochs") - one_before(curves, "epochs")
    return f", evaluated every {number_format.number(float(gaps.max()), 2)} epochs or more often" if len(gaps) else ""


def _averaging(epochs: float | None) -> str:
    """Return how an average of the parameters was made, and that nothing rests on it."""
    if epochs is None:
        return ""
    return (
        f" An exponential moving average of the parameters over {number_format.epochs(epochs)} was evaluated too;"
        " nothing was chosen by it, and the claims rest on the parameters themselves."
    )


def _looks(summary: Summary) -> str:
    """Return how seeds were spent, and why the ties hold although the study stopped by them; empty without looks."""
    if summary.looks is None:
        return ""
    spent = number_format.percent(sum(one.alpha for one in summary.looks.made))
    return (
        "Looks: after some seeds, the batch sizes that are left are compared. A batch size that cannot be the fastest"
        " is out: it gets no more seeds and is not timed again (Paulson, 1964). The others get more seeds, which end"
        " soon after the target, and another block of timed rounds. Every look has its own chance of an error; so far"
        f" these sum to {spent}, and never to more than 5%. The best batch size is called out with no more than that"
        " (Bonferroni). Where the budget or the plan ends the looks, the last comparison also gets two thirds of the"
        " chance that later looks would have had (error spending: Lan & DeMets, 1983)."
    )


TIMES: dict[CountedIn, str] = {
    "examples": "steps to the target times seconds per step",
    "epochs": "epochs to the target times seconds per epoch",
    "seconds": "what the run's own clock shows there, which includes whatever it timed",
}
"""What a time to the target is, by what training is counted in; final scores have none."""


def _claims(sweep: Sweep, summary: Summary) -> str:
    best = summary.time_optimal or summary.throughput_optimal
    level = number_format.percent(best.level) if best else ""
    test = (
        f" Ties are decided at the {level} level by {best.test}. The quantity compared is the {best.metric}."
        if best
        else ""
    )
    subject = "medians"
    if time := TIMES.get(sweep.amounts.counted_in):
        missed = "A run that never reaches the target counts as infinitely long; it is not left out."
        subject = f"time to the target is {time}. {missed} Medians"
    rounds = " and rounds" if sweep.amounts.timed_in else ""
    return f"Claims: {subject} have 95% intervals over seeds{rounds}.{test}"


def _estimand(measured: Frames, summary: Summary) -> str:
    """Return what the examples to the target are, in three sentences, and where each rule comes from."""
    smoothed = measured.has_scores and measured.goal is not None
    if not smoothed or not any(cell.typical_run and cell.seeds for cell in summary.cells):
        return ""
    has_ideal = (summary.goal or measured.experiment.goal).kind.ideal is not None
    scale = ", on the logarithm of the gap to the ideal score" if has_ideal else ", in the unit of the score"
    blocks = (
        " Of each block of timed rounds, the median over the means of all pairs of rounds counts (Hodges & Lehmann,"
        f" 1963); that blocks are taken to differ by about {number_format.percent(BLOCK_SPREAD)} until more of them"
        " show it is our own rule."
    )
    return (
        f"Typical run: it is the mean over seeds of the learning curve{scale}."
        " It reaches the target where its smooth curve first does. That point does not depend on how often a run is"
        " evaluated, unlike the first evaluation at the target, which is reported next to it. Rules: local lines smooth"
        " the curve (Fan & Gijbels, 1996) and then what they lost of it (Tukey, 1977), the influence of"
        " each run on the crossing gives its spread (Efron, 1982), variances are shared between"
        " batch sizes (Smyth, 2004), and ties and bounds are multiple comparisons with the"
        f" best (Hsu, 1981 and 1984; Edwards & Hsu, 1983).{blocks if measured.amounts.timed_in else ''}"
    )


def _best_score(measured: Frames, summary: Summary) -> str:
    """Return how best scores are compared, and when a budget was long enough; empty where none are known."""
    best, goal = summary.score_optimal, summary.goal or summary.scored
    if best is None or goal is None:
        return ""
    scale = "" if goal.kind.ideal is None else " on the logarithm of the gap to the ideal score,"
    levelled = "" if measured.counted_in == "budgets" else f" {_levelled_off(goal)}{_decaying(measured)}"
    return (
        "Best score: the best evaluation of each run within the budget. Batch sizes are compared by its mean over"
        f" seeds,{scale} seed by seed (Hsu, 1981; Smyth, 2004).{_examples(measured, best, goal)}{levelled}"
    )


def _levelled_off(goal: Goal) -> str:
    """Return when a curve has levelled off, and where the rule comes from."""
    flat = FLAT_SLOPES[goal.metric]
    if goal.kind.ideal is None:
        rise = "parts of the rise from the first evaluation to the best score, over "
        gain = f"add less than {number_format.percent(-flat * math.log(2))} of that rise"
    else:
        rise, gain = "over ", f"lower the gap to the ideal score by less than {number_format.percent(1 - 2**flat)}"
    return (
        f"A curve has levelled off where the line through the last half of the budget, {rise}the logarithm of the"
        f" amount of training, is flatter than {flat:g} by its whole 95% interval: twice the training would then"
        f" {gain}. Comparing the progress of the last stretch with a threshold follows Prechelt (1998, Early Stopping -"
        " But When?); the stretch and the threshold are our own rule."
    )


def _examples(measured: Frames, best: ScoreOptimal, goal: Goal) -> str:
    """Return, after a space, what the number of validation examples does to a score, and to a difference."""
    if best.examples_error is None or measured.validation_examples is None:
        return ""
    points = " percentage points" if goal.kind.is_share else f" {goal.kind.unit}".rstrip()
    error = number_format.number(best.examples_error * (100 if goal.kind.is_share else 1), 2)
    return (
        f" All runs see the same {measured.validation_examples:,} validation examples. Their number alone gives a score"
        f" a standard error of {error}{points}, which its interval contains. As far as batch sizes err on the same"
        " examples it moves all scores together, so differences do not contain it; examples on which two seeds disagree"
        " are part of the spread over seeds."
    )


def _decaying(measured: Frames) -> str:
    if not measured.experiment.learning_rate.decays:
        return ""
    return (
        " Here the learning rate falls to 0 at the end of the budget, where every curve levels off, so this is not"
        " known: a longer budget is another schedule."
    )


def _rates(sweep: Sweep) -> str:
    """Return how the learning rates were chosen; empty where none were searched."""
    choices = [claim.choice for claim in sweep.claims.values() if claim.choice]
    if not choices:
        return ""
    if not any(one.ridge for one in choices):
        return " The rate of each batch size was chosen by its own search trials (Shallue et al., 2019, tune so too)."
    return (
        " The rates of all batch sizes were chosen together: a surface over batch size and rate is fitted to all search"
        " trials, trials without a crossing count as later than their end, and the rate with the least expected cost is"
        " taken. The surface is our own rule."
    )
