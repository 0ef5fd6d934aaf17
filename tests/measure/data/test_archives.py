"""Archives and packed files of strangers: only what was asked for, as large as it should be, or a refusal by name."""

import gzip
import io
import os

import pytest
from archives import tar
from batchscale.measure.data import archives
from batchscale.measure.data.archives import Rejected, gunzip, read_members


@pytest.mark.parametrize("cut", [0, 5, 20, -1, -9])
def test_a_cut_gzip_file_is_rejected_by_name(tmp_path, cut):
    whole = gzip.compress(os.urandom(3000))
    with pytest.raises(Rejected, match=r"images\.gz"):
        gunzip(io.BytesIO(whole[:cut] if cut else b"no gzip"), 5000, "images.gz")


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
    monkeypatch.setattr(archives, "MOST_ARCHIVE_BYTES", 10_000)
    archive = tar({"other": b"z" * 100_000, "a/images": b"abc"})
    with pytest.raises(Rejected, match="more than 10000 bytes"):
        read_members(io.BytesIO(archive), {"a/images": 3})
