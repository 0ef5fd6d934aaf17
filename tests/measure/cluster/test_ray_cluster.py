"""Real Ray clusters of two nodes on this machine: rows of a plain run, a node that is killed, a node of other code."""

import re
from importlib.util import find_spec

import pytest
from cluster_study import finished, only_folder, plain, with_choices_of, without_commit
from repository import ROOT
from tiny_workload import trials

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra `ray`, which is not installed"),
]
SCRIPT = ROOT / "tests" / "support" / "cluster" / "ray_study.py"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    return folder, plain(folder)


@pytest.mark.parametrize("fate", ["", "kill"])
def test_two_nodes_end_with_the_rows_of_a_plain_run_even_if_one_is_killed(workplace, fate):
    folder, expected = workplace
    results = folder / f"over{fate}"
    with_choices_of(expected, results)
    done = finished(folder, SCRIPT, "study.toml", results, *fate.split())
    assert done.returncode == 0, done.stderr
    assert trials(only_folder(results)) == trials(expected)
    assert ": 2 nodes: " in done.stderr
    if not fate:  # A node that is killed may be gone before the progress line is shown again.
        assert len(set(re.findall(r"on ([\d.]+/\w+)", done.stderr))) == 2, done.stderr
    assert ("a node was killed" in done.stderr) == bool(fate)
    again = [line for line in done.stderr.splitlines() if "started again" in line]
    assert bool(again) == bool(fate)
    for line in again:
        assert re.fullmatch(r".*: Task failed because the node .* dead or unavailable; started again \(2 of 3\)", line)


def test_a_node_with_another_version_of_the_package_is_refused(workplace):
    folder, _ = workplace
    done = finished(folder, SCRIPT, "study.toml", folder / "refused", "old", without_commit(folder))
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert re.search(r"/\w{6}: batchscale [\d.]+ there, [0-9a-f]{40} here, expected the same versions$", said), said
    assert not (folder / "refused" / "study").exists()


def test_an_address_at_which_nothing_listens_is_refused_at_once(workplace):
    folder, _ = workplace
    done = finished(folder, "-m", "batchscale", "run", "study.toml", "--ray", "127.0.0.1:1")
    assert done.returncode == 2
    assert re.fullmatch(r"batchscale: --ray: no cluster answers at '127\.0\.0\.1:1' \(.*refused.*\)\n", done.stderr)
