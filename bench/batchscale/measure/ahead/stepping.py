"""Plan the steps of an experiment on one described device: each batch size of the sweep, then the largest that fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from batchscale.config.vocabulary import CellKey
from batchscale.measure.ahead import bounds, programs
from batchscale.measure.ahead.program_facts import Facts, compiled_facts, cpu_seconds
from batchscale.measure.ahead.targets import Target, devices
from batchscale.measure.ahead.too_large import too_large
from batchscale.measure.control.failures import FAILURES, failure_of
from batchscale.measure.data.made_up import ExampleSpec
from batchscale.measure.session import Session
from batchscale.measure.training import flop_count
from batchscale.records.plan_file import PlannedStep, TargetPlan

MOST_TRIALS = 8
"""Compilations to find the largest batch size that fits."""
MOST_CPU_SECONDS = 150.0
"""Once compiling for a device has taken this long, no further program is compiled; some take minutes for a TPU."""
CLOSE_ENOUGH = 1.1
"""The search ends once the smallest batch that does not fit is at most this many times the largest that does."""
ROUNDED_TO = 16
"""Batch sizes tried beyond the sweep are multiples of it."""


@dataclass
class Planner:
    """The steps of one session on one device.

    Attributes:
        session: The experiment on a described machine.
        target: The device.
        spec: What an example looks like.
        see: Called with each step once it is planned.
        steps: Planned so far, by batch size.
        cpu_seconds: Spent compiling.
    """

    session: Session
    target: Target
    spec: ExampleSpec
    see: Callable[[PlannedStep], object] = lambda _: None
    steps: dict[int, PlannedStep] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    @cached_property
    def devices(self) -> tuple[Any, ...]:
        """The device to compile for."""
        return tuple(devices(self.target))

    @cached_property
    def lowering(self) -> str | None:
        """How convolutions are computed."""
        return programs.usual_lowering(self.session)

    def plan(self, name: str) -> TargetPlan:
        """Compile every step and return what it shows."""
        for size in self.session.batch_sizes:
            self.step(size)
        largest = self.largest()
        return TargetPlan(
            name=name,
            title=self.target.title,
            memory_bytes=self.target.memory_bytes,
            pool_bytes=self.target.pool_bytes,
            flops_per_second=self.target.flops[self.session.experiment.workload.precision],
            bytes_per_second=self.target.bytes_per_second,
            lowering=self.lowering,
            steps=[self.steps[size] for size in sorted(self.steps)],
            largest_batch_size=largest,
            all_examples_fit=largest == self.session.train_examples,
            larger_tried=self.cpu_seconds <= MOST_CPU_SECONDS or self._found_closely(largest),
            recomputes_from=min(
                (size for size, one in self.steps.items() if one.recomputes and one.fits), default=None
            ),
            compile_cpu_seconds=self.cpu_seconds,
            message=self._why_nothing(),
        )

    def _found_closely(self, largest: int | None) -> bool:
        """Return True if a longer search would have found no batch size that is larger by more than CLOSE_ENOUGH."""
        too_large = (size for size, step in self.steps.items() if step.fits is False)
        limit = min(too_large, default=math.inf)
        return largest is not None and (largest == self.session.train_examples or limit <= CLOSE_ENOUGH * largest)

    def _why_nothing(self) -> str | None:
        """Return the first reason why a step could not be planned; None where one could."""
        if any(step.fits is not None for step in self.steps.values()):
            return None
        return next((step.message for step in self.steps.values()), "there is no batch size to plan")

    def largest(self) -> int | None:
        """Return the largest batch size found to fit: of the sweep, or of a search up to the whole train split."""
        fitting = [size for size in self.steps if self.steps[size].fits]
        if not fitting:
            return None
        low = max(fitting)
        if self.cpu_seconds > MOST_CPU_SECONDS:
            return low
        above = [size for size in self.steps if size > low]
        high = min(above, default=self.session.train_examples)
        if not above and (high == low or self.step(high).fits):
            return high
        for size in self._between(low, high):
            self.step(size)
        return max(size for size in self.steps if self.steps[size].fits)

    def _between(self, low: int, high: int) -> Iterator[int]:
        """Yield sizes to try between one that fits and one that does not; each is planned before the next is asked."""
        for _ in range(MOST_TRIALS):
            if self.cpu_seconds > MOST_CPU_SECONDS:
                return
            known = self.steps
            low = max(size for size in known if known[size].fits)
            high = min((size for size in known if size > low), default=high)
            middle = round(math.sqrt(low * high) / ROUNDED_TO) * ROUNDED_TO
            if high <= low * CLOSE_ENOUGH or not low < middle < high:
                return
            yield middle

    def step(self, size: int) -> PlannedStep:
        """Compile the step of a batch size, once."""
        if size not in self.steps:
            self.steps[size] = self._planned(size)
            self.see(self.steps[size])
        return self.steps[size]

    def _planned(self, size: int) -> PlannedStep:
        precision = self.session.experiment.workload.precision
        key = CellKey(size, "scan", precision=precision)
        flops = self._flops_per_example and self._flops_per_example * size
        state = programs.abstract_state(self.session.learner(precision, self.lowering))
        must_travel = bounds.compulsory_bytes(self.target, self.spec, state, size, self.session.train_examples)
        least, bound_by = bounds.bound(self.target, precision, flops, must_travel)
        known = {"batch_size": size, "flops": flops, "compulsory_bytes": must_travel}
        known |= {"bound_seconds": least, "bound_by": bound_by}
        if self.cpu_seconds > MOST_CPU_SECONDS:
            return PlannedStep(**known, message=f"not compiled: {self.cpu_seconds:.0f} s were spent on other sizes")
        start = cpu_seconds()
        try:
            call = programs.cell_call(self.session, key, self.lowering, self.devices)
            facts = compiled_facts(self.target, self.devices, *call, donated=True)
        except FAILURES as error:
            self.cpu_seconds += cpu_seconds() - start
            return self._failed(known, failure_of(error).message)
        self.cpu_seconds += facts.compile_cpu_seconds
        seconds, limited_by = bounds.likely(self.target, precision, flops, least, facts)
        return PlannedStep(
            **known,
            **self._memory(facts),
            traffic_bytes=facts.traffic_bytes,
            kernels=facts.kernels,
            likely_seconds=seconds,
            likely_limited_by=limited_by,
        )

    def _failed(self, known: dict, message: str) -> PlannedStep:
        if found := too_large(self.target, message):
            return PlannedStep(**known, memory_bytes=found.total_bytes, fits=False, message=message)
        return PlannedStep(**known, message=message)

    def _memory(self, facts: Facts) -> dict:
        return {
            "memory_bytes": facts.total_bytes,
            "temp_bytes": facts.temp_bytes,
            "fits": facts.total_bytes <= self.target.pool_bytes,
            "recomputes": facts.recomputed > 0,
        }

    @cached_property
    def _flops_per_example(self) -> float | None:
        """FLOPs of the model under the lowering that adds no arithmetic."""
        workload, lowering = self.session.experiment.workload, "xla" if self.session.convolves else None
        learner, (split, _, _) = self.session.learner(workload.precision, lowering), self.session.splits
        return flop_count.flops_per_example(learner, self.session.batch_sizes[0], split)
