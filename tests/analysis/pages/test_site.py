"""The gallery."""

from __future__ import annotations

import re
import shutil

import pytest
import simulated_folder
from batchscale.analysis import figures
from batchscale.analysis.pages.site import site
from batchscale.errors import InputError


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    home = tmp_path_factory.mktemp("published")
    for seed, machine in enumerate(("laptop", "server")):
        simulated_folder.write(
            home / "simulated" / machine, batch_sizes=(16, 64, 256, 1024), confirm_seeds=2, seed=seed, machine=machine
        )
    return home


@pytest.fixture(scope="module")
def index(published, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figures, "PLOTS", figures.PLOTS[:2])
        return site(published, tmp_path_factory.mktemp("site"))


def test_every_link_leads_somewhere(index):
    pages = list(index.parent.rglob("*.html"))
    assert len(pages) == 4
    for page in pages:
        for address in re.findall(r'href="([^"#]+)"', page.read_text(encoding="utf-8")):
            assert address.startswith("data:") or (page.parent / address).is_file(), address


def test_rows_come_along_byte_for_byte(published, index):
    for path in published.rglob("*.jsonl"):
        assert (index.parent / path.relative_to(published)).read_bytes() == path.read_bytes()


def test_the_index_offers_each_machine(index):
    text = index.read_text(encoding="utf-8")
    assert "<option>laptop</option><option>server</option>" in text
    assert text.count("data-entry ") == 2


def test_experiments_of_one_title_are_distinguished_by_name(published, index, tmp_path):
    assert "A simulated sweep</a>" in index.read_text(encoding="utf-8")
    other = shutil.copytree(published, tmp_path / "published") / "simulated" / "laptop"
    for name in ("experiment.toml", "throughput.jsonl", "convergence.jsonl"):
        renamed = (other / name).read_text().replace('"experiment":"simulated"', '"experiment":"renamed"')
        (other / name).write_text(renamed.replace('name = "simulated"', 'name = "renamed"', 1))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figures, "PLOTS", [])
        text = site(tmp_path / "published", tmp_path / "site").read_text(encoding="utf-8")
    assert "A simulated sweep (renamed)</a>" in text
    assert "A simulated sweep (simulated)</a>" in text


def test_two_folders_of_one_machine_are_refused(published, tmp_path):
    shutil.copytree(published, tmp_path / "published")
    shutil.copytree(published / "simulated" / "laptop", tmp_path / "published" / "simulated" / "again")
    with pytest.raises(InputError, match="same experiment and machine"):
        site(tmp_path / "published", tmp_path / "site")


def test_a_site_is_not_written_among_what_is_published(published, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "simulated").symlink_to(published / "simulated", target_is_directory=True)
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    for out in (published, published / "site", published / "simulated" / "..", tmp_path / "site"):
        with pytest.raises(InputError, match="whose results the site only reads"):
            site(published, out)
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before


def test_a_site_in_a_link_to_itself_is_refused(published, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"loop/.*cannot be written"):
        site(published, tmp_path / "loop")


def test_that_nothing_is_published_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no published results"):
        site(tmp_path, tmp_path / "site")
