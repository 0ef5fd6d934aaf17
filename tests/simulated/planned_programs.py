"""Programs that were never compiled: their facts, and what their examples look like."""

import msgspec
from batchscale.measure.ahead.program_facts import Facts
from batchscale.measure.data.made_up import ArraySpec, ExampleSpec

SPEC = ExampleSpec(
    task="classification",
    classes=10,
    inputs=ArraySpec(shape=[100], dtype="float32", levels=0),
    labels=ArraySpec(shape=[], dtype="int32", levels=10),
)
NOTHING = Facts(
    compile_cpu_seconds=1.0,
    argument_bytes=0,
    output_bytes=0,
    temp_bytes=0,
    alias_bytes=0,
    total_bytes=0,
    kernels=0,
    traffic_bytes=0,
    loops=1,
    conditionals=0,
    collectives={},
    collective_bytes=0,
    on_host=[],
    recomputed=0,
)


def facts(**changes):
    return msgspec.structs.replace(NOTHING, **changes)
