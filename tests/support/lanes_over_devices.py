"""A script for a child process: a small study on as many virtual devices as its CPU is split into; prints JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path

import jax
import msgspec
import tiny_workload
from batchscale.measure.convergence import wave_loop
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.convergence.wave_loop import Checkpoint

TABLES = {
    "learning_rate": {"anchor": 0.01, "anchor_batch_size": 10, "factor": 4.0, "span": 2, "extend": 0},
    "seeds": {"search": 3, "confirm": 2},
}
COLLECTIVE = re.compile(r"all-reduce|all-gather|all-to-all|collective|reduce-scatter")


def main(folder: Path, model: str, saves: int | None) -> None:
    workload = {"model": model, "model_options": tiny_workload.MODEL_OPTIONS[model]}
    session = tiny_workload.session(folder, workload=workload, **TABLES)
    count = len(jax.devices())
    session.host = replace(session.host, machine=msgspec.structs.replace(session.host.machine, device_count=count))
    stage = Convergence(session)
    if saves is not None:
        _kill_after(saves)
    stage.plan()
    stage.run()
    known = [of for one in stage.training.programs.programs.values() for of in one.compiled.items()]
    programs = [(key, program.result()) for key, program in known]
    print(
        json.dumps(
            {
                "devices": count,
                "shapes": sorted({key[1] for key, _ in programs}),
                "collectives": [str(key) for key, one in programs if COLLECTIVE.search(one.as_text() or "")],
                "split": min(_devices_of(one) for _, one in programs),
            }
        )
    )


def _devices_of(program: jax.stages.Compiled) -> int:
    """Return the devices over which a program splits its lanes, without those that hold a copy."""
    first = jax.tree.leaves(program.input_shardings[0])[0]
    return 1 if first.is_fully_replicated else len(first.device_set)


def _kill_after(saves: int) -> None:
    """Let the process be killed once it has saved this many checkpoints."""
    save, left = Checkpoint.save, [saves]
    wave_loop.CHECKPOINT_SECONDS = 0.0

    def counted(checkpoint, wave):
        save(checkpoint, wave)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoint.save = counted


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
