"""Every described device has facts that make sense, and a missing compiler is one line that says what to install."""

import pytest
from batchscale.errors import InputError
from batchscale.measure.ahead import plugins, targets

TARGETS = targets.targets()


def test_the_devices_that_people_ask_for_are_described():
    assert {"h100", "h100-pcie", "h200", "a100-40", "a100-80", "b200", "l4", "rtx-4090", "v100"} <= set(TARGETS)
    assert {"tpu-v5e", "tpu-v6e"} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_facts_make_sense(name):
    target = TARGETS[name]
    assert (target.gpu is None) == (target.platform == "tpu") == (target.tpu is not None)
    assert target.flops["float32"] <= target.flops["default"] <= target.flops["bfloat16"]
    assert 1e10 <= target.memory_bytes <= 3e11
    assert target.cache_bytes < target.memory_bytes / 50
    assert target.pool_bytes <= target.memory_bytes


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.gpu])
def test_arithmetic_is_that_of_the_cores(name):
    """Two operations a cycle in every float32 unit, whose clock is the published boost within a tenth."""
    gpu, target = TARGETS[name].gpu, TARGETS[name]
    assert target.flops["float32"] == pytest.approx(2e9 * gpu.cores * gpu.fpus * gpu.clock_ghz, rel=0.1)


def test_a_description_holds_the_memory_that_jax_would_have():
    text = targets.description(TARGETS["h100"])
    assert f"device_memory_size: {int(TARGETS['h100'].memory_bytes * 0.75)}" in text
    assert "cuda_compute_capability { major: 9 minor: 0 }" in text


def test_an_unknown_device_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"--on: 'h1000', expected one of h100, "):
        targets.target_named("h1000")


@pytest.mark.parametrize(
    ("installed", "why"),
    [
        ({}, "XLA's compiler for GPUs is not installed"),
        ({"jax-cuda12-pjrt": "0.10.1", "jaxlib": "0.10.2"}, "jax-cuda12-pjrt is 0.10.1, expected 0.10.2 as jaxlib is"),
        ({"jax-cuda12-pjrt": "0.10.2", "jaxlib": "0.10.2"}, "the assembler for GPUs is not installed"),
    ],
)
def test_what_is_missing_for_a_gpu_is_named(monkeypatch, tmp_path, installed, why):
    def version(name):
        if name not in installed:
            raise plugins.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(plugins, "version", version)
    monkeypatch.setattr(plugins, "_cuda_folders", lambda: [tmp_path])
    found = plugins.missing(TARGETS["h100"])
    assert found is not None
    assert found.startswith(why)
    assert "pip install" in found
    for file in plugins.CUDA_FILES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert (plugins.missing(TARGETS["h100"]) is None) == ("assembler" in why)
