"""Numbers and lists as a person would write them; one home for every unit shown on a page, a figure or a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

Interval = Sequence[float | None]
Form = Callable[[float], str]

NEVER = "not reached"
UNKNOWN_INTERVAL = "interval unknown"


def number(value: float, digits: int = 3) -> str:
    """A plain number with `digits` significant digits, thousands separated, never in exponent form below 10^15."""
    if not math.isfinite(value):
        return "infinite" if value > 0 else "unknown"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    shown = f"{value:.{decimals}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown and abs(value) < 1e-3 else shown


def whole(value: float) -> str:
    """A batch size."""
    return f"{value:.0f}"


def option(name: str) -> str:
    """An optimizer's option."""
    return name.replace("_", " ")


def options(values: Mapping[str, float]) -> list[str]:
    """Optimizer options, each with its value."""
    return [f"{option(name)} {value:g}" for name, value in sorted(values.items())]


def assignments(values: Mapping[str, float]) -> str:
    """Optimizer options for programs to read, each with its whole value."""
    return ";".join(f"{name}={value!r}" for name, value in sorted(values.items()))


def point(learning_rate: float, options_beside: Mapping[str, float]) -> str:
    """A learning rate and the options searched beside it."""
    return ", ".join([number(learning_rate), *options(options_beside)])


def best_rate(*, effective: bool) -> str:
    """What an exponent of learning rates is of, at the head of a sentence."""
    return "The best effective rate, rate / (1 - momentum)," if effective else "The best rate"


def short(value: float) -> str:
    """A number for an axis or a crowded table: 950, 12.3k, 4.1M, 2G."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.3g}{letter}"
    return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def tick(value: float, base: int = 10) -> str:
    """A number for an axis; powers of two are written out."""
    return f"{value:.0f}" if base == 2 and 1 <= value < 1e6 else short(value)


def seconds(value: float) -> str:
    """A duration in the unit a person would use, three significant digits."""
    if not math.isfinite(value):
        return NEVER
    scale, unit = _time_unit(value)
    return f"{number(value / scale)} {unit}"


def seconds_between(interval: Interval, around: float) -> str:
    """An interval of durations, both ends in the unit of `around`, which is named once."""
    scale, unit = _time_unit(around)
    ends = between(interval, lambda end: number(end / scale))
    return ends if ends.endswith((NEVER, UNKNOWN_INTERVAL)) else f"{ends} {unit}"


def _time_unit(value: float) -> tuple[float, str]:
    units = ((7200, 3600.0, "h"), (120, 60.0, "min"), (0.1, 1.0, "s"), (1e-3, 1e-3, "ms"), (1e-6, 1e-6, "µs"))
    return next(((scale, unit) for least, scale, unit in units if value >= least), (1e-9, "ns"))


def examples_per_second(value: float) -> str:
    """A throughput."""
    return f"{short(value)} examples/s"


def flops_per_second(value: float) -> str:
    """A rate of floating-point operations."""
    return f"{_with_prefix(value)}FLOP/s"


def bytes_per_second(value: float) -> str:
    """A bandwidth, in powers of 1000 as memory's is stated."""
    return f"{_with_prefix(value)}B/s"


def _with_prefix(value: float) -> str:
    sizes = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
    scale, letter = next(((size, letter) for size, letter in sizes if value >= size), (1.0, ""))
    return f"{number(value / scale)} {letter}"


def accuracy(value: float) -> str:
    """A measured share of 1 in percent, to hundredths."""
    return f"{100 * value + 0.0:.2f}%"  # zero has a sign, and an accuracy is minimised as its negative


def points(value: float) -> str:
    """A difference of accuracies in points, with its sign."""
    return f"{100 * value:+z.2f}"


def target(value: float) -> str:
    """An accuracy that someone chose, in percent without trailing zeros."""
    return f"{100 * value:.2f}".rstrip("0").rstrip(".") + "%"


def percent(fraction: float) -> str:
    """A fraction in percent, two significant digits."""
    return f"{number(100 * fraction, 2)}%"


def joules(value: float) -> str:
    """An energy."""
    return f"{number(value / 1e3)} kJ" if value >= 1e4 else f"{number(value)} J"


def mebibytes(value: float) -> str:
    """A size in memory."""
    for size, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= size:
            return f"{number(value / size)} {unit}"
    return f"{value:.0f} B"


def listed(items: Iterable[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = [str(item) for item in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def between(interval: Interval, form: Form = number, unreached: str = NEVER) -> str:
    """An interval as `low to high`; one end that is null was not reached, two say that there is no interval."""
    if all(end is None for end in interval):
        return UNKNOWN_INTERVAL
    low, high = (unreached if end is None else form(end) for end in interval)
    return low if low == high else f"{low} to {high}"


def with_level(interval: str) -> str:
    """An interval in words, with the level that all have."""
    return f"95% {interval}" if interval == UNKNOWN_INTERVAL else f"95% interval {interval}"


def epochs(count: float) -> str:
    """A length of training that someone chose."""
    return f"{count:g} epoch{'s' * (count != 1)}"


def seeds(fewest: int, most: int) -> str:
    """How many seeds a claim rests on."""
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{count} seed{'' if fewest == most == 1 else 's'}"
