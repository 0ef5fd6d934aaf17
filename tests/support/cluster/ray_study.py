"""A script for a child process: a study on a Ray cluster of two nodes. One of them may be killed, or have old code.

`ray_study.py EXPERIMENT RESULTS [kill | old FOLDER]`: `kill` removes a node once it has sent rows; `old` starts one
node with the package in FOLDER.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

from batchscale.cli import command_line
from batchscale.records import results_folder
from ray.cluster_utils import Cluster

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
ROWS_BEFORE_DEATH = 3


def main(experiment: str, results: Path, *fate: str) -> None:
    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(**NODE), cluster.add_node(**NODE, **_code(*fate))]
    cluster.wait_for_nodes()
    if "kill" in fate:
        Thread(target=_kill, args=(cluster, nodes[0], results), daemon=True).start()
    asked = ["run", experiment, "--ray", cluster.address, "--results", str(results), "--stages", "convergence"]
    try:
        status = command_line.run(asked)
    finally:
        cluster.shutdown()
    sys.exit(status)


def _code(*fate: str) -> dict[str, Any]:
    return {"env_vars": {"PYTHONPATH": fate[1]}} if "old" in fate else {}


def _kill(cluster: Cluster, node: Any, results: Path) -> None:
    """Remove a node without a warning to it, once rows have come."""
    while (
        sum(len(path.read_bytes().splitlines()) for path in results.rglob(results_folder.CONVERGENCE))
        < ROWS_BEFORE_DEATH
    ):
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    sys.stderr.write("a node was killed\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
