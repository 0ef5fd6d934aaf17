"""Installing: the right JAX for the machine, an environment where `venv` is half there, and words when it cannot."""

import os
import subprocess
import sys

import install
import pytest
from install import InstallError, accelerator_extras, create_environment, cuda_extras, find_python, tpu_attached
from repository import ROOT

SMI = "| NVIDIA-SMI 580.95.05   Driver Version: 580.95.05   CUDA Version: {} |"


def program(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("cuda", "capabilities", "extras"),
    [
        ("13.0", "9.0\n", ["cuda13", "energy"]),
        ("13.2", "9.0\n7.5\n", ["cuda13", "energy"]),
        ("14.1", "10.0\n", ["cuda13", "energy"]),
        ("13.0", "9.0\n7.0\n", ["cuda12", "energy"]),
        ("12.8", "9.0\n", ["cuda12", "energy"]),
        ("11.8", "8.0\n", []),
        ("N/A", "8.0\n", []),
    ],
)
def test_cuda_follows_the_driver_and_the_oldest_gpu(cuda, capabilities, extras):
    assert cuda_extras(SMI.format(cuda), capabilities) == extras


def test_newer_drivers_word_their_version_differently():
    assert cuda_extras("CUDA UMD Version: 13.1", "9.0\n") == ["cuda13", "energy"]


def test_without_an_answering_driver_the_cpu_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(install, "tpu_attached", lambda devices: False)
    assert accelerator_extras() == []
    program(tmp_path / "nvidia-smi", "echo 'couldn't communicate with the driver'; exit 9")
    assert accelerator_extras() == []
    program(tmp_path / "nvidia-smi", 'case "$1" in --query*) echo 9.0;; *) echo "CUDA Version: 13.0";; esac')
    assert accelerator_extras() == ["cuda13", "energy"]


def test_a_tpu_shows_by_its_device_files(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("TPU_")]:
        monkeypatch.delenv(name)
    (tmp_path / "accel").mkdir()
    assert not tpu_attached(tmp_path)
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "0").touch()
    assert not tpu_attached(tmp_path)
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5e-4")
    assert tpu_attached(tmp_path)
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE")
    (tmp_path / "accel0").touch()
    assert tpu_attached(tmp_path)


def test_too_old_a_python_hands_over_to_a_newer_one_or_says_what_to_do(tmp_path, monkeypatch):
    assert find_python() == sys.executable
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match=r"python3 is 3\.9, expected 3\.11 or newer"):
        find_python()
    newer = program(tmp_path / "python3.12", "")
    assert find_python() == str(newer)


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("")
    with pytest.raises(InstallError, match="is no Python environment"):
        create_environment(tmp_path, sys.executable)
    assert (tmp_path / "precious").exists()


def test_a_working_environment_is_reused(tmp_path, monkeypatch):
    folder = tmp_path / "venv"
    program(folder / "bin" / "python", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert create_environment(folder, "/nowhere/python") == folder / "bin" / "python"


def test_without_ensurepip_the_next_maker_is_tried(tmp_path, monkeypatch):
    folder = tmp_path / "venv"
    half = f'mkdir -p "{folder}"; touch "{folder}/pyvenv.cfg"; exit 1'
    whole = f'mkdir -p "{folder}/bin"; touch "{folder}/pyvenv.cfg"; ln -s /bin/true "{folder}/bin/python"'
    python = program(tmp_path / "half" / "python", half)
    monkeypatch.setenv("PATH", str(tmp_path / "makers"), prepend=os.pathsep)
    program(tmp_path / "makers" / "virtualenv", "exit 1")
    program(tmp_path / "makers" / "uv", whole)
    assert create_environment(folder, str(python)) == folder / "bin" / "python"


def test_when_no_maker_succeeds_nothing_half_made_is_left(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "venv"
    python = program(tmp_path / "python", f'mkdir -p "{folder}"; touch "{folder}/pyvenv.cfg"; exit 1')
    for maker in ("virtualenv", "uv"):
        program(tmp_path / maker, "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(install, "find_python", lambda: str(python))
    assert install.main([str(folder)]) == 1
    assert "install python3-venv" in capsys.readouterr().err
    assert not folder.exists()


def test_installing_needs_nothing_but_the_standard_library():
    code = "import sys, install; print(sorted({m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names))"
    shown = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'bench')!r}); {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.strip() in ("['__main__', 'batchscale', 'install']", "['batchscale', 'install']")


def make(*arguments, **environment):
    environment = {**os.environ, "MAKEFLAGS": "", **environment}
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_help_is_the_default_and_lists_every_target_once():
    shown = make()
    assert shown.returncode == 0
    targets = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("  make ")]
    wanted = {"help", "bench", "test", "test-all", "perf", "lint", "report", "compare", "site", "clean"}
    assert wanted <= set(targets)
    assert len(set(targets)) == len(targets)


def test_an_interpreter_of_ones_own_installs_nothing(tmp_path):
    log = tmp_path / "log"
    python = program(tmp_path / "python", f'echo "$@" >> "{log}"')
    shown = make("bench", "VENV=", f"PYTHON={python}", "BUDGET=30", "EXPERIMENTS=lenet_digits mlp_mnist")
    assert shown.returncode == 0, shown.stderr
    assert log.read_text().splitlines() == ["-m batchscale run --budget 30 lenet_digits mlp_mnist"]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("report", "DIR=my results"), "report|my results"),
        (("compare", "A=my results", "B=yours"), "compare|my results|yours"),
    ],
)
def test_a_folder_whose_name_holds_blanks_is_one_argument(tmp_path, arguments, command):
    log = tmp_path / "log"
    python = program(tmp_path / "python", f'(IFS="|"; echo "$*") >> "{log}"')
    shown = make(*arguments, "VENV=", f"PYTHON={python}")
    assert shown.returncode == 0, shown.stderr
    assert log.read_text().splitlines() == [f"-m|batchscale|{command}"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("report",), "make report: DIR is not set, expected DIR="),
        (("compare", "A=mine"), "make compare: A or B is not set, expected A=folder B=folder"),
    ],
)
def test_a_folder_that_is_not_named_is_asked_for(tmp_path, arguments, expected):
    shown = make(*arguments, "VENV=", f"PYTHON={program(tmp_path / 'python', 'exit 3')}")
    assert shown.returncode == 2
    assert expected in shown.stdout


def test_the_environment_is_made_once_and_again_when_the_package_changes(tmp_path):
    log, venv = tmp_path / "log", tmp_path / "venv"
    python = program(
        tmp_path / "python",
        f'echo "$@" >> "{log}"; mkdir -p "{venv}/bin"; cp "$0" "{venv}/bin/python" 2>/dev/null; true',
    )
    options = (f"VENV={venv}", f"PYTHON={python}")
    for _ in range(2):
        assert make("bench", *options).returncode == 0
    assert log.read_text().splitlines() == [f"bench/install.py {venv}", "-m batchscale run", "-m batchscale run"]
    os.utime(venv / ".installed", (0, 0))
    log.write_text("")
    assert make("bench", *options).returncode == 0
    assert log.read_text().splitlines() == [f"bench/install.py {venv}", "-m batchscale run"]


def test_an_environment_whose_path_holds_a_blank_is_refused_before_anything_is_removed(tmp_path):
    shown = make("--dry-run", "clean", f"VENV={tmp_path / 'a b'}")
    assert shown.returncode == 2
    assert "holds a blank, expected a path without one" in shown.stderr
    assert "rm" not in shown.stdout


def test_an_interpreter_whose_path_holds_a_blank_is_found(tmp_path):
    python = program(tmp_path / "a b" / "python", f'echo "$@" > "{tmp_path / "log"}"')
    shown = make("bench", "VENV=", f"PYTHON={python}")
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "log").read_text() == "-m batchscale run\n"


def test_a_missing_python_is_reported_in_one_line(tmp_path):
    shown = make("bench", f"VENV={tmp_path / 'venv'}", "PYTHON=/nowhere/python3")
    assert shown.returncode != 0
    assert "install Python 3.11 or newer" in shown.stdout
    assert not (tmp_path / "venv").exists()


def test_a_failed_installation_leaves_no_stamp(tmp_path):
    python = program(tmp_path / "python", "exit 1")
    assert make("bench", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}").returncode != 0
    assert not (tmp_path / "venv" / ".installed").exists()
