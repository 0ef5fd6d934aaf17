"""The speed of a tier's programs, as a trial measures it."""

import io
import time
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest
from batchscale.measure.control import deadline
from batchscale.measure.control.progress import Progress
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence import tiers
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.convergence.tiers import LanePrograms
from batchscale.measure.device.compiled_programs import TuningFile
from batchscale.measure.device.machine import Host
from batchscale.measure.device.platform_policy import POLICIES
from batchscale.measure.session import Session
from batchscale.records import row_files
from batchscale.records.row_types import Trial
from fake_training import best_at, made_up, without_training
from tiny_workload import MODEL_OPTIONS, experiment, grid_of, host, learner, programs, session, shaped


@pytest.mark.parametrize("workers", [1, 2])
def test_lane_examples_and_evaluations_are_counted_over_seeds_settings_and_workers(monkeypatch, workers):
    monkeypatch.setattr(tiers, "steps_to_fill", lambda _, work: work(1) or 10)
    monkeypatch.setattr(tiers, "timed", lambda work, ticks: work(ticks) and 2.0)
    trial = tiers.SpeedTrial(programs(learner("linear", "momentum"), 5), [1, 2], grid_of(), workers, 12)
    assert trial.examples_per_second() == workers * 2 * 6 * 10 * 5 / 2.0
    assert trial.seconds_per_evaluation() == 2.0 / (workers * 2 * 6)


def tuned_by(monkeypatch, folder, model, speed):
    """Tune every tier of a model at pretended speeds of (lowering, microbatch, lanes of a shard)."""
    sizes = {"batch_sizes": {"values": [8, 16, 64]}, "seeds": {"search": 1, "confirm": 1}}
    one = session(folder, workload={"model": model, "model_options": MODEL_OPTIONS[model]}, **sizes)
    one.tuning = TuningFile(folder / "fresh", one.lowerings)
    asked = []

    def pretend(of, lowering, tier, lanes):
        asked.append((lowering, tier.microbatch_size, lanes))
        return speed(*asked[-1])

    def trial(of, tier, lowering, width, *, graph=False):
        width = len(tier.batch_sizes) * 3 if width is None else width
        return SimpleNamespace(
            examples_per_second=lambda: pretend(of, lowering, tier, width), seconds_per_evaluation=lambda: 0.1
        )

    (folder / "fresh").mkdir()
    monkeypatch.setattr(LanePrograms, "speed_trial", trial)
    of = LanePrograms(one)
    return of, [of.tuned(tier) for tier in of.tiers], asked


def test_models_that_the_numbers_were_measured_with_keep_them(monkeypatch, tmp_path):
    of, tuned, asked = tuned_by(monkeypatch, tmp_path, "mlp", lambda *_: 1.0)
    assert {width for _, _, width in asked} == {1}
    assert all(one.shard_settings is None and one.microbatch_size is None for one in tuned)
    assert [of.shard_width(tier, one) for tier, one in zip(of.tiers, tuned, strict=True)] == [1] * len(tuned)
    assert max(tier.microbatch_size for tier in of.tiers) > 4


@pytest.mark.parametrize("late", [["patches"], ["patches", "banded"]], ids=str)
def test_a_lowering_that_is_late_is_not_tried_unless_all_are_and_the_choice_says_so(monkeypatch, tmp_path, late):
    one = session(tmp_path, workload={"model": "lenet", "model_options": MODEL_OPTIONS["lenet"]})
    one.tuning = TuningFile(tmp_path, one.lowerings)
    one.progress = Progress(io.StringIO())
    monkeypatch.setitem(POLICIES, "cpu", replace(POLICIES["cpu"], compile_seconds=1.5))
    monkeypatch.setattr(
        tiers, "compile_together", lambda works, *_: [name for name in works if name.split()[1] in late]
    )
    tried = []

    def trial(_, tier, lowering, width, *, graph=False):
        tried.append(lowering)
        return SimpleNamespace(examples_per_second=lambda: 1.0, seconds_per_evaluation=lambda: 0.1)

    monkeypatch.setattr(LanePrograms, "speed_trial", trial)
    of = LanePrograms(one)
    of.compile_trials()
    (tier,) = of.tiers
    found = of.tuned(tier)
    assert set(tried) == {found.lowering} == ({"banded"} if late == ["patches"] else {"patches"})
    assert sorted(found.late) == sorted(late)
    assert (
        "B=10..50 patches training was not compiled within 1.5 s, so it is not tried" in one.progress.output.getvalue()
    )
    assert sorted(TuningFile(tmp_path, one.lowerings)[f"convergence {tier.microbatch_size} [10, 50]"].late) == sorted(
        late
    )


@pytest.mark.parametrize(
    ("speeds", "lowering", "graph"),
    [
        ({("patches", False): 3.0, ("banded", True): 2.0, ("banded", False): 1.0}, "patches", False),
        ({("patches", False): 1.0, ("banded", True): 2.0, ("banded", False): 1.5}, "banded", True),
        ({("patches", False): 1.0, ("patches", True): 1.04, ("banded", False): 0.5}, "patches", False),
    ],
)
def test_lanes_train_by_a_cuda_graph_where_that_is_faster_and_one_that_fails_loses(
    monkeypatch, tmp_path, speeds, lowering, graph
):
    one = session(tmp_path, workload={"model": "lenet", "model_options": MODEL_OPTIONS["lenet"]})
    one.tuning = TuningFile(tmp_path, one.lowerings)
    monkeypatch.setattr(Host, "graphs", True)

    def trial(_, tier, lowering, width, *, graph=False):
        def measured():
            if (lowering, graph) not in speeds:
                raise jax.errors.JaxRuntimeError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
            return speeds[lowering, graph]

        return SimpleNamespace(examples_per_second=measured, seconds_per_evaluation=lambda: 0.1)

    monkeypatch.setattr(LanePrograms, "speed_trial", trial)
    of = LanePrograms(one)
    found = of.tuned(of.tiers[0])
    assert (found.lowering, found.graph) == (lowering, graph)
    assert found.examples_per_second == speeds[lowering, graph]


@pytest.mark.parametrize("why", ["late", "hung"])
def test_a_cuda_graph_that_is_late_or_hung_is_not_tried_and_its_lowering_is(monkeypatch, tmp_path, why):
    one = session(tmp_path, workload={"model": "lenet", "model_options": MODEL_OPTIONS["lenet"]})
    one.tuning, tried, ended = TuningFile(tmp_path, one.lowerings), [], []
    monkeypatch.setattr(Host, "graphs", True)
    late = "patches training as a graph" if why == "late" else "no such program"
    monkeypatch.setattr(tiers, "compile_together", lambda works, *_: [name for name in works if name.endswith(late)])

    def trial(_, tier, lowering, width, *, graph=False):
        tried.append((lowering, graph))
        hangs = why == "hung" and graph and not ended
        return SimpleNamespace(
            examples_per_second=lambda: hang() if hangs else 1.0 + graph, seconds_per_evaluation=lambda: 0.1
        )

    def hang():
        while not ended:
            time.sleep(0.01)
        raise Stopped

    monkeypatch.setattr(deadline.os, "_exit", ended.append)
    monkeypatch.setitem(
        POLICIES, "cpu", replace(POLICIES["cpu"], compile_seconds=1.5, graph_seconds=0.1 if why == "hung" else None)
    )
    monkeypatch.setattr(LanePrograms, "speed_trial", trial)
    of = LanePrograms(one)
    of.compile_trials()
    if why == "hung":
        with pytest.raises(Stopped):
            of.tuned(of.tiers[0])
        assert ended == [2]
        tried.clear()
        one.tuning = TuningFile(tmp_path, one.lowerings)
        of = LanePrograms(one)
    found = of.tuned(of.tiers[0])
    plain = {("patches", False), ("banded", False)}
    assert set(tried) == (plain | {("banded", True)} if why == "late" else plain)
    assert found.late == ()
    assert (found.lowering, found.graph) == (("banded", True) if why == "late" else ("patches", False))


def test_a_graph_is_another_program_next_to_the_plain_one():
    plain = programs(learner("linear", "momentum"), 5)
    before = plain.compilations
    graph = replace(plain, graph=True)
    assert graph.program((1, 1)) is not plain.program((1, 1))
    assert graph.evaluation((1, 1), plain.validation_split) is plain.evaluation((1, 1), plain.validation_split)
    assert plain.compilations == graph.compilations == before + 2


@pytest.mark.slow
@pytest.mark.parametrize(("best", "width"), [(4, 1), (4, 4), (16, 1), (16, None)])
def test_the_fastest_microbatch_and_width_are_found_and_used(monkeypatch, tmp_path, best, width):
    def speed(_, microbatch, lanes):
        near = 1.0 if microbatch == min(best, 8) or microbatch == best else 0.5
        order = {1: 1, 4: 4, None: 5}[width]
        return 100 * near * (2 ** -abs(min(lanes, 5) - order))

    of, tuned, _ = tuned_by(monkeypatch, tmp_path, "vit", speed)
    assert of.widest_microbatch == best
    assert [one.shard_settings for one in tuned] == [width] * len(tuned)
    assert of.shard_width(of.tiers[0], tuned[0]) == width
    again = LanePrograms(of.session)
    assert [again.tuned(tier) for tier in again.tiers] == tuned


@pytest.mark.slow
@pytest.mark.parametrize(("fastest", "lanes"), [(1, 1), (3, 3)])
def test_trials_that_mapping_slows_down_train_one_after_another_and_their_rows_say_so(
    monkeypatch, tmp_path, fastest, lanes
):
    of, _, _ = tuned_by(monkeypatch, tmp_path, "vit", lambda *shape: 100.0 / (1 + abs(min(shape[2], 3) - fastest)))
    without_training(monkeypatch, made_up(best_at(0.011)))
    of.session.prepare_folder()
    Convergence(of.session).run()
    rows = [row for row in row_files.read(tmp_path / "convergence.jsonl") if isinstance(row, Trial)]
    assert max(row.lanes for row in rows) == lanes
    assert {row.microbatch_size for row in rows} == {of.widest_microbatch}


@pytest.mark.parametrize(
    ("model", "input_shape", "lowerings"),
    [("lenet", (8, 8, 1), ["patches", "banded"]), ("resnet", (28, 28, 1), ["patches"])],
)
def test_a_lowering_that_multiplies_the_arithmetic_is_not_tried(tmp_path, model, input_shape, lowerings):
    workload = {"model": model, "model_options": MODEL_OPTIONS[model]}
    study = experiment(workload=workload, batch_sizes={"values": [1]})
    assert list(Session(study, shaped(input_shape, 10), host(), tmp_path).lowerings) == lowerings
