"""The source chain believes no one: only content that matches its hash is used or kept."""

import gzip
import hashlib
import http.client
import io
import os
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from bench import commands
from bench.measure import mirrors, packages, sources, unpacking
from bench.measure.mirrors import Mirror, https_opener, within
from bench.measure.packages import DebianPackage, NpmPackage
from bench.measure.sources import DataFile, Folder, NoSourceError, obtain, probe_all
from bench.measure.unpacking import Rejected, Unavailable, gunzip, read_members

CONTENT = {"images": b"i" * 5000, "labels": b"l" * 100}
FILES = [DataFile(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in CONTENT.items()]
WRONG = {"images": b"x" * 5000, "labels": b"l" * 100}


class Remote:
    """A source that answers with what it is given."""

    network = True

    def __init__(self, name, answer):
        self.name, self.answer, self.asked = name, answer, 0

    def fetch(self, files):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return {file.name: self.answer[file.name] for file in files}

    def probe(self, files):
        self.fetch(files)
        return "answers"


@pytest.fixture(autouse=True)
def _online(monkeypatch):
    monkeypatch.delenv("BATCHSCALE_OFFLINE", raising=False)


def write(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)


def test_the_first_source_that_matches_wins_and_is_kept(tmp_path):
    silent, good, never = Remote("a", Unavailable("down")), Remote("b", CONTENT), Remote("c", CONTENT)
    obtained = obtain("toy", FILES, [silent, good, never], tmp_path)
    assert (obtained.files, obtained.source) == (CONTENT, "b")
    assert never.asked == 0
    assert {path.name for path in tmp_path.iterdir()} == CONTENT.keys()
    assert obtain("toy", FILES, [Folder(tmp_path, "cache"), good], tmp_path).source == "cache"
    assert good.asked == 1


@pytest.mark.parametrize("size", [0, 4999, 5000, 5001])
def test_a_wrong_file_is_named_warned_about_and_never_kept(tmp_path, caplog, size):
    wrong = Remote("bad", {**CONTENT, "images": b"x" * size})
    with pytest.raises(NoSourceError, match="bad: images: "):
        obtain("toy", FILES, [wrong], tmp_path)
    assert "bad turned down: images" in caplog.text
    assert not any(tmp_path.iterdir())


def test_a_damaged_cache_is_replaced_by_the_next_source(tmp_path):
    write(tmp_path, WRONG)
    chain = [Folder(tmp_path, "cache"), Remote("b", CONTENT)]
    assert obtain("toy", FILES, chain, tmp_path).source == "b"
    assert obtain("toy", FILES, chain, tmp_path).source == "cache"


def test_a_cache_that_cannot_be_written_costs_only_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    assert obtain("toy", FILES, [Remote("b", CONTENT)], tmp_path / "file" / "cache").files == CONTENT
    assert "not kept" in caplog.text


def test_offline_asks_no_network_source(tmp_path, monkeypatch):
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")
    remote = Remote("b", CONTENT)
    with pytest.raises(NoSourceError, match="BATCHSCALE_OFFLINE is set"):
        obtain("toy", FILES, [remote], tmp_path)
    assert [answer.answers for answer in probe_all(FILES, [remote])] == [False]
    assert remote.asked == 0


def test_every_refusal_is_listed_with_what_to_do(tmp_path):
    with pytest.raises(NoSourceError) as caught:
        obtain("toy", FILES, [Remote("a", Unavailable("down")), Remote("b", WRONG)], tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "dataset toy: none of 2 sources has it"
    assert lines[1] == "  a: down"
    assert lines[2].startswith("  b: images: ")
    assert "images, labels" in lines[3]


@pytest.mark.parametrize("subfolder", [".", "toy"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_may_hold_files_plain_or_zipped_also_in_a_subfolder(tmp_path, subfolder, zipped):
    content = {f"{k}.gz": gzip.compress(v) for k, v in CONTENT.items()} if zipped else CONTENT
    write(tmp_path / subfolder, content)
    folder = Folder(tmp_path, "named", "toy")
    assert folder.fetch(FILES) == CONTENT
    assert "images" in folder.probe(FILES)


def test_a_subfolder_named_after_the_dataset_comes_before_files_of_another(tmp_path):
    write(tmp_path, WRONG)
    write(tmp_path / "toy", CONTENT)
    assert Folder(tmp_path, "named", "toy").fetch(FILES) == CONTENT


def test_a_folder_is_read_no_further_than_a_file_should_be_long(tmp_path):
    write(tmp_path, {"images": b"i" * 10**6, "labels.gz": gzip.compress(b"l" * 10**6)})
    fetched = Folder(tmp_path, "named").fetch(FILES)
    assert [len(fetched["images"]), len(fetched["labels"])] == [5001, 101]


@pytest.mark.parametrize("cut", [0, 5, 20, -1, -9])
def test_a_cut_gzip_file_is_rejected_by_name(tmp_path, cut):
    whole = gzip.compress(os.urandom(3000))
    with pytest.raises(Rejected, match=r"images\.gz"):
        gunzip(io.BytesIO(whole[:cut] if cut else b"no gzip"), 5000, "images.gz")


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


def tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            else:
                member.type, member.linkname = tarfile.SYMTYPE, data
                archive.addfile(member)
    return buffer.getvalue()


def test_only_named_members_of_an_archive_are_read():
    archive = tar({"../../escape": b"no", "a/images": b"abc", "a/other": b"z" * 1000})
    assert read_members(io.BytesIO(archive), {"a/images": 3}) == {"a/images": b"abc"}


@pytest.mark.parametrize(
    "members",
    [{}, {"a/images": "/etc/passwd"}, {"a/images": b"abcd"}, {"/a/images": b"abc"}, {"b/../a/images": b"abc"}],
    ids=["empty", "link", "too large", "absolute", "through a parent"],
)
def test_an_archive_without_the_member_as_it_should_be_is_rejected(members):
    with pytest.raises(Rejected, match="a/images"):
        read_members(io.BytesIO(tar(members)), {"a/images": 3})


@pytest.mark.parametrize("cut", [100, 513, 1500])
def test_a_cut_archive_is_rejected(cut):
    archive = tar({"a/images": b"a" * 2000})
    with pytest.raises(Rejected):
        read_members(io.BytesIO(archive[:cut]), {"a/images": 2000})


def test_an_archive_that_never_ends_is_cut(monkeypatch):
    monkeypatch.setattr(unpacking, "MOST_ARCHIVE_BYTES", 10_000)
    archive = tar({"other": b"z" * 100_000, "a/images": b"abc"})
    with pytest.raises(Rejected, match="more than 10000 bytes"):
        read_members(io.BytesIO(archive), {"a/images": 3})


def client(folder, name, script):
    """A stand-in for a package client, first on the path."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


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
    monkeypatch.setattr(packages, "FIRST_FILE_SECONDS", 0.2)
    before = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer in 0\.2 s"):
        DebianPackage("toy", "/usr").fetch(FILES)
    assert time.monotonic() - before < 5


def alive(process):
    """Whether a process runs; one that ended but was not waited for does not."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and ") Z " not in status.read_text()


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path):
    client(tmp_path, "hang", f'sleep 20 & echo $! > "{tmp_path / "child"}"; wait')
    with pytest.raises(commands.CommandError, match="no answer"):
        commands.run([str(tmp_path / "hang")], 0.5)
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        if not alive(child):
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


def test_control_characters_of_a_mirror_never_reach_the_terminal():
    assert "\x1b" not in mirrors.one_line(OSError("bad \x1b[2J"))
    assert sources.OFFLINE.startswith("BATCHSCALE_")
