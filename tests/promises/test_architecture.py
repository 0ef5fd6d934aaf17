"""The architecture as a picture that cannot drift: contracts hold, contracts can break, and starts stay light."""

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import simulated_folder
from repository import ROOT
from shape_checks import modules_with_shapes

SOURCES = sorted([*ROOT.glob("bench/**/*.py"), *ROOT.glob("models/**/*.py")])
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"


def contracts(folder):
    """Hold the checkout in `folder` against the contracts."""
    path = {**os.environ, "PYTHONPATH": str(folder / "bench")}
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=folder, env=path, capture_output=True, text=True, check=False
    )


def loaded_by(code):
    """The packages in memory after `code` has run in a fresh interpreter."""
    script = (
        f"import json, sys\n{code}\nprint('\\n' + json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_contracts_hold():
    done = contracts(ROOT)
    assert done.returncode == 0, done.stdout


BREAKS = {
    "From what is typed to what is written": (
        "bench/batchscale/config/plan.py",
        "from batchscale.records import row_files",
    ),
    "The waist, seen from below": ("bench/batchscale/measure/convergence/lanes.py", "import pandas"),
    "The waist, seen from above": ("bench/batchscale/records/row_files.py", "import jax"),
    "A model knows nothing of the bench": ("models/mlp.py", "from batchscale import errors"),
}
"""By the beginning of a contract's name: a module, and a line in it that breaks this contract alone."""


def test_the_contracts_notice_what_breaks_them(tmp_path):
    for name in ("bench", "models"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    future = "from __future__ import annotations\n"
    for module, line in BREAKS.values():
        path = tmp_path / module
        path.write_text(path.read_text().replace(future, f"{future}{line}\n"))
    done = contracts(tmp_path)
    assert done.returncode == 1
    broken = [line for line in done.stdout.splitlines() if line.endswith("BROKEN")]
    assert len(broken) == len(BREAKS)
    assert all(any(line.startswith(name) for line in broken) for name in BREAKS)


def test_reading_a_results_folder_never_loads_jax(tmp_path):
    simulated_folder.write(tmp_path, batch_sizes=(16, 64, 256), confirm_seeds=2)
    few_plots = (
        "import batchscale.cli.command_line; from batchscale.analysis import figures; figures.PLOTS = figures.PLOTS[:1]"
    )
    loaded = loaded_by(
        f"{few_plots}; assert batchscale.cli.command_line.run(['report', {str(tmp_path)!r}, '--json']) == 0"
    )
    assert "pandas" in loaded
    assert not loaded & {"jax", "jaxlib", "flax", "optax"}


def test_the_command_line_alone_loads_neither_half():
    loaded = loaded_by("from batchscale.cli import command_line; command_line.run(['run', '--help'])")
    assert not loaded & {"jax", "flax", "optax", "pandas", "matplotlib", "seaborn", "numpy"}


@pytest.mark.parametrize(("given", "level"), [("pop('{}', None)", "2"), ("update({}='0')", "0")])
def test_warnings_of_xla_are_silenced_before_jax_sets_a_level(given, level):
    name = "TF_CPP_MIN_LOG_LEVEL"
    loaded = loaded_by(
        f"import os; os.environ.{given.format(name)}; from batchscale.cli import command_line;"
        f" command_line.run(['list']); import jax; assert os.environ['{name}'] == '{level}'"
    )
    assert "jax" in loaded


def test_measuring_never_loads_what_reads():
    loaded = loaded_by("from batchscale.measure.run import doctor, suite; suite.datasets.load('digits')")
    assert "jax" in loaded
    assert not loaded & {"pandas", "matplotlib", "seaborn"}


def functions():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT)}:{node.name}", node.end_lineno - node.lineno + 1


def test_functions_files_and_folders_stay_small():
    lengths = dict(functions())
    assert {name: lines for name, lines in lengths.items() if lines > 40} == {}
    assert sorted(lengths.values())[len(lengths) // 2] <= 13
    assert {str(path) for path in SOURCES if len(path.read_text().splitlines()) > 500} == set()
    modules = [path for path in [*SOURCES, *ROOT.glob("tests/**/*.py")] if path.stem not in ("__init__", "conftest")]
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in modules)
    assert {folder: count for folder, count in folders.items() if count > 12} == {}


def test_the_shapes_of_every_module_are_checked_in_tests():
    """A module that was imported before the checks came into force has a plain loader."""
    for name in modules_with_shapes():
        loader = importlib.import_module(name).__loader__
        assert type(loader).__module__.startswith("jaxtyping"), name


def test_every_folder_says_in_one_sentence_what_it_does():
    for folder in {path.parent for path in ROOT.glob("bench/batchscale/**/*.py")}:
        sentence = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        assert sentence.endswith("."), folder
        assert sentence.count(". ") + sentence.count("\n") == 0, folder


def test_every_model_is_a_file_with_a_model():
    names = [path.stem for path in ROOT.glob("models/*.py") if not path.stem.startswith("_")]
    for name in names:
        tree = ast.parse((ROOT / "models" / f"{name}.py").read_text())
        assert "Model" in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
