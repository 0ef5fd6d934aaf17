"""Check whether results may be compared, and describe how they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchscale.analysis import number_format
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.outside_tables import UNNAMED
from batchscale.analysis.metrics import hardware
from batchscale.errors import InputError
from batchscale.printable import printable

# Differences in these are reported, not refused: people compare precisions, and where runs end after the target moves
# no crossing.
MAY_DIFFER = ("workload.precision", "confirm.past_target")
MATTERS_TO_SPEED = (
    "workload.dataset",
    "workload.dataset_options",
    "workload.task",
    "workload.model",
    "workload.model_options",
    "workload.optimizer",
    "workload.optimizer_options",
    "search",
)
ABSENT = "not set"
UNMEASURED = "not measured"
UNLIKE_MACHINES = 1.25
"""Ratio of measured rates of matrix products from which two machines are unlike, whatever their names are."""


def refuse_unlike(names: Sequence[str], sides: Sequence[Frames], *, throughput_only: bool) -> None:
    """Check every folder against the first.

    Raises:
        InputError: when workloads, targets or protocols differ. It names one field with both values, if possible one
            that matters to speed.
    """
    refuse_unnamed(names, sides)
    first = flattened(sides[0].experiment.protocol)
    for name, side in zip(names[1:], sides[1:], strict=True):
        other = flattened(side.experiment.protocol)
        unlike = [field for field in {*first, *other} if first.get(field, ABSENT) != other.get(field, ABSENT)]
        refused = [field for field in unlike if sets_speed(field) or not (throughput_only or field in MAY_DIFFER)]
        if refused:
            field = min(refused, key=lambda field: (not sets_speed(field), field))
            left, right = printable(first.get(field, ABSENT)), printable(other.get(field, ABSENT))
            relaxed = "" if sets_speed(field) else "; --throughput-only compares speeds of one workload alone"
            found = f"{left} in {names[0]}, {right} in {name}"
            raise InputError(f"{field}: {found}: these are not the same experiment{relaxed}")
        refuse_other_data(name, side, sides[0])


def refuse_other_data(name: str, side: Frames, first: Frames) -> None:
    """Check that two folders were measured on the same data and the same code of the user.

    Raises:
        InputError: when a hash differs. Folders of earlier versions have none.
    """
    if side.data and first.data and (changed := first.data.changed(side.data)):
        raise InputError(f"{name}: measured on something else ({changed}), expected the same data and code")


def refuse_unnamed(names: Sequence[str], sides: Sequence[Frames]) -> None:
    """Check that the workloads of folders made from tables are known by name.

    Raises:
        InputError: names the first folder whose workload has no name.
    """
    for name, side in zip(names, sides, strict=True):
        if side.imported and side.experiment.workload.dataset == UNNAMED:
            raise InputError(f"{name}: made from tables of an unnamed workload, expected analyze --workload NAME")


def flattened(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten nested tables to one level of dotted keys."""
    found: dict[str, object] = {}
    for key, value in table.items():
        path = f"{prefix}{key}"
        found |= flattened(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found


def labels(sides: Sequence[Frames]) -> list[str]:
    """Return a name for each side: its machine, with what differs where a machine occurs twice."""
    machines = [side.machine.machine.name for side in sides]
    traits = _traits_of(sides)
    different = [key for key in traits[0] if len({str(trait.get(key)) for trait in traits}) > 1]
    named = []
    for at, machine in enumerate(machines):
        extra = ", ".join(f"{key} {traits[at].get(key, ABSENT)}".strip() for key in different)
        named.append(f"{machine} ({extra})" if machines.count(machine) > 1 and extra else machine)
    return [f"{name} #{at + 1}" if named.count(name) > 1 else name for at, name in enumerate(named)]


def differences(sides: Sequence[Frames]) -> list[str]:
    """Return what differs between the sides, each with its values."""
    traits = _traits_of(sides)
    keys = dict.fromkeys(key for trait in traits for key in trait)
    values = {key: [trait.get(key, ABSENT) for trait in traits] for key in keys}
    return [f"{key}: {' against '.join(found)}" for key, found in values.items() if len(set(found)) > 1]


def sets_speed(field: str) -> bool:
    """Return True if the time of a step depends on this field of the protocol."""
    return any(field == known or field.startswith(f"{known}.") for known in MATTERS_TO_SPEED)


def _traits_of(sides: Sequence[Frames]) -> list[dict[str, str]]:
    """Return the traits of each side, with the measured speed of the machines where these are unlike.

    Machines of one name can be unlike: the speed of a cloud machine depends on its neighbours.
    """
    traits = [_traits(side) for side in sides]
    precisions = {side.experiment.workload.precision for side in sides}
    if len(precisions) > 1:
        return traits
    (precision,) = precisions
    peaks = [hardware.peak(side, precision) for side in sides]
    known = [peak for peak in peaks if peak]
    if known and max(known) > UNLIKE_MACHINES * min(known):
        for trait, peak in zip(traits, peaks, strict=True):
            trait["matrix products"] = number_format.flops_per_second(peak) if peak else UNMEASURED
    return traits


def _traits(side: Frames) -> dict[str, str]:
    """Return the experiment and the settings that may differ between two runs on one machine."""
    environments = side.machine.environments.values()
    versions = sorted({one.packages.get("jax", "unknown") for one in environments})
    settings = sorted({f"{key}={value}" for one in environments for key, value in one.settings.items()})
    flags = sorted({one.xla_flags for one in environments if one.xla_flags})
    known = {
        "time to the target": [side.amounts.timed_as],
        "experiment": [side.experiment.name],
        "precision": [side.experiment.workload.precision],
        "JAX": versions,
        "settings": settings,
        "XLA flags": flags,
    }
    return {key: " ".join(values) for key, values in known.items() if values}
