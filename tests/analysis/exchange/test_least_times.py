"""Steps measured elsewhere, at the bound of a step, are the least time to the goal."""

import msgspec
import pytest
from batchscale.analysis.exchange.least_times import needs_of, with_steps
from batchscale.errors import InputError
from planned_devices import plan, step, target


@pytest.fixture
def planned(measured, recorded):
    """Join steps of the recorded runs with a plan for one device."""
    needs = needs_of(recorded, measured.experiment.workload)
    return lambda **given: with_steps(plan(targets=[target(**given)]), needs)


def known(summarized):
    return {cell.batch_size: cell.steps_to_target for cell in summarized.cells if cell.steps_to_target.median}


def test_times_are_steps_times_seconds(planned, summarized):
    steps = known(summarized)
    sizes = sorted(steps)
    (joined,) = planned(sizes=sizes).targets
    assert [time.batch_size for time in joined.least_times] == sizes
    for time in joined.least_times:
        estimate = steps[time.batch_size]
        fewest = estimate.median if estimate.interval[0] is None else estimate.interval[0]
        assert time.least_seconds == pytest.approx(fewest * time.batch_size * 1e-6)
        assert time.likely_seconds[1] == pytest.approx(estimate.median * time.batch_size * 1e-5)
        assert time.least_seconds < time.likely_seconds[0]


def test_a_batch_size_can_be_optimal_unless_another_is_surely_faster(planned, summarized):
    sizes = sorted(known(summarized))
    slow, *others = sizes
    steps = [step(slow, bound_seconds=1e3, likely_seconds=(2e3, 1e4)), *map(step, others)]
    (joined,) = planned(steps=steps).targets
    assert slow not in joined.may_be_optimal
    best = min(time.likely_seconds[1] for time in joined.least_times)
    assert joined.may_be_optimal == [time.batch_size for time in joined.least_times if time.least_seconds <= best]
    assert set(joined.likely_optimal) <= set(joined.may_be_optimal)


def test_what_does_not_fit_has_no_time(planned, summarized):
    sizes = sorted(known(summarized))
    steps = [step(size, fits=size != sizes[0]) for size in sizes]
    (joined,) = planned(steps=steps).targets
    assert [time.batch_size for time in joined.least_times] == sizes[1:]


@pytest.mark.parametrize(
    ("field", "value"), [("model", "vit"), ("model_options", {"width": 7}), ("optimizer_options", {"momentum": 0.5})]
)
def test_steps_of_another_workload_are_refused(measured, recorded, field, value):
    other = msgspec.structs.replace(measured.experiment.workload, **{field: value})
    with pytest.raises(InputError, match=rf"--needs .*: workload.{field}: .*, expected .* as planned"):
        needs_of(recorded, other)


def test_steps_in_another_precision_are_taken(measured, recorded):
    other = msgspec.structs.replace(measured.experiment.workload, precision="bfloat16")
    assert needs_of(recorded, other).cells
