"""Mirrors: HTTPS alone, bounded in size and time, and nothing they say reaches a terminal as it is."""

import gzip
import http.client
import io
import time
import urllib.error
import urllib.request

import pytest
from archives import CONTENT, FILES
from batchscale.measure.data import https_mirrors
from batchscale.measure.data.archives import Rejected, Unavailable
from batchscale.measure.data.https_mirrors import Mirror, https_opener, within


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


def test_control_characters_of_a_mirror_never_reach_the_terminal():
    assert "\x1b" not in https_mirrors.one_line(OSError("bad \x1b[2J"))
