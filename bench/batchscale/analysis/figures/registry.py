"""The table of figures: what each is called, how it is drawn, what to look for in it and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from batchscale.analysis.figures import answer, devices, learning_rates, noise, options, resources, speed, training
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text import alt_text, remarks


@dataclass(frozen=True)
class Plot:
    """One figure. `draw` raises NothingToDrawError where the rows it needs were not measured.

    `finding` says in words what is drawn; `remark` is shown beside the figure where there is one.
    """

    title: str
    draw: Callable[[Frames, Summary], Figure]
    finding: Callable[[Frames, Summary], str]
    caption: str
    remark: Callable[[Summary], str] = remarks.silent

    @property
    def name(self) -> str:
        """The file's stem, and what `--only` takes."""
        return self.draw.__name__


PLOTS = (
    Plot(
        "Time to the target",
        answer.time_to_target,
        alt_text.time_to_target,
        "Look for the lowest point, and for how flat the valley around it is:"
        " ringed sizes cannot be told from the best.",
    ),
    Plot(
        "Best accuracy",
        answer.best_accuracy,
        alt_text.best_accuracy,
        "Higher is better; the axis stretches towards 100%. Ringed sizes cannot be told from the best of their budget.",
        remarks.averaging,
    ),
    Plot(
        "Throughput",
        speed.throughput,
        alt_text.throughput,
        "Where the line bends, the hardware is full; small dots are single rounds.",
        remarks.drift,
    ),
    Plot(
        "Step time",
        speed.step_time,
        alt_text.step_time,
        "Flat on the left, the fixed cost of a step; rising on the right, the cost of its examples.",
    ),
    Plot(
        "Steps to the target",
        training.steps_to_target,
        alt_text.steps_to_target,
        "Where the points leave the dashed line, a larger batch no longer saves steps in proportion.",
    ),
    Plot(
        "Epochs to the target",
        training.epochs_to_target,
        alt_text.epochs_to_target,
        "Flat means each example still counts in full; the rise is what a large batch wastes.",
    ),
    Plot(
        "The frontier of time and compute",
        training.frontier,
        alt_text.frontier,
        "To the left is less serial time, downwards is less compute; no batch size has both.",
    ),
    Plot(
        "Learning curves",
        training.learning_curves,
        alt_text.learning_curves,
        "The same runs over epochs and over seconds: the order changes. Shades span the seeds.",
    ),
    Plot(
        "Best learning rate",
        learning_rates.best_learning_rate,
        alt_text.best_learning_rate,
        "Compare the slope with the two rules, and mind points at the edge of the rates tried.",
    ),
    Plot(
        "Every learning rate",
        learning_rates.rate_map,
        alt_text.rate_map,
        "The bright ridge is the best rate, each with the options that are best for it; in grey cells the"
        " median run did not reach the target.",
    ),
    Plot(
        "Options beside the rate",
        options.searched_options,
        alt_text.searched_options,
        "Each point is at the learning rate that is best with that value: where lines part, the option matters."
        " A line ends where no run with its value reached the target, or all were stopped since they could not win.",
    ),
    Plot(
        "Gradient noise scale",
        noise.gradient_noise_scale,
        alt_text.gradient_noise_scale,
        "It foretells the critical batch size within an order of magnitude, and grows as training goes on.",
        remarks.without_gradient_noise,
    ),
    Plot(
        "Gradient variance",
        noise.gradient_variance,
        alt_text.gradient_variance,
        "Each line is one batch size cut into parts at the same parameters; parallel to the dashed line is the law.",
    ),
    Plot(
        "Memory",
        resources.memory,
        alt_text.memory,
        "What the program needs at each batch size, up to where it no longer fits.",
    ),
    Plot(
        "Roofline",
        resources.roofline,
        alt_text.roofline,
        "Distance from the ceiling is arithmetic the machine could do and this program does not. Above its slope,"
        " caches serve what would else be copied from memory.",
        remarks.binding,
    ),
    Plot(
        "Energy",
        resources.energy,
        alt_text.energy,
        "The least energy per example and the least energy to the target need not be at the same batch size.",
    ),
    Plot(
        "Several devices",
        devices.data_parallel,
        alt_text.data_parallel,
        "Distance from the dashed line is what sharing the work and adding the gradients costs.",
    ),
)
