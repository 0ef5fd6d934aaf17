"""Numbers and lists as a person would write them: every unit shown on a page, in a figure or on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from batchscale.config.goal import Goal

Interval = Sequence[float | None]
Form = Callable[[float], str]

NEVER = "not reached"
"""An infinite duration, or an end of an interval that is null."""
UNKNOWN_INTERVAL = "interval unknown"
WIDE, SAYS_NOTHING = 1e3, 1e6
"""Ratios of the ends of an interval of durations above which each has its own unit, and which say hardly anything."""


def number(value: float, digits: int = 3) -> str:
    """Return a plain number with `digits` significant digits, thousands separated, without an exponent below 10^15."""
    if not math.isfinite(value):
        return "infinite" if value > 0 else "unknown"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    shown = f"{value:.{decimals}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown and abs(value) < 1e-3 else shown


def exponent(value: float) -> str:
    """Return the power of a fit; one that is only the rounding of the fit is 0."""
    return number(round(value, 4), 2)


def whole(value: float) -> str:
    """Return a whole number, such as a batch size."""
    return f"{value:.0f}"


def batch_sizes(sizes: Iterable[int]) -> str:
    """Return `batch size 4`, or `batch sizes 4, 16 and 64`."""
    found = list(sizes)
    return f"batch size{'s' * (len(found) != 1)} {listed(found)}"


def batch_size(size: int, tokens_per_example: int | None) -> str:
    """Return `64`, or `64 (4,096 tokens)` where the data is text."""
    return f"{size} ({size * tokens_per_example:,} tokens)" if tokens_per_example else f"{size}"


def option(name: str) -> str:
    """Return the name of an optimizer option in words."""
    return name.replace("_", " ")


def options(values: Mapping[str, float]) -> list[str]:
    """Return each optimizer option with its value, in words."""
    return [f"{option(name)} {value:g}" for name, value in sorted(values.items())]


def assignments(values: Mapping[str, float]) -> str:
    """Return optimizer options for programs to read, each with its value in full precision."""
    return ";".join(f"{name}={value!r}" for name, value in sorted(values.items()))


def point(learning_rate: float, searched: Mapping[str, float]) -> str:
    """Return a learning rate and the options that were searched with it."""
    return ", ".join([number(learning_rate), *options(searched)])


def best_rate(*, effective: bool) -> str:
    """Return the subject of a sentence on how the best rate grows with the batch size."""
    return "The best effective rate, rate / (1 - momentum)," if effective else "The best rate"


def short(value: float) -> str:
    """Return a number for an axis or a crowded table: 950, 12.3k, 4.1M, 2G."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.3g}{letter}"
    return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def tick(value: float, base: int = 10) -> str:
    """Return a number for an axis; powers of two are written out."""
    return f"{value:.0f}" if base == 2 and 1 <= value < 1e6 else short(value)


def seconds(value: float) -> str:
    """Return a duration in the unit a person would use, with three significant digits."""
    if not math.isfinite(value):
        return NEVER
    scale, unit = _time_unit(value)
    return f"{number(value / scale)} {unit}"


def duration(value: float) -> str:
    """Return a guess of a duration, with two significant digits."""
    scale, unit = _time_unit(value)
    return f"{number(value / scale, 2)} {unit}"


def seconds_between(interval: Interval, around: float) -> str:
    """Return an interval of durations, both ends in the unit that suits `around`, which is named once.

    Ends that are far apart have a unit each, and an interval that says hardly anything is called so.
    """
    low, high = interval
    if low is not None and high is not None and low > 0 and high > WIDE * low:
        hardly = ", hardly bounded by these rows" if high > SAYS_NOTHING * low else ""
        return f"{seconds(low)} to {seconds(high)}{hardly}"
    scale, unit = _time_unit(around)
    ends = between(interval, lambda end: number(end / scale))
    return ends if ends.endswith((NEVER, UNKNOWN_INTERVAL)) else f"{ends} {unit}"


def _time_unit(value: float) -> tuple[float, str]:
    units = ((7200, 3600.0, "h"), (120, 60.0, "min"), (0.1, 1.0, "s"), (1e-3, 1e-3, "ms"), (1e-6, 1e-6, "µs"))
    return next(((scale, unit) for least, scale, unit in units if value >= least), (1e-9, "ns"))


def examples_per_second(value: float, tokens_per_example: int | None = None) -> str:
    """Return a throughput, in tokens too where the data is text."""
    if tokens_per_example:
        return f"{short(value)} windows/s ({short(value * tokens_per_example)} tokens/s)"
    return f"{short(value)} examples/s"


def flops_per_second(value: float) -> str:
    """Return a rate of floating-point operations."""
    return f"{_with_prefix(value)}FLOP/s"


def bytes_per_second(value: float) -> str:
    """Return a bandwidth, in powers of 1000 as for memory."""
    return f"{_with_prefix(value)}B/s"


def _with_prefix(value: float) -> str:
    sizes = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
    scale, letter = next(((size, letter) for size, letter in sizes if value >= size), (1.0, ""))
    return f"{number(value / scale)} {letter}"


def metric(goal: Goal) -> str:
    """Return the name of a goal's score: the user's, else that of the metric."""
    return goal.name or goal.metric.replace("_", " ")


def validated(goal: Goal) -> str:
    """Return the same where it is not plain that it is a validation score."""
    return goal.name or f"validation {metric(goal)}"


def score(goal: Goal, value: float) -> str:
    """Return a measured score: an accuracy in percent to hundredths, a loss to four digits."""
    return f"{100 * value:.2f}%" if goal.kind.is_share else number(value, 4)


def gain(goal: Goal, value: float) -> str:
    """Return a difference of scores with its sign: accuracies in percentage points; four digits of other scores."""
    if goal.kind.ideal is None:
        return f"{'+' * (value > 0)}{number(value, 4)}"
    return f"{100 * value:+z.2f}" if goal.kind.is_share else f"{value:+z.4f}"


def target(goal: Goal) -> str:
    """Return the threshold of a goal without trailing zeros: an accuracy in percent."""
    if not goal.kind.is_share:
        return f"{goal.threshold:g}"
    return f"{100 * goal.threshold:.2f}".rstrip("0").rstrip(".") + "%"


def goal(of: Goal) -> str:
    """Return a goal as the end of "epochs to ...", such as "97% validation accuracy"."""
    if of.name:
        return f"{article(of.name)} {of.name} of {target(of)}"
    if of.metric == "accuracy":
        return f"{target(of)} validation accuracy"
    return f"{target(of)} validation bits per byte" if of.kind.unit else f"a validation {metric(of)} of {target(of)}"


def sentence(words: str) -> str:
    """Return words as a sentence, with a capital letter and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


def article(name: str) -> str:
    """Return "an" before a name that starts with a vowel, else "a"."""
    return "an" if name[:1].lower() in tuple("aeiou") else "a"


def percent(fraction: float) -> str:
    """Return a fraction in percent, with two significant digits."""
    return f"{number(100 * fraction, 2)}%"


def joules(value: float) -> str:
    """Return an energy."""
    return f"{number(value / 1e3)} kJ" if value >= 1e4 else f"{number(value)} J"


def mebibytes(value: float) -> str:
    """Return a size in memory, in powers of 1024."""
    for size, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= size:
            return f"{number(value / size)} {unit}"
    return f"{value:.0f} B"


def listed(items: Iterable[object]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def between(interval: Interval, form: Form = number, unreached: str = NEVER) -> str:
    """Return an interval as `low to high`; one end that is null was not reached, two mean that there is no interval."""
    if all(end is None for end in interval):
        return UNKNOWN_INTERVAL
    low, high = (unreached if end is None else form(end) for end in interval)
    return low if low == high else f"{low} to {high}"


def with_level(interval: str) -> str:
    """Return an interval in words, with its level of 95%."""
    return f"95% {interval}" if interval == UNKNOWN_INTERVAL else f"95% interval {interval}"


def epochs(count: float) -> str:
    """Return a chosen length of training."""
    return f"{count:g} epoch{'s' * (count != 1)}"


def seeds(fewest: int, most: int) -> str:
    """Return how many seeds the claims rest on."""
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{count} seed{'' if fewest == most == 1 else 's'}"
