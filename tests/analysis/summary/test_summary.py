"""The summary of a folder: every promised key, the truth where it is known, and a reason where there is no answer."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import simulated_folder
from batchscale.analysis import number_format
from batchscale.analysis.frames.amounts import Amounts
from batchscale.analysis.metrics import observations, scaling
from batchscale.analysis.metrics.sweep import Fit
from batchscale.analysis.pages import tables
from batchscale.analysis.summary import build
from batchscale.analysis.text import answer
from batchscale.config.vocabulary import Point
from batchscale.decisions.rate_choice import Choice
from batchscale.errors import InputError
from batchscale.records.row_types import Limit, Trial
from simulated_answers import TRUTH, answered, cell, verdict

KEYS = {
    "": "schema experiment machine workload goal time_optimal score_optimal throughput_optimal"
    " critical_batch_size cells",
    "workload": "dataset model optimizer",
    "time_optimal": "batch_size seconds interval tied at_edge fitted_batch_size",
    "score_optimal": "batch_size score interval tied budget at_edge",
    "throughput_optimal": "batch_size examples_per_second smallest_within_5_percent",
    "energy_optimal": "batch_size joules interval tied at_edge",
    "critical_batch_size": "value interval fit_error",
}
CELL_KEYS = (
    "batch_size status loop examples_per_second seconds_per_step best_learning_rate at_grid_edge epochs_to_target"
    " time_to_target best_score compile_seconds peak_bytes"
)


@pytest.fixture(scope="module")
def found():
    return answered()


def test_every_promised_key_is_there(found):
    plain = msgspec.to_builtins(found)
    for part, keys in KEYS.items():
        assert set(keys.split()) <= set(plain[part] if part else plain)
    assert set(CELL_KEYS.split()) <= set(plain["cells"][0])
    assert set(plain["cells"][0]["time_to_target"]) == {"median", "interval"}


def test_a_summary_survives_its_file(found, tmp_path):
    build.write(tmp_path, found)
    assert build.read(tmp_path) == found
    (tmp_path / "summary.json").write_text('{"schema": 2}')
    with pytest.raises(InputError, match="not valid"):
        build.read(tmp_path)


def test_the_same_rows_give_the_same_summary(found):
    assert answered() == found


def test_the_truth_is_found(found):
    assert TRUTH.time_optimal_batch_size in found.time_optimal.tied
    assert found.throughput_optimal.batch_size == 2048
    assert found.throughput_optimal.smallest_within_5_percent == 1024
    low, high = found.critical_batch_size.interval
    assert low <= TRUTH.critical_batch_size <= high
    low, high = found.affine_step_time.interval
    assert low <= TRUTH.fixed_seconds / TRUTH.seconds_per_example <= high
    assert found.time_optimal.fitted_batch_size == pytest.approx(100, rel=0.25)
    low, high = found.learning_rates.overall.interval
    assert low <= TRUTH.rate_exponent <= high
    assert found.learning_rates.rule == "sqrt"
    assert found.gradient_noise.value == pytest.approx(300, rel=0.05)
    assert found.energy_optimal.joules == pytest.approx(50 * found.time_optimal.seconds, rel=1e-6)


def test_time_is_steps_times_seconds_per_step(found):
    for one in found.cells:
        joined = one.steps_to_target.median * one.seconds_per_step
        assert one.time_to_target.median == pytest.approx(joined, rel=1e-9)
        assert one.examples_per_second == pytest.approx(one.batch_size / one.seconds_per_step)


def test_times_are_those_of_the_faster_loop(found):
    assert {one.loop for one in found.cells} == {"scan"}
    assert {one.loop for one in answered(dispatch_seconds=-5e-4).cells} == {"dispatch"}


@pytest.mark.parametrize(("sizes", "edge"), [((128, 256, 512), "smallest"), ((8, 16, 32), "largest")])
def test_an_optimum_at_the_end_of_the_sweep_says_so(sizes, edge):
    best = answered(batch_sizes=sizes, seed_noise=0.02).time_optimal
    assert best.at_edge
    assert best.edge == edge


def test_an_optimum_that_memory_ends_is_not_the_sweeps_edge():
    found = answered(out_of_memory=(64, 128, 256, 512, 1024, 2048), seed_noise=0.02)
    assert found.time_optimal.edge == "memory"
    assert not found.time_optimal.at_edge
    assert cell(found, 64).status == "out_of_memory"
    assert cell(found, 64).seconds_per_step is None
    assert "did not fit" in found.verdicts[7].numbers


def test_a_batch_that_does_not_fit_is_answered_in_microbatches_and_marked():
    found = answered(out_of_memory=(1024, 2048), microbatches=4, seed_noise=0.02)
    beyond = cell(found, 2048)
    assert (beyond.status, beyond.accumulation, cell(found, 512).accumulation) == ("ok", 4, 1)
    assert beyond.time_to_target.median is not None
    assert tables.loop(beyond).endswith(", 4 microbatches a step")
    assert not {1024, 2048} & set(found.affine_step_time.batch_sizes)
    assert "1,024, 2,048 did not fit" in found.verdicts[7].numbers
    assert verdict(found, 8) == "supported"


def test_the_largest_batch_size_is_what_was_found_last(found):
    largest = answered(largest_that_fits=5000).max_batch_size
    assert (largest.batch_size, largest.bound, largest.confirmed) == (5000, "memory", True)
    assert largest.predicted_bytes < largest.memory_bytes
    assert (found.max_batch_size, found.max_batch_size_reason) == (None, "no search for it was run")


def test_why_there_is_no_largest_batch_size_is_told():
    failed = Limit(**simulated_folder.origin(TRUTH), memory_bytes=10, message="not even one example fits")
    other = Limit(**simulated_folder.origin(TRUTH), memory_bytes=10, precision="bfloat16", batch_size=8, bound="memory")
    found = answered(rows=[*simulated_folder.rows(TRUTH), other, failed])
    assert found.max_batch_size_reason == "not even one example fits"


def test_what_is_not_reached_is_null_with_a_status():
    found = answered(ceilings={2048: 0.9})
    missed = cell(found, 2048)
    assert missed.status == "not_reached"
    assert missed.time_to_target.median is None
    assert missed.examples_per_second is not None
    assert verdict(found, 3) == "supported"


def test_where_nothing_is_reached_there_is_no_time_but_a_reason():
    found = answered(ceiling=0.5)
    assert found.time_optimal is None
    assert "95%" in found.time_optimal_reason
    assert found.score_optimal is not None
    assert found.critical_batch_size is None
    assert found.critical_batch_size_reason


def test_divergence_has_a_status_of_its_own():
    found = answered(diverges_above=0.1)
    assert {one.status for one in found.cells} == {"diverged"}


def test_an_empty_folder_is_answered_with_reasons():
    found = answered(rows=[])
    assert found.cells == []
    assert found.time_optimal_reason == "no training runs were measured"
    assert found.throughput_optimal_reason == "no batch size has timed rounds"
    assert {one.verdict for one in found.verdicts} == {"undecided"}


def test_half_a_folder_says_what_it_can():
    rows = simulated_folder.rows(TRUTH)
    halves = [row for row in rows if hasattr(row, "curve")], [row for row in rows if hasattr(row, "loop")]
    trained, timed = (answered(rows=half) for half in halves)
    assert {one.status for one in (*trained.cells, *timed.cells)} == {"not_measured"}
    assert trained.critical_batch_size is not None
    assert trained.throughput_optimal is None
    assert timed.throughput_optimal is not None
    assert timed.time_optimal is None


def test_claims_rest_on_fresh_seeds_or_say_that_they_do_not(found):
    assert found.claims_on == "confirm"
    rows = [row for row in simulated_folder.rows(TRUTH) if getattr(row, "phase", "search") == "search"]
    searched = answered(rows=rows)
    assert searched.claims_on == "search"
    assert searched.seeds == 1
    assert found.seeds == TRUTH.confirm_seeds
    assert answer.notices(found) == []
    (said,) = answer.notices(searched)
    assert said.startswith("The claims rest on the runs that also chose")


def test_runs_at_the_fixed_rate_chose_no_rate_and_had_none_chosen():
    rows = [row for row in simulated_folder.rows(TRUTH) if getattr(row, "phase", "confirm") == "confirm"]
    fixed = [msgspec.structs.replace(row, phase="fixed") if isinstance(row, Trial) else row for row in rows]
    found = answered(rows=fixed)
    assert {cell.claims_on for cell in found.cells} == {"fixed"}
    (said,) = answer.notices(found)
    assert said.startswith("The claims on batch sizes ")
    assert said.endswith(" rest on runs at the fixed rate, which was not tuned.")


def test_the_only_batch_size_is_no_end_of_a_sweep():
    (fastest, _) = answer.answer(answered(batch_sizes=(64,)))
    assert "Batch size 64 is the only one tried, so another may be better." in fastest


def test_runs_that_learned_nothing_have_no_best_score():
    rows = [
        msgspec.structs.replace(
            row,
            curve=msgspec.structs.replace(row.curve, accuracy=[0.0] * len(row.curve.scores["accuracy"])),
            status="diverged",
        )
        if hasattr(row, "curve")
        else row
        for row in simulated_folder.rows(TRUTH)
    ]
    found = answered(rows=rows)
    assert found.score_optimal is None
    assert found.score_optimal_reason == "no training run learned anything within the budget"
    assert number_format.score(found.goal, 0.0) == "0.00%"


def test_batch_sizes_that_were_not_confirmed_yet_are_named():
    rows = [
        row for row in simulated_folder.rows(TRUTH) if getattr(row, "phase", "") != "confirm" or row.batch_size < 1024
    ]
    (said,) = answer.notices(answered(rows=rows))
    left = [str(size) for size in TRUTH.batch_sizes if size >= 1024]
    assert said.startswith(
        f"The claims on batch sizes {', '.join(left[:-1])} and {left[-1]} rest on the runs that also"
    )


def test_a_failed_run_is_no_miss(found):
    rows = simulated_folder.rows(TRUTH)
    lost = next(row for row in rows if getattr(row, "phase", "") == "confirm")
    rate, size = lost.learning_rate, lost.batch_size
    failed = msgspec.structs.replace(lost, status="failed", seed=77, steps=0)
    assert cell(answered(rows=[*rows, failed]), size).seeds == cell(found, size).seeds
    assert rate


def test_the_edge_of_a_rate_grid_is_flagged():
    found = answered(search_seeds=3, rate_exponent=0.5, best_rate=0.1)
    moved = [
        row
        for row in simulated_folder.rows(TRUTH)
        if not (hasattr(row, "curve") and row.learning_rate > 1.01 * TRUTH.rate(row.batch_size))
    ]
    assert not any(one.at_grid_edge for one in found.cells)
    assert all(one.at_grid_edge for one in answered(rows=moved).cells)


def test_the_edges_of_the_rate_for_the_target_and_of_that_for_accuracy_are_told_apart(monkeypatch):
    rates = [Point(rate) for rate in (0.1, 0.2, 0.4)]
    choice = Choice(for_target=rates[1], for_score=rates[2], equally_fast=[], tried=rates)
    assert [choice.is_at_edge(point) for point in rates] == [True, False, True]
    made = observations.claims

    def claims(*of):
        return {
            size: replace(claim, choice=choice, for_score=claim.for_score.assign(learning_rate=0.4))
            for size, claim in made(*of).items()
        }

    monkeypatch.setattr(observations, "claims", claims)
    found = answered()
    assert {(one.at_grid_edge, one.at_grid_edge_for_score) for one in found.cells} == {(False, True)}
    told = {fact.name: fact.more for fact in answer.facts(found)}
    assert told["Most accurate"].endswith("at learning rate 0.400, at the edge of the rates tried")
    assert "edge" not in told["Fastest to the target"]


def test_small_batches_that_need_more_epochs_are_below_the_useful_range():
    found = answered(outliers={16: 3.0, 32: 2.0})
    assert [one.regime for one in found.cells[:2]] == ["below_useful_range"] * 2
    low, high = found.critical_batch_size.interval
    assert low <= TRUTH.critical_batch_size <= high


def test_regimes_follow_the_hyperbola(found):
    regimes = {one.batch_size: one.regime for one in found.cells}
    assert regimes[16] == "perfect_scaling"
    assert regimes[256] == "diminishing_returns"
    assert regimes[2048] == "saturated"


def test_without_a_fit_a_batch_size_is_held_against_the_smaller_ones():
    """Examples that only noise lets fall towards larger batches are no diminishing returns."""
    examples = np.log([1.3, 1.0, np.inf, 1.1, 1.5])
    sweep = SimpleNamespace(
        sizes=np.array([16, 32, 64, 128, 256]),
        training=SimpleNamespace(medians=examples),
        amounts=Amounts(),
        below_useful_range=np.zeros(5, bool),
        examples_fit=Fit(None, "for a test"),
    )
    regimes = ["perfect_scaling", "perfect_scaling", None, "perfect_scaling", "diminishing_returns"]
    assert scaling.regimes(sweep) == regimes
    below = SimpleNamespace(**{**vars(sweep), "below_useful_range": np.arange(5) == 0})
    assert scaling.regimes(below) == ["below_useful_range", *regimes[1:]]
