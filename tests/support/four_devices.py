"""A script for a child process that splits its CPU into four virtual devices. It prints results of training as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import msgspec
import numpy as np
import tiny_workload
from batchscale.config.vocabulary import CellKey
from batchscale.measure.run.suite import planned_stages
from batchscale.measure.throughput import timed_loops
from batchscale.records import row_files
from batchscale.records.row_types import Compilation, Round, Trial
from jax.sharding import SingleDeviceSharding

STEPS, BATCH_SIZE = 6, 16
WAYS = (
    ("mlp", "scan", "device"),
    ("lenet", "dispatch", "device"),
    ("mlp", "dispatch", "host"),
    ("tiny_workload:Dropping", "scan", "device"),
)
TABLES = {
    "batch_sizes": {"values": [6, 50]},
    "throughput": {"rounds": 5, "round_seconds": 0.001, "loops": ["scan"]},
    "seeds": {"search": 1, "confirm": 1},
    "budget": {"epochs": 1, "max_epochs": 1},
    "learning_rate": {"span": 0, "extend": 0},
}


def trained(model: str, key: CellKey) -> dict:
    """Return parameters after some steps of a timed loop, the devices that hold them, and one device's FLOPs."""
    seen, ready, call = [], [], jax.stages.Compiled.__call__

    def watched(*arguments):
        ready.append(all(leaf.is_ready() for leaf in jax.tree.leaves(seen)))
        seen[:] = [call(*arguments)]
        return seen[0]

    jax.stages.Compiled.__call__ = watched
    work, compiled, _ = timed_loops.build(tiny_workload.learner(model, "momentum"), tiny_workload.train_split(), key)
    work(STEPS)
    jax.stages.Compiled.__call__ = call
    params = jax.tree.leaves(seen[0][0].params)
    return {
        "params": np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in params]),
        "devices": min(len(leaf.sharding.device_set) for leaf in params),
        "whole": all(leaf.sharding.is_fully_replicated for leaf in params),
        "alone": all(isinstance(leaf.sharding, SingleDeviceSharding) for leaf in params),
        "paced": all(ready),
        "flops": compiled.cost_analysis()["flops"],
    }


def compared(model: str, loop: str, source: str) -> dict:
    """Compare each number of devices with one device alone."""
    alone = trained(model, CellKey(BATCH_SIZE, loop, source))
    found = {"alone": alone["alone"]}
    for devices in (2, 4):
        one = trained(model, CellKey(BATCH_SIZE, loop, source, devices=devices))
        found[str(devices)] = {
            "difference": float(np.abs(one["params"] - alone["params"]).max()),
            "magnitude": float(np.abs(alone["params"]).max()),
            "devices": one["devices"],
            "whole": one["whole"],
            "paced": one["paced"],
            "share": one["flops"] / alone["flops"],
        }
    return found


def accumulated() -> float:
    """Return the relative distance between a batch in two microbatches on two devices and the whole batch on one."""
    alone = trained("mlp", CellKey(BATCH_SIZE, "scan"))["params"]
    parts = trained("mlp", CellKey(BATCH_SIZE, "scan", devices=2, accumulation=2))["params"]
    return float(np.abs(parts - alone).max() / np.abs(alone).max())


def studied(folder: Path) -> dict:
    """Run both stages on all four devices."""
    session = tiny_workload.session(folder, **TABLES)
    machine = msgspec.structs.replace(session.host.machine, device_count=len(jax.devices()), virtual_devices=True)
    session.host = replace(session.host, machine=machine)
    session.prepare_folder()
    for stage in planned_stages(session, ("throughput", "convergence")):
        stage.run()
    rounds = [row for row in row_files.read(folder / "throughput.jsonl") if isinstance(row, Round)]
    trials = [row for row in row_files.read(folder / "convergence.jsonl") if isinstance(row, Trial)]
    return {
        "cells": sorted({(row.devices, row.batch_size) for row in rounds}),
        "rounds": len(rounds),
        "flops_per_example": {
            str(row.devices): row.compiler_flops_per_example
            for row in row_files.read(folder / "throughput.jsonl")
            if isinstance(row, Compilation) and row.batch_size == 50
        },
        "trials": [row.status for row in trials],
    }


if __name__ == "__main__":
    ways = {"-".join(way): compared(*way) for way in WAYS}
    study = studied(Path(sys.argv[1]))
    print(json.dumps({"devices": len(jax.devices()), "ways": ways, "accumulated": accumulated(), "study": study}))
