"""Comparisons: same things are the same, differences have the right sign, unlike things are refused."""

from __future__ import annotations

import dataclasses
import io
import math
import re
import shutil

import msgspec
import numpy as np
import pytest
import simulated_folder
import tomli_w
from batchscale.analysis.compare.compare import LEAST_DIFFERENCE, Side, compare, ratios
from batchscale.analysis.pages import comparison as pages
from batchscale.analysis.pages import terminal
from batchscale.errors import InputError
from batchscale.records import results_folder
from simulated_answers import swept

SIZES = (8, 32, 128, 512)
LAPTOP = simulated_folder.Truth(batch_sizes=SIZES, watts=30.0)
SERVER = simulated_folder.Truth(batch_sizes=SIZES, watts=90.0, fixed_seconds=3e-3, seconds_per_example=3e-6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("machines")
    simulated_folder.write(home / "laptop", LAPTOP, seed=1, machine="laptop")
    simulated_folder.write(home / "server", SERVER, seed=2, machine="server")
    return home / "laptop", home / "server"


@pytest.fixture(scope="module")
def against(folders):
    return compare(folders)


def of(comparison, quantity):
    return {one.batch_size: one for one in comparison.against[0].ratios if one.quantity == quantity}


def test_a_folder_is_the_same_as_itself(folders):
    itself = compare([folders[0], folders[0]])
    assert {one.outcome for one in itself.against[0].ratios} == {"same"}
    assert {one.value for one in itself.against[0].ratios} == {1.0}
    assert itself.fleet.greatest_loss == 0
    assert itself.differences == []
    assert itself.slower_than(0.0) == []
    assert "the same within noise at every batch size" in pages.sentences(itself)[0]


def test_ratios_are_those_of_the_truths(against):
    for size, one in of(against, "examples_per_second").items():
        true = LAPTOP.seconds_per_step(size) / SERVER.seconds_per_step(size)
        assert one.value == pytest.approx(true, rel=0.05)
        assert one.interval[0] < one.value < one.interval[1]
        if abs(math.log(true)) > 0.2:
            assert one.outcome == ("faster" if true > 1 else "slower")


def test_times_and_energies_point_the_right_way(against):
    times, energies = of(against, "time_to_target"), of(against, "joules_to_target")
    assert times[512].outcome == "faster"
    assert times[8].outcome == "slower"
    assert energies[8].outcome == "more"


def test_never_reaching_the_target_is_slower_beyond_any_ratio(folders, tmp_path):
    simulated_folder.write(tmp_path, LAPTOP, seed=4, machine="hopeless", outliers={512: 1000.0})
    there, back = compare([folders[0], tmp_path]), compare([tmp_path, folders[0]])
    assert (of(there, "time_to_target")[512].outcome, of(there, "time_to_target")[512].value) == ("slower", None)
    assert of(back, "time_to_target")[512].outcome == "faster"
    assert there.fleet.batch_size != 512


def test_the_other_way_round_ratios_turn_over(folders, against):
    back = of(compare(folders[::-1]), "time_to_target")
    for size, one in of(against, "time_to_target").items():
        assert back[size].value == pytest.approx(1 / one.value)


def test_the_fleet_size_has_the_least_greatest_loss(against):
    times = [{cell.batch_size: cell.time_to_target.median for cell in one.cells} for one in against.summaries]
    losses = {size: max(one[size] / min(one.values()) - 1 for one in times) for size in SIZES}
    assert against.fleet.greatest_loss == pytest.approx(min(losses.values()))
    assert losses[against.fleet.batch_size] == pytest.approx(min(losses.values()))


def test_a_regression_is_found_beyond_its_threshold_only(folders, tmp_path):
    slower = LAPTOP.fixed_seconds * 1.2, LAPTOP.seconds_per_example * 1.2
    simulated_folder.write(
        tmp_path, LAPTOP, seed=3, machine="laptop", fixed_seconds=slower[0], seconds_per_example=slower[1]
    )
    found = compare([folders[0], tmp_path], throughput_only=True)
    assert len(found.slower_than(0.05)) == len(SIZES)
    assert found.slower_than(0.5) == []


def test_joined_convergence_leaves_the_ratio_of_speeds(folders, tmp_path):
    joined = tmp_path / "server"
    shutil.copytree(folders[1], joined)
    shutil.copy(folders[0] / "convergence.jsonl", joined)
    label = {"schema": 1, "folder": "study/laptop", "machine": "laptop"}
    (joined / "convergence_from.json").write_bytes(msgspec.json.encode(label))
    found = compare([folders[0], joined])
    speeds = of(found, "examples_per_second")
    for size, one in of(found, "time_to_target").items():
        assert one.value == pytest.approx(1 / speeds[size].value)
        assert one.outcome == speeds[size].outcome


@pytest.mark.slow
def test_intervals_hold_for_all_batch_sizes_together():
    sizes, tries, whole = (16, 32, 64, 128, 256, 512), 60, 0
    truth = simulated_folder.Truth(batch_sizes=sizes, confirm_seeds=3)
    for number in range(tries):
        sides = [Side(str(at), swept(truth, seed=1000 + 2 * number + at), summary=None) for at in (0, 1)]
        found = [one.interval for one in ratios(*sides, "time_to_target")]
        whole += all(low <= 1 <= high for low, high in found)
    assert whole >= tries * 0.95 - 3 * np.sqrt(tries * 0.95 * 0.05)


def rewrite(folder, copy, **changes):
    shutil.copytree(folder, copy)
    table = {"name": "simulated", **simulated_folder.experiment_table(LAPTOP)}
    for key, change in changes.items():
        table[key] = {**table[key], **change}
    (copy / "experiment.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    fingerprint = results_folder.read_experiment(copy).fingerprint
    for name in ("throughput.jsonl", "convergence.jsonl"):
        old = simulated_folder.experiment(LAPTOP).fingerprint.encode()
        (copy / name).write_bytes((copy / name).read_bytes().replace(old, fingerprint.encode()))
    return copy


def test_another_target_is_refused_by_name(folders, tmp_path):
    other = rewrite(folders[0], tmp_path / "other", target={"accuracy": 0.9})
    with pytest.raises(InputError, match=r"target\.accuracy: 0\.95 in .*, 0\.9 in .*--throughput-only") as caught:
        compare([folders[0], other])
    assert "\n" not in str(caught.value)
    relaxed = compare([folders[0], other], throughput_only=True)
    assert {one.quantity for one in relaxed.against[0].ratios} == {"examples_per_second"}


def test_another_model_is_refused_even_for_throughput(folders, tmp_path):
    other = rewrite(folders[0], tmp_path / "other", workload={"model": "lenet"})
    with pytest.raises(InputError, match=r"workload\.model: 'hyperbola' in .*, 'lenet' in"):
        compare([folders[0], other], throughput_only=True)


def test_a_step_with_searched_options_is_another_step(folders, tmp_path):
    simulated_folder.write(tmp_path, momenta={0.5: 1.0, 0.9: 1.0})
    with pytest.raises(InputError, match=r"search: 'not set' in .*, \['momentum'\] in"):
        compare([folders[0], tmp_path], throughput_only=True)


def test_what_matters_to_speed_is_named_first_and_nothing_advised_that_is_refused_too(folders, tmp_path):
    other = rewrite(folders[0], tmp_path / "other", workload={"model": "lenet"}, target={"accuracy": 0.9})
    with pytest.raises(InputError, match=r"workload\.model: 'hyperbola' in") as caught:
        compare([folders[0], other])
    assert "--throughput-only" not in str(caught.value)


def test_precisions_are_compared_and_told(folders, tmp_path):
    other = rewrite(folders[0], tmp_path / "other", workload={"precision": "bfloat16"})
    rows = (other / "throughput.jsonl").read_bytes()
    marked = rows.replace(b'"input":"device"', b'"precision":"bfloat16","input":"device"')
    marked = marked.replace(b'"precision":"float32"', b'"precision":"bfloat16"')
    marked = marked.replace(b'"precision":"bfloat16","input":"device","precision"', b'"input":"device","precision"')
    (other / "throughput.jsonl").write_bytes(marked)
    found = compare([folders[0], other])
    assert found.differences == ["precision: float32 against bfloat16"]
    assert found.labels == ["laptop (precision float32)", "laptop (precision bfloat16)"]


def test_experiments_on_one_machine_are_told_apart_by_name(folders, tmp_path):
    other = shutil.copytree(folders[0], tmp_path / "other")
    for name in ("experiment.toml", "throughput.jsonl", "convergence.jsonl"):
        renamed = (other / name).read_text().replace('"experiment":"simulated"', '"experiment":"renamed"')
        (other / name).write_text(renamed.replace('name = "simulated"', 'name = "renamed"', 1))
    found = compare([folders[0], other], throughput_only=True)
    assert found.labels == ["laptop (experiment simulated)", "laptop (experiment renamed)"]
    assert found.differences == ["experiment: simulated against renamed"]


@pytest.mark.parametrize(("peak", "apart"), [(5e10, True), (0.9e11, False)])
def test_machines_of_one_name_are_told_apart_by_their_measured_speed(folders, tmp_path, peak, apart):
    slower = dataclasses.replace(LAPTOP, matmul_flops_per_second=peak)
    simulated_folder.write(tmp_path / "other", slower, seed=1, machine="laptop")
    found = compare([folders[0], tmp_path / "other"])
    name = r"laptop \(matrix products [0-9.]+ GFLOP/s\)"
    assert bool(re.fullmatch(name, found.labels[0])) is apart
    assert bool(found.differences) is apart
    assert len(set(found.labels)) == 2


def test_one_folder_is_not_a_comparison(folders):
    with pytest.raises(InputError, match="two or more"):
        compare(folders[:1])


def test_pages_and_tables_are_written(against, tmp_path):
    page = pages.write_comparison(against, tmp_path)
    assert page.stat().st_size < 3_000_000
    assert page.read_text(encoding="utf-8").count("<svg") == 6
    lines = (tmp_path / "compare.csv").read_text().splitlines()
    assert len(lines) == 1 + 3 * len(SIZES)
    assert msgspec.json.decode((tmp_path / "compare.json").read_bytes())["fleet"]["batch_size"] in SIZES
    file = io.StringIO()
    terminal.console_for(file).print(terminal.table(pages.table(against)))
    assert "server" in file.getvalue()


def test_small_differences_are_not_called_any(folders, tmp_path):
    by = 1 + LEAST_DIFFERENCE / 2
    quiet = {"round_noise": 1e-4, "machine": "laptop", "seed": 5}
    near = {"fixed_seconds": LAPTOP.fixed_seconds * by, "seconds_per_example": LAPTOP.seconds_per_example * by}
    simulated_folder.write(tmp_path / "one", LAPTOP, **quiet)
    simulated_folder.write(tmp_path / "two", LAPTOP, **quiet, **near)
    found = compare([tmp_path / "one", tmp_path / "two"], throughput_only=True)
    assert {one.outcome for one in found.against[0].ratios} == {"same"}
