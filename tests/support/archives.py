"""Files that a fake data source serves, and archives of them."""

import hashlib
import io
import tarfile

from batchscale.measure.data.datasets import DataFile

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
