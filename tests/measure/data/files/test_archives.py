"""Archives of strangers: nothing is unpacked to disk, no name in them is followed, and no promise is believed."""

import gzip
import io
import os
import zipfile

import pytest
from archives import tar, zipped
from batchscale.measure.data.files import archives
from batchscale.measure.data.files.archives import read_matching, read_members
from batchscale.measure.data.files.packings import Rejected, gunzip, unzip


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


@pytest.mark.parametrize("cut", [0, 5, 30, -1, -30])
def test_a_cut_zip_archive_is_rejected_by_name(cut):
    whole = zipped(os.urandom(3000))
    with pytest.raises(Rejected, match=r"^text\.zip: "):
        unzip(io.BytesIO(whole[:cut] if cut else b"no zip"), 5000, "text.zip")


@pytest.mark.parametrize("count", [0, 2])
def test_a_zip_archive_holds_the_one_file(count):
    with pytest.raises(Rejected, match=f"{count} files in the archive"):
        unzip(io.BytesIO(zipped(*[b"abc"] * count)), 3, "text.zip")


def test_a_zip_bomb_is_read_no_further_than_the_file_should_be_long():
    assert len(unzip(io.BytesIO(zipped(b"0" * 10**7)), 100, "text.zip")) == 101


@pytest.mark.parametrize("at", [-70, 40])
def test_a_zip_archive_with_other_bytes_than_it_was_written_with_is_rejected(at):
    broken = bytearray(zipped(os.urandom(500)))
    broken[at] ^= 0xFF
    with pytest.raises(Rejected):
        unzip(io.BytesIO(broken), 500, "text.zip")


def test_an_encrypted_archive_is_rejected():
    whole = bytearray(zipped(b"abc"))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(mark) + offset] |= 1
    assert zipfile.ZipFile(io.BytesIO(whole)).infolist()[0].flag_bits & 1
    with pytest.raises(Rejected, match="encrypted"):
        unzip(io.BytesIO(whole), 3, "text.zip")


def test_matching_members_come_in_the_order_of_their_names_and_others_are_left():
    archive = tar(
        {"t/b.txt": b"b", "t/link.txt": "/etc/passwd", "t/a.txt": b"a", "x/../t/c.txt": b"no", "t/c.md": b"no"}
    )
    assert list(read_matching(io.BytesIO(archive), r"t/\w+\.txt", 2).items()) == [("t/a.txt", b"a"), ("t/b.txt", b"b")]


def test_matching_members_are_bounded_together():
    archive = tar({f"t/{name}.txt": b"z" * 10 for name in "abc"})
    with pytest.raises(Rejected, match=r"t/c\.txt: 10 bytes in the archive, expected at most 9"):
        read_matching(io.BytesIO(archive), r"t/\w+\.txt", 29)
