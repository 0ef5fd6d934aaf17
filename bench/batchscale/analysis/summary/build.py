"""Build the summary of a sweep, every answer or the reason why there is none; write and read `summary.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pandas as pd

from batchscale.analysis import number_format
from batchscale.analysis.frames.amounts import WHY
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.metrics import final_scores, hardware, observations, scaling
from batchscale.analysis.metrics.hardware import FEWEST_ROUNDS, drift
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary import recommendation, time_budgets
from batchscale.analysis.summary.batch_size_rows import cells
from batchscale.analysis.summary.classic_claims import Evidence, verdicts
from batchscale.analysis.summary.looks_made import looks_made
from batchscale.analysis.summary_types import (
    CostOptimal,
    EnergyOptimal,
    FurtherTarget,
    MaxBatchSize,
    Optimum,
    Part,
    ScoreOptimal,
    Summary,
    ThroughputOptimal,
    TimeOptimal,
    Totals,
    Workload,
)
from batchscale.config.vocabulary import Phase
from batchscale.records import results_folder, row_files
from batchscale.records.machine_file import TrainedOn
from batchscale.statistics.curve_fit import best_between_knees
from batchscale.statistics.intervals import Locations
from batchscale.statistics.ties import Contest


def summarize(of: Sweep, within: float | None = None) -> Summary:
    """Return every answer that the rows of a results folder support.

    Args:
        of: the rows.
        within: a time in seconds, for which the batch size with the best score is wanted too.

    Raises:
        InputError: when no batch size was evaluated within that time.
    """
    frames = of.frames
    per_size = cells(of)
    time, best, throughput = time_optimal(of), score_optimal(of), throughput_optimal(of)
    noise, rates, shared = scaling.gradient_noise(of), scaling.learning_rates(of), hardware.on_several_devices(of)
    return Summary(
        **_identity(of),
        **_reasoned("time_optimal", time, why_no_time(of)),
        **_reasoned("score_optimal", best, _why_no_score(of, of.score)),
        **_reasoned("score_surface", *of.score_surface),
        time_budgets=time_budgets.on_grid(of),
        within=None if within is None else time_budgets.asked(of, within),
        **_reasoned("score_optimal_by_steps", score_optimal_by_steps(of), _why_no_score_by_steps(of)),
        **_reasoned("throughput_optimal", throughput, _why_no_throughput(of)),
        **_reasoned("max_batch_size", max_batch_size(frames), _why_no_max_batch_size(frames)),
        **_reasoned("energy_optimal", energy_optimal(of), _why_no_energy(of)),
        **_reasoned("cost_optimal", cost_optimal(of), _why_no_cost(of)),
        price_per_hour=frames.price_per_hour,
        **_reasoned("critical_batch_size", scaling.critical_batch_size(of), of.examples_fit.reason),
        **_reasoned("affine_step_time", scaling.affine_step_time(of), _why_no_step_time(of)),
        **_reasoned("learning_rates", rates, scaling.why_no_learning_rates(of)),
        **_reasoned("gradient_noise", noise, scaling.why_no_gradient_noise(of)),
        **_reasoned("ceilings", hardware.ceilings(frames), "the machine was not calibrated"),
        **_reasoned("drift", None if frames.imported else drift(frames.rounds), _why_no_drift(frames)),
        cells=per_size,
        data_parallel=shared,
        virtual_devices=frames.machine.machine.virtual_devices,
        further_targets=[further_target(of.towards(target)) for target in frames.experiment.target.also],
        verdicts=verdicts(Evidence(of, per_size, time, best, throughput, noise, rates, shared)),
        totals=_totals(frames),
    )


def _reasoned(name: str, answer: Part | None, reason: str | None) -> dict[str, Any]:
    """Return the two fields of an answer: the answer, and the reason where there is none."""
    return {name: answer, f"{name}_reason": reason if answer is None else None}


def _identity(of: Sweep) -> dict[str, Any]:
    """Return the fields on what was measured, where, and which trials claims rest on."""
    frames, experiment = of.frames, of.frames.experiment
    workload = experiment.workload
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "machine": frames.machine.machine.name,
        "workload": Workload(dataset=workload.dataset, model=workload.model, optimizer=workload.optimizer),
        "goal": frames.goal,
        "scored": frames.experiment.goal if frames.goal is None and frames.has_scores else None,
        "train_examples": frames.train_examples,
        "counted_in": frames.counted_in,
        "steps_reason": frames.amounts.why_no("steps") if len(frames.trials) else None,
        "epochs_reason": frames.amounts.why_no("epochs") if len(frames.trials) else None,
        "tokens_per_example": frames.tokens_per_example,
        "claims_on": _claims_on(of),
        "seeds": max((one.count for one in of.needs), default=0),
        "looks": looks_made(frames),
        "notice": experiment.notice,
        "convergence_from": frames.convergence_from,
        "speeds_from": frames.speeds_from,
        "trained_on": list(map(trained_on, frames.machine.trained_on)),
        "evaluation_quantum_epochs": _quantum(of),
    }


def trained_on(one: TrainedOn) -> str:
    """Return in words how much a machine trained, and which it is: machines of one name may differ."""
    known = one.machine
    device = known.cpu if known.platform == "cpu" else known.device_kind
    return f"{one.trials:,} {'trial' if one.trials == 1 else 'trials'} on {known.name} ({device})"


def _why_no_step_time(of: Sweep) -> str | None:
    without_steps = of.frames.counted_in in ("epochs", "seconds")
    return of.frames.amounts.why_no("steps") if without_steps else of.step_seconds_fit.reason


def further_target(of: Sweep) -> FurtherTarget:
    """Return the answer for another target from the same curves: see `FurtherTarget`."""
    frames, threshold = of.frames, of.target
    reached = of.sizes[np.isfinite(of.training.medians)].tolist()
    return FurtherTarget(
        threshold=threshold,
        within_epochs=frames.experiment.epochs_to_reach(threshold),
        reached=reached,
        unconfirmed=[] if frames.imported else [size for size in reached if of.claims[size].phase == "search"],
        **_reasoned("time_optimal", time_optimal(of), why_no_time(of)),
        **_reasoned("critical_batch_size", scaling.critical_batch_size(of), of.examples_fit.reason),
    )


def max_batch_size(frames: Frames) -> MaxBatchSize | None:
    """Return the largest batch size that fits, as the last search in the precision of the training found it."""
    found = only(_limits(frames), _limits(frames)["batch_size"].notna())
    if found.empty:
        return None
    last = found.iloc[-1]
    return MaxBatchSize(
        batch_size=int(last["batch_size"]),
        bound=last["bound"] or "memory",
        confirmed=bool(last["confirmed"]),
        predicted_bytes=None if np.isnan(last["predicted_bytes"]) else int(last["predicted_bytes"]),
        memory_bytes=int(last["memory_bytes"]),
    )


def _why_no_max_batch_size(frames: Frames) -> str:
    searches = _limits(frames)
    return str(searches["message"].iloc[-1]) if len(searches) else "no search for it was run"


def _limits(frames: Frames) -> pd.DataFrame:
    return only(frames.limits, frames.limits["precision"] == frames.experiment.workload.precision)


def _claims_on(of: Sweep) -> Phase | None:
    phases = {claim.phase for claim in of.claims.values()}
    order: tuple[Phase, ...] = ("confirm", "search", "fixed")
    return next((phase for phase in order if phase in phases), None)


def why_no_time(of: Sweep) -> str:
    """Return why there is no batch size with the least time to the target."""
    if not len(of.frames.trials):
        return "no training runs were measured"
    if of.frames.has_scores and of.frames.goal is None:
        return WHY["budgets"]
    if not np.isfinite(of.training.medians).any():
        aim = number_format.goal(of.goal) if of.frames.goal else "the target"
        return f"no batch size reached {aim} in the median"
    if not of.speeds:
        return "no batch size has timed rounds"
    if not of.pace_of:
        return of.why_not_joined
    reached = number_format.listed(of.sizes[np.isfinite(of.training.medians)].tolist())
    timed = number_format.listed(sorted(of.speeds))
    return f"no batch size that reached the target was timed: {reached} reached it, {timed} had timed rounds"


def _why_no_score(of: Sweep, within_budget: Locations) -> str:
    if not of.frames.has_scores:
        return "the tables record when a target was reached, not the scores"
    if np.isfinite(within_budget.medians).any():
        return "no training run learned anything within the budget"
    return "no training run was evaluated within the budget"


def _why_no_score_by_steps(of: Sweep) -> str:
    return of.amounts.why_no("steps") or _why_no_score(of, of.score_by_steps)


def _why_no_throughput(of: Sweep) -> str:
    if not of.speeds:
        return "no batch size has timed rounds"
    return "the tables hold seconds per epoch, and the examples in an epoch were not given"


def _why_no_energy(of: Sweep) -> str:
    if not np.isfinite(of.round_joules.medians).any():
        return "energy was not measured"
    return why_no_time(of)


def _why_no_drift(frames: Frames) -> str:
    if frames.imported:
        return "the tables do not record the order in which rounds were timed"
    return f"no cell has {FEWEST_ROUNDS} timed rounds"


def _why_no_cost(of: Sweep) -> str:
    if of.frames.price_per_hour is None:
        return "no price was given; --price-per-hour gives one"
    return why_no_time(of)


def _quantum(of: Sweep) -> float | None:
    """Return the widest gap, in epochs, between the evaluations around a crossing: the resolution of needs."""
    needed, before = observations.around(observations.crossings(of.frames, of.frames.experiment.goal.threshold))
    reached = np.isfinite(needed)
    gaps = (needed[reached] - before[reached]) / of.amounts.per("epochs")
    return float(gaps.max()) if np.isfinite(gaps).any() else None


def _totals(frames: Frames) -> Totals:
    stages = frames.stages
    throughput, convergence = (
        values(only(stages, stages["stage"] == name), "seconds").sum() for name in ("throughput", "convergence")
    )
    return Totals(
        compilations=int(values(stages, "compilations").sum()),
        compile_seconds=float(np.nansum(values(frames.compilations, "compile_seconds"))),
        throughput_seconds=float(throughput),
        convergence_seconds=float(convergence),
        trials=len(frames.trials),
        trained_examples=int(values(stages, "trained_examples").sum()),
    )


def write(folder: Path, summary: Summary) -> Path:
    """Write `summary.json` atomically; return its path.

    Raises:
        InputError: when the disk reports an error.
    """
    path = folder / results_folder.SUMMARY
    row_files.write_json(path, summary)
    return path


def read(folder: Path) -> Summary:
    """Read and validate the `summary.json` of a results folder.

    Raises:
        InputError: when it is missing, too large or not valid.
    """
    return results_folder.read_file(folder, results_folder.SUMMARY, Summary)


NEARLY = 0.95
"""The share of peak throughput that is as good as peak (Marek et al., 2025)."""


Kind = TypeVar("Kind", bound=Optimum)


def optimum(kind: type[Kind], contest: Contest, **own: Any) -> Kind | None:
    """Return the best batch size of a contest, or None where none has a value.

    Args:
        kind: the type of the optimum.
        contest: the batch sizes, compared by one metric.
        own: the fields that only this kind of optimum has, or that differ from those of the contest.
    """
    best = contest.best
    return None if best is None else kind(**{**contest.found(best), **own})


def time_optimal(of: Sweep) -> TimeOptimal | None:
    """Return the batch size with the least time to the target, the one to take, and the one that the fits predict."""
    contest = of.contest(of.time, f"seconds to the target of the typical run: {of.amounts.timed_as}")
    examples, step_time = of.examples_fit.knee, of.step_seconds_fit.knee
    fitted = best_between_knees(examples, step_time) if examples and step_time else (None, None)
    best = optimum(TimeOptimal, contest, seconds=contest.value, fitted_batch_size=fitted[0], fitted_interval=fitted[1])
    if best is None or of.tied_in_time is None:
        return best
    return msgspec.structs.replace(
        best,
        tied=sorted(of.tied_in_time | {best.batch_size}),
        test=PAIRED,
        recommended=recommendation.recommended(of),
    )


PAIRED_SCORES = (
    "multiple comparisons with the best (Hsu) on the mean over seeds of the {scale}, seeds paired, variances"
    " moderated across batch sizes (Smyth), on the same validation examples"
)
PAIRED = (
    "multiple comparisons with the best (Hsu) on typical runs, seeds paired, variances moderated across batch sizes"
    " (Smyth), rounds and blocks of timing, evaluation rounding and misses counted"
)


def score_optimal(of: Sweep) -> ScoreOptimal | None:
    """Return the batch size with the best score within the budget of epochs; None where all scores are the worst."""
    metric = f"median over seeds of the best {number_format.validated(of.goal)} within the budget"
    contest = of.contest(of.score, metric, of_scores=True)
    imported = of.frames.imported
    budget = imported.budget if imported else number_format.epochs(of.frames.experiment.budget.epochs)
    if not of.goal.better(contest.value, of.goal.kind.worst):
        return None
    tolerance = imported.tolerance if imported else None
    near = None if tolerance is None else final_scores.within_tolerance(of.sizes, of.score.medians, tolerance)
    best = optimum(
        ScoreOptimal, contest, score=contest.value, budget=budget, tolerance=tolerance, within_tolerance=near
    )
    scored = of.sizes[np.isfinite(of.score.medians)].tolist()
    improving = [size for size in scored if not of.levelled_off.get(size)]
    claim = "within this budget" if improving else "levelled off"
    return _paired_by_seed(of, best, of.tied_in_score, of.errors_of_examples, claim=claim, still_improving=improving)


def _paired_by_seed(
    of: Sweep, best: ScoreOptimal | None, tied: set[int] | None, errors: Mapping[int, float], **own: Any
) -> ScoreOptimal | None:
    """Return the optimum with the batch sizes that are tied seed by seed, if anything was repeated."""
    if best is None:
        return None
    best = msgspec.structs.replace(best, examples_error=errors.get(best.batch_size), **own)
    if tied is None:
        return best
    scale = "score" if of.goal.kind.ideal is None else "log gap to the ideal score"
    return msgspec.structs.replace(best, tied=sorted(tied | {best.batch_size}), test=PAIRED_SCORES.format(scale=scale))


def score_optimal_by_steps(of: Sweep) -> ScoreOptimal | None:
    """Return the batch size with the best score within the budget of steps."""
    metric = f"median over seeds of the best {number_format.validated(of.goal)} within the step budget"
    contest = of.contest(of.score_by_steps, metric, of_scores=True)
    best = optimum(ScoreOptimal, contest, score=contest.value, budget=f"{of.step_budget:,} steps")
    return _paired_by_seed(of, best, of.tied_in_score_by_steps, of.errors_of_examples_by_steps)


def throughput_optimal(of: Sweep) -> ThroughputOptimal | None:
    """Return the batch size with the most examples per second, and the smallest one that is nearly as fast."""
    per_example = of.step_seconds.shifted(-of.log_sizes)
    return most_examples_per_second(of.contest(per_example, "median over rounds of examples per second"))


def most_examples_per_second(contest: Contest) -> ThroughputOptimal | None:
    """Return the throughput optimum of a contest of seconds per example."""
    best = contest.best
    if best is None:
        return None
    low, high = contest.interval(best)
    per_second = np.exp(-contest.locations.medians)
    return optimum(
        ThroughputOptimal,
        contest,
        interval=(_inverse(high), _inverse(low)),
        examples_per_second=float(per_second[best]),
        smallest_within_5_percent=int(contest.sizes[per_second >= NEARLY * per_second[best]].min()),
    )


def energy_optimal(of: Sweep) -> EnergyOptimal | None:
    """Return the batch size with the least energy to the target."""
    contest = of.contest(of.energy, "median over seeds of joules to the target")
    return optimum(EnergyOptimal, contest, joules=contest.value)


def cost_optimal(of: Sweep) -> CostOptimal | None:
    """Return the batch size with the least cost to the target; None where no price is known."""
    if of.cost is None:
        return None
    contest = of.contest(of.cost, "seconds to the target of the typical run, times the price")
    best = optimum(CostOptimal, contest, cost=contest.value, price_per_hour=of.frames.price_per_hour)
    if best is None or of.tied_in_time is None:
        return best
    # A cost is a time in another unit, so the same batch sizes are tied.
    return msgspec.structs.replace(best, tied=sorted(of.tied_in_time | {best.batch_size}), test=PAIRED)


def _inverse(value: float | None) -> float | None:
    return 1 / value if value else None
