"""Downloads: HTTPS alone, bounded in size and time; packages are read and never installed."""

import gzip
import http.client
import io
import os
import time
import urllib.error
import urllib.request

import pytest
from archives import CONTENT, FILES, client, tar, zipped
from batchscale.measure.data.files import downloads
from batchscale.measure.data.files.downloads import DebianPackage, Mirror, NpmPackage, https_opener, within
from batchscale.measure.data.files.packings import PLAIN, ZIP, Rejected, Unavailable, dictzip


class Handler(urllib.request.HTTPSHandler):
    """Answers HTTPS requests from a table of (status, headers, body)."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.asked = answers, []

    def https_open(self, req):
        self.asked.append(req.full_url)
        status, headers, body = self.answers[req.full_url]
        message = http.client.HTTPMessage()
        for key, value in headers.items():
            message[key] = value
        response = urllib.response.addinfourl(io.BytesIO(body), message, req.full_url, status)
        response.msg = "answer"
        return response


def mirror(answers, **options):
    handler = Handler({f"https://m/{name}": answer for name, answer in answers.items()})
    return Mirror("https://m", opener=https_opener(handler), **options), handler


def served(content):
    return {f"{name}.gz": (200, {}, gzip.compress(data)) for name, data in content.items()}


def test_a_mirror_serves_what_it_holds(tmp_path):
    source, _ = mirror(served(CONTENT))
    assert source.fetch(FILES) == CONTENT
    assert source.probe(FILES) == "answers"


@pytest.mark.parametrize(("packing", "pack"), [(PLAIN, bytes), (ZIP, zipped)])
def test_a_mirror_may_serve_files_plain_or_in_an_archive(packing, pack):
    answers = {f"{name}{packing.suffix}": (200, {}, pack(data)) for name, data in CONTENT.items()}
    source, _ = mirror(answers, packing=packing)
    assert source.fetch(FILES) == CONTENT
    assert source.probe(FILES) == "answers"


def test_a_missing_file_says_so():
    source, _ = mirror({name: (404, {}, b"") for name in served(CONTENT)})
    with pytest.raises(Unavailable, match="answer"):
        source.fetch(FILES)


@pytest.mark.parametrize("target", ["http://m/elsewhere", "file:///etc/passwd", "ftp://m/elsewhere"])
def test_no_redirect_leaves_https(target):
    source, handler = mirror({"images.gz": (302, {"location": target}, b"")})
    with pytest.raises(Unavailable):
        source.fetch(FILES)
    assert handler.asked == ["https://m/images.gz"]


@pytest.mark.parametrize("address", ["http://m/a", "file:///etc/hostname", "ftp://m/a", "data:,a"])
def test_the_opener_knows_no_other_scheme(address):
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        https_opener().open(address, timeout=1)


def test_a_proxy_does_not_let_another_scheme_through(monkeypatch):
    monkeypatch.setenv("http_proxy", "https://127.0.0.1:1")
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        https_opener().open("http://m/a", timeout=1)


def test_a_redirect_within_https_is_followed():
    answers = served(CONTENT)
    source, _ = mirror(
        {**answers, "images.gz": (302, {"location": "https://m/there"}, b""), "there": answers["images.gz"]}
    )
    assert source.fetch(FILES) == CONTENT


def test_a_body_that_never_ends_is_cut(tmp_path):
    class Endless(io.RawIOBase):
        served = 0

        def read(self, size=-1, /):
            self.served += size
            return b"\0" * size

    body = Endless()

    class Opener:
        def open(self, fullurl, *, timeout):
            return body

    with pytest.raises(Rejected, match="more than"):
        Mirror("https://m", opener=Opener()).fetch(FILES)
    assert body.served < 10**6


def test_a_trickle_ends_at_the_deadline():
    class Trickle(io.RawIOBase):
        def read(self, size=-1, /):
            time.sleep(0.02)
            return b"\0"

    class Opener:
        def open(self, fullurl, *, timeout):
            return Trickle()

    before = time.monotonic()
    with pytest.raises(Unavailable, match="not complete"):
        Mirror("https://m", opener=Opener(), total_seconds=0.1).fetch(FILES)
    assert time.monotonic() - before < 2


def test_a_call_that_hangs_is_left_behind():
    before = time.monotonic()
    with pytest.raises(Unavailable, match="no answer"):
        within(0.05, lambda: time.sleep(5))
    assert time.monotonic() - before < 2
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def test_control_characters_of_a_mirror_never_reach_the_terminal():
    assert "\x1b" not in downloads.one_line(OSError("bad \x1b[2J"))


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


def test_a_dictionary_of_a_debian_package_loses_its_header(tmp_path, monkeypatch):
    contents = {f"./usr/share/toy/{name}.dz": gzip.compress(b"header" + data) for name, data in CONTENT.items()}
    (tmp_path / "prepared").write_bytes(tar(contents))
    client(tmp_path, "apt-get", "touch toy_1.0_all.deb")
    client(tmp_path, "dpkg-deb", f'cat "{tmp_path / "prepared"}"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert DebianPackage("toy", "/usr/share/toy", dictzip(6)).fetch(FILES) == CONTENT


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
    monkeypatch.setattr(downloads, "FIRST_FILE_SECONDS", 0.2)
    before = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer in 0\.2 s"):
        DebianPackage("toy", "/usr").fetch(FILES)
    assert time.monotonic() - before < 5
