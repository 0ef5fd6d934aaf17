"""Files that a fake data source serves, and archives of them."""

import hashlib
import io
import tarfile
import zipfile

from batchscale.measure.data.files.packings import DataFile

CONTENT = {"images": b"i" * 5000, "labels": b"l" * 100}
FILES = [DataFile(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in CONTENT.items()]


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


def zipped(*contents):
    """A ZIP archive with one member for each content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, data in enumerate(contents):
            archive.writestr(f"../member{number}", data)
    return buffer.getvalue()


def client(folder, name, script):
    """Write a fake client of a package manager into `folder`, which the test puts on the path."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
