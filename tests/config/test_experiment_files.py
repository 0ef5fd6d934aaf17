"""Experiment files: a written experiment is read back equal, and any other file is refused in one line."""

import pytest
from batchscale.config import experiment as experiments
from batchscale.errors import InputError
from batchscale.records import results_folder


def test_an_experiment_written_out_is_read_back_equal(tmp_path):
    for name in experiments.shipped():
        experiment = experiments.find(name)
        (tmp_path / "experiment.toml").write_bytes(results_folder.to_toml(experiment))
        assert experiments.read(tmp_path / "experiment.toml") == experiment


@pytest.mark.parametrize("data", [b"\xff", b"a = ", b"[a]\n[a]\n", b"a = " + b"[" * 5000, b"x = 1", b""])
def test_files_that_are_no_experiment_are_refused(tmp_path, data):
    path = tmp_path / "strange.toml"
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        experiments.read(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("stem", ["my-exp", "bigB", "1st", "x" * 41])
def test_a_file_name_that_cannot_name_an_experiment_is_refused_with_the_rule(tmp_path, stem):
    (tmp_path / f"{stem}.toml").write_text('title = "t"')
    with pytest.raises(InputError) as error:
        experiments.read(tmp_path / f"{stem}.toml")
    assert str(error.value) == (
        f"{stem}.toml: the file's name is the experiment's name: expected a lower-case letter, then lower-case"
        f" letters, digits or _, at most 40 in all, found '{stem}'"
    )


def test_a_syntax_error_is_reported_with_its_line(tmp_path):
    (tmp_path / "broken.toml").write_text('title = "t"\n[target\naccuracy = 0.9\n')
    with pytest.raises(InputError, match=r"not valid TOML \(at line 2, column 8: Expected"):
        experiments.read(tmp_path / "broken.toml")


def test_absent_and_oversized_files_and_unknown_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be read"):
        experiments.find(str(tmp_path / "absent.toml"))
    with pytest.raises(InputError, match=r"expected a file ending in \.toml, or one of decoder_enwik8"):
        experiments.find("\x1b[31mlenet")
    monkeypatch.setattr(experiments, "LARGEST_FILE_BYTES", 10)
    (tmp_path / "large.toml").write_text("# " + "x" * 20)
    with pytest.raises(InputError, match="22 bytes, expected at most 10"):
        experiments.find(str(tmp_path / "large.toml"))
