"""The built package: its files, and its use in a folder that has modules of the same names as ours."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import batchscale
import numpy as np
import pytest
from repository import ROOT

pytestmark = pytest.mark.slow
TINY = """title = "tiny"
[workload]
dataset = "digits"
model = "linear"
optimizer = "sgd"
[target]
accuracy = 0.5
[batch_sizes]
values = [64, 128]
[learning_rate]
anchor = 0.05
span = 0
extend = 0
[seeds]
search = 1
confirm = 2
[budget]
epochs = 2
[throughput]
loops = ["scan"]
rounds = 5
round_seconds = 0.001
isolate = "always"
"""
NOT_OURS = 'raise SystemExit("a module of the user was imported")\n'


def build(project, folder):
    """Build a source distribution and a wheel; return the paths of both."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


def contents(wheel):
    """The bytes of every file of a wheel, without the list of them."""
    with zipfile.ZipFile(wheel) as files:
        return {name: files.read(name) for name in files.namelist() if not name.endswith(".dist-info/RECORD")}


def environment(folder):
    """A Python environment that sees the packages of this one, but not the package under test."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # Python ignores .pth files in folders that a .pth file names, so an editable installation of ours stays unseen.
    (site / "packages.pth").write_text("\n".join(path for path in sys.path if Path(path).name == "site-packages"))
    return folder


def install(folder, *what):
    """Install into an environment without a network."""
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*pip, *options, *map(str, what)], check=True, capture_output=True)


def run(folder, *command, **variables):
    """Run a command in `folder` and return its output."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "BATCHSCALE_DATA")}
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env={**kept, "BATCHSCALE_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    folder = environment(tmp_path_factory.mktemp("installed"))
    install(folder, built[1])
    return folder / "bin"


@pytest.fixture
def project(tmp_path):
    """The folder of a user, with modules of their own that must never be imported in place of ours."""
    for name in ("models/__init__.py", "models/linear.py", "bench/__init__.py", "models.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(NOT_OURS)
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


def test_the_wheel_holds_one_package_with_models_and_data(built):
    wheel = contents(built[1])
    assert {name.partition("/")[0].partition("-")[0] for name in wheel} == {"batchscale"}
    sources = {"batchscale": ROOT / "bench" / "batchscale", "batchscale/models": ROOT / "models"}
    expected = {
        f"{package}/{path.relative_to(folder)}": path.read_bytes()
        for package, folder in sources.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.parent != ROOT / "bench/batchscale/models"
    }
    assert {name: content for name, content in wheel.items() if name.startswith("batchscale/")} == expected
    suffixes = {Path(name).suffix for name in expected}
    assert {".py", ".toml", ".jinja", ".css", ".js"} <= suffixes
    assert "batchscale/py.typed" in wheel


def test_the_source_distribution_builds_the_same_wheel(built, tmp_path):
    source, wheel = built
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    assert contents(build(unpacked, tmp_path / "dist")[1]) == contents(wheel)


def test_the_image_of_the_readme_holds_what_the_wheel_is_built_from(built, tmp_path):
    copied = re.findall(r"^COPY (.+) /src(\S*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert copied
    for names, place in copied:
        for name in names.split():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tmp_path / (place.strip("/") or name))
    assert contents(build(tmp_path, tmp_path / "dist")[1]) == contents(built[1])


def test_an_installed_wheel_measures_and_reports_next_to_modules_of_the_same_names(installed, project):
    program = installed / "batchscale"
    assert run(project, program, "--version") == f"batchscale {batchscale.__version__}\n"
    assert "linear" in run(project, program, "list")
    answer = json.loads(run(project, program, "run", "tiny.toml", "--json", PYTHONPATH="."))
    (folder,) = (project / "results" / "local" / "tiny").iterdir()
    rows = [json.loads(line) for line in (folder / "throughput.jsonl").read_text().splitlines()]
    assert {row["batch_size"] for row in rows if row["kind"] == "round"} == {64, 128}
    assert "failed" not in {row.get("status") for row in rows}
    assert answer["max_batch_size"] is not None
    assert "page: " in run(project, program, "report", folder)


def test_the_installed_module_starts_next_to_modules_of_the_same_names(installed, project):
    assert "linear" in run(project, installed / "python", "-m", "batchscale", "list")


def test_an_editable_installation_runs_elsewhere_and_copies_no_model(project, tmp_path_factory):
    folder = environment(tmp_path_factory.mktemp("editable"))
    install(folder, "--editable", ROOT)
    assert not [*folder.glob("lib/python*/site-packages/batchscale/**/*.py")]
    assert "linear" in run(project, folder / "bin" / "batchscale", "list")


def test_a_clone_runs_without_installation(project):
    variables = {"PYTHONPATH": str(ROOT / "bench")}
    assert "linear" in run(project, sys.executable, "-m", "batchscale", "list", **variables)
    assert "linear" in run(ROOT, sys.executable, "-m", "batchscale", "list", PYTHONPATH="bench")


OWN_MODEL = """
import jax.numpy as jnp
from flax import nnx
from helper import WIDTH


class Model(nnx.Module):
    def __init__(self, input_shape, classes, *, rngs, dtype=jnp.float32, width: int = WIDTH):
        self.first = nnx.Linear(input_shape[0], width, dtype=dtype, rngs=rngs)
        self.last = nnx.Linear(width, classes, dtype=dtype, rngs=rngs)

    def __call__(self, inputs):
        return self.last(nnx.tanh(self.first(inputs)))
"""


def test_a_stranger_trains_a_model_and_data_of_their_own_to_a_loss(installed, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    random = np.random.default_rng(0)
    inputs = random.normal(size=(600, 4)).astype(np.float32)
    np.savez(own / "data.npz", inputs=inputs, labels=(inputs @ random.normal(size=(4, 2))).astype(np.float32))
    (own / "helper.py").write_text("WIDTH = 8\n")
    (own / "mine.py").write_text(OWN_MODEL)
    table = TINY.replace('"digits"', '"data.npz"').replace('"linear"', '"mine.py:Model"')
    table = table.replace("accuracy = 0.5", "loss = 1.0").replace("epochs = 2", "epochs = 8")
    (own / "own.toml").write_text(f'{table}max_batch_size = "skip"\n')
    program = installed / "batchscale"
    answer = json.loads(run(tmp_path, program, "run", "own/own.toml", "--json"))
    assert answer["goal"] == {"metric": "loss", "threshold": 1.0}
    assert answer["time_optimal"]["batch_size"] in (64, 128)
    (folder,) = (tmp_path / "results" / "local" / "own").iterdir()
    page = (folder / "report.html").read_text()
    assert "a validation loss of 1" in page
    assert "mine.py:Model" in page
    rows = (folder / "throughput.jsonl").read_text() + (folder / "convergence.jsonl").read_text()
    assert str(tmp_path) not in rows
    assert run(tmp_path, program, "verify", folder, "--sources", own)
    with (own / "mine.py").open("a") as file:
        file.write("# edited\n")
    refused = subprocess.run(
        [program, "run", "own/own.toml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "the code of the model: SHA-256" in refused.stderr
