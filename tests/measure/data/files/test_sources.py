"""Sources of data are untrusted: only content that matches its hash is used or kept."""

import gzip

import pytest
from archives import CONTENT, FILES, zipped
from batchscale.measure.data.files.packings import PLAIN, Unavailable, dictzip
from batchscale.measure.data.files.sources import Folder, NoSourceError, obtain, probe_all

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
    announced = []
    obtained = obtain("toy", FILES, [silent, good, never], tmp_path, announced.append)
    assert (obtained.files, obtained.source) == (CONTENT, "b")
    assert announced == ["toy: fetching from a", "toy: fetching from b"]
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
        obtain("toy", FILES, [remote], tmp_path, pytest.fail)
    assert [answer.answers for answer in probe_all(FILES, [remote])] == [False]
    assert remote.asked == 0


def test_every_refusal_is_listed_with_what_to_do(tmp_path):
    cache = tmp_path / "a\n\x1b[2J"
    with pytest.raises(NoSourceError) as caught:
        obtain("toy", FILES, [Remote("a", Unavailable("down")), Remote("b", WRONG)], cache)
    lines = str(caught.value).split("\n")
    assert len(lines) == 5
    assert all(line.isprintable() for line in lines)
    assert lines[0] == "dataset toy: none of 2 sources has it"
    assert lines[1] == "  a: down"
    assert lines[2].startswith("  b: images: ")
    assert "images, labels" in lines[3]


@pytest.mark.parametrize("subfolder", [".", "toy"])
@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zip", zipped)])
def test_a_folder_may_hold_files_plain_or_packed_also_in_a_subfolder(tmp_path, subfolder, suffix, pack):
    write(tmp_path / subfolder, {f"{name}{suffix}": pack(data) for name, data in CONTENT.items()})
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


def test_a_header_in_front_of_a_file_is_no_part_of_it(tmp_path):
    write(tmp_path, {f"{name}.dz": gzip.compress(b"date" + data) for name, data in CONTENT.items()})
    assert Folder(tmp_path, "system", packings=(dictzip(4),)).fetch(FILES) == CONTENT
    with pytest.raises(Unavailable, match="no images in"):
        Folder(tmp_path, "system", packings=(PLAIN,)).fetch(FILES)


def test_a_folder_is_read_no_further_behind_a_header(tmp_path):
    write(tmp_path, {f"{file.name}.dz": gzip.compress(b"h" * 10**6) for file in FILES})
    fetched = Folder(tmp_path, "system", packings=(dictzip(7),)).fetch(FILES)
    assert [len(fetched["images"]), len(fetched["labels"])] == [5001, 101]
